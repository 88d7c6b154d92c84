"""Mixed precision: what a device calculates in."""

import torch

from n2s_dist.config.schema import Precision
from n2s_dist.utils.errors import UserError


def choose_precision(wanted: str) -> Precision:
    """What train.mixed_precision means on this machine.

    A CPU without instructions for bf16 can emulate it, slower than float32: auto leaves it alone there.
    Raises UserError for a precision that the device does not have.
    """
    on_gpu = torch.cuda.is_available()
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
