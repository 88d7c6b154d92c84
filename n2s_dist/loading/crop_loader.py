"""Batches of noisy crops for a sequence of positions, by DALI where it is installed, else by NumPy: the same bits."""

import importlib.util
from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from n2s_dist.config.schema import ExtraView
from n2s_dist.loading import windowed_order
from n2s_dist.loading.crop_inputs import CropTask, batched, check_crop_size, crop_inputs
from n2s_dist.loading.numpy_pipeline import NumpyCrops
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.encoding import CLEAN
from n2s_dist.noise.specification import parse_training_noise
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils.errors import print_rank0

if TYPE_CHECKING:
    from n2s_dist.loading.crop_pipeline import DaliCrops

_CPU = torch.device("cpu")
# Small batches are made several at a time, in one run of the graph: on a CPU that is busy training, handing
# work from thread to thread costs more than the work itself.
_MAX_TOGETHER, _VALUES_TOGETHER = 16, 2**22


@cache
def has_dali() -> bool:
    """Whether DALI is installed. Where it is not, that is said, once."""
    try:
        there = importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even the folder that it shares with others
        there = False
    if not there:
        print_rank0("NVIDIA DALI is not installed: NumPy makes the crops, the same ones, on the processor")
    return there


class CropLoader:
    """Float32 batches [B, C, S, S] on a device, for a given sequence of positions.

    noise: added to clean tiles; None gives what the tiles hold, clean or noisy. extra_view: with each noisy crop the
    clean one, or one with a second noise, independent and as frozen as the first; batches are then [B, 2, C, S, S],
    the usual one first. turned: whether crops are transposed, as crop_inputs has it. `positions` yields one int64 array
    a batch, all of one length; an endless one makes an endless loader. Raises UserError when a tile is smaller than the
    crop.
    """

    def __init__(
        self,
        shards: ShardSet,
        positions: Iterator[np.ndarray],
        batch_size: int,
        crop_size: int,
        noise: NoiseModel | None,
        seed: int,
        *,
        resample_noise: bool = False,
        device: torch.device = _CPU,
        num_threads: int = 2,
        windows: windowed_order.WindowedOrder | None = None,
        extra_view: ExtraView | None = None,
        turned: bool = True,
    ) -> None:
        check_crop_size(shards, crop_size)
        assert noise is not None or extra_view is None, "only clean tiles can give more than one noisy version"
        assert noise is None or shards.noise is None, "tiles that hold noise get no more of it"
        stored = parse_training_noise(shards.noise).encoding if shards.noise else CLEAN
        values = batch_size * shards.manifest.channels * crop_size**2 * (2 if extra_view else 1)
        together = max(1, min(_MAX_TOGETHER, _VALUES_TOGETHER // values))
        self._batch_size, self._made = batch_size, deque[Tensor]()
        inputs = crop_inputs(
            shards, map(np.concatenate, batched(positions, together)), crop_size, seed,
            noisy=noise is not None, resample_noise=resample_noise, windows=windows, extra_view=extra_view,
            turned=turned,
        )  # fmt: skip
        task = CropTask(together * batch_size, crop_size, noise, stored, extra_view, device, num_threads)
        self._crops = _crops_by(inputs, task)

    def __iter__(self) -> "CropLoader":
        return self

    def __next__(self) -> Tensor:
        if not self._made:
            self._made.extend(self._crops.make().split(self._batch_size))
        return self._made.popleft()


def _crops_by(inputs: Iterator[tuple], task: CropTask) -> "NumpyCrops | DaliCrops":
    """What makes the crops."""
    if not has_dali():
        return NumpyCrops(inputs, task)
    from n2s_dist.loading.crop_pipeline import DaliCrops  # here alone, since DALI is not on every platform

    return DaliCrops(inputs, task)
