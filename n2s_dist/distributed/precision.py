"""What a device calculates in: mixed precision in training, all of float32 where small differences count."""

import contextlib
import threading
from typing import Any

import torch

from n2s_dist.config.schema import Precision
from n2s_dist.utils.errors import UserError


def choose_precision(wanted: str, on_gpu: bool) -> Precision:
    """What train.mixed_precision means on this machine's GPU, or on its processor.

    A CPU without instructions for bf16 can emulate it, slower than float32: auto leaves it alone there.
    Raises UserError for a precision that the device does not have.
    """
    if wanted == "fp16" and not on_gpu:
        raise UserError("train.mixed_precision fp16 needs a GPU: use auto, bf16 or no on this machine")
    if wanted in ("no", "fp16"):
        return wanted  # type: ignore[return-value]
    if on_gpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bf16" and not native:
            raise UserError("train.mixed_precision bf16 is not supported by this GPU: use auto, fp16 or no")
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native or wanted == "bf16" else "no"


_CONVOLUTIONS: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]


class _FullPrecision(contextlib.ContextDecorator):
    """Convolutions of float32 on a GPU keep all 24 bits in here. PyTorch's default rounds their inputs to 11 (TF32).

    That rounding moves a PSNR by 0.001 dB, but an estimated noise level by 1 % and a posterior's deviation, which is
    made from small differences, by 3 to 15 %. The process has one such setting: the last thread to leave restores it.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, ""

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = _CONVOLUTIONS.fp32_precision
                _CONVOLUTIONS.fp32_precision = "ieee"
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _CONVOLUTIONS.fp32_precision = self._before


full_precision = _FullPrecision()
