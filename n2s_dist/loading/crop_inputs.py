"""What makes the crop at each global position: its tile, its place, its flips and the keys of its noise.

crop_pipeline.py and numpy_pipeline.py make crops of these, one by DALI, the other by NumPy; crop_loader.py chooses.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from n2s_dist.config.schema import ExtraView
from n2s_dist.loading import sample_order, windowed_order
from n2s_dist.loading.crop_keys import crop_keys
from n2s_dist.loading.sample_order import order_blocks
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.encoding import Encoding
from n2s_dist.noise.specification import format_noise, parse_training_noise
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError


@dataclass(frozen=True)
class CropTask:
    """What becomes of `crop_inputs`.

    Args:
        batch_size: crops that are made at a time
        crop_size: their side, in pixels
        noise: what to add, or None
        stored: how tiles hold values on the 0-1 scale
        extra_view: what to make of each crop besides, if noise is added
        device: where crops go
        num_threads: that make them on a CPU
    """

    batch_size: int
    crop_size: int
    noise: NoiseModel | None
    stored: Encoding
    extra_view: ExtraView | None
    device: torch.device
    num_threads: int


def batched(items: Iterable[np.ndarray], count: int) -> Iterator[list[np.ndarray]]:
    """Lists of `count` consecutive items; the last may be shorter (itertools.batched of Python 3.12)."""
    items = iter(items)
    while block := list(islice(items, count)):
        yield block


def crop_inputs(
    shards: ShardSet,
    positions: Iterable[np.ndarray],
    crop_size: int,
    seed: int,
    *,
    noisy: bool = True,
    resample_noise: bool = False,
    windows: windowed_order.WindowedOrder | None = None,
    extra_view: ExtraView | None = None,
    turned: bool = True,
) -> Iterator[tuple]:
    """What a pipeline needs for each batch of global positions; a pure function of (seed, position).

    Yields tiles (views, [H, W, C]), crop corners int32 [B, 2], flips left-right, up-down int32 [B],
    transpose bool [B] and, if noisy, noise keys along the crop's two sides uint32 [B, C, S, 1] and [B, C, 1, S],
    followed by those of a second noise where that is made beside the first.
    `windows` takes the place of the whole set's shuffle. turned: whether crops are transposed, half of them: not where
    rows of the noise are unlike columns.
    Order is worked out for many batches at a time, where NumPy's overhead per call no longer counts.
    """
    for block in order_blocks(positions):
        batch_size, at = len(block[0]), np.concatenate(block)
        index = windows.sample_index(at) if windows else sample_order.sample_index(seed, at, len(shards))
        samples = shards.take(index)
        choice = sample_order.crop_choice(seed, at)
        places = samples.sizes.astype(np.uint64) - np.uint64(crop_size - 1)
        corners = (choice[:, :2] % places).astype(np.int32)
        left_right, up_down, transposed = flips = choice[:, 2:].T & np.uint64(1) == 1
        transposed &= turned

        arrays = [corners, left_right.astype(np.int32), up_down.astype(np.int32), transposed.copy()]
        if noisy:
            image_keys = hashing.hash64(samples.image_keys, at) if resample_noise else samples.image_keys
            origins = samples.places + corners
            arrays += crop_keys(image_keys, origins, flips, crop_size, shards.manifest.channels, seed)
            if extra_view == "noisy":
                second = hashing.hash64(image_keys, hashing.STREAM_SECOND_NOISE)
                arrays += crop_keys(second, origins, flips, crop_size, shards.manifest.channels, seed)
        for begin in range(0, len(at), batch_size):
            part = slice(begin, begin + batch_size)
            yield samples.tiles[part], *(array[part] for array in arrays)


def check_crop_size(shards: ShardSet, crop_size: int) -> None:
    """UserError when some tile is smaller than the crop."""
    smallest = min(shards.split.min_height, shards.split.min_width)
    if crop_size > smallest:
        raise UserError(
            f"data.crop_size is {crop_size}, but {shards.folder} holds a tile with a side of {smallest} pixels: "
            f"crop at most {smallest}, or build shards from larger images"
        )


def check_noise(shards: ShardSet, noise: str, resample_noise: bool) -> None:
    """UserError when tiles do not hold the noise that a run asks for, or were to get it anew each time."""
    wanted = parse_training_noise(noise)
    what = format_noise(wanted.single) if wanted.is_single else "noise of several levels"
    if shards.noise is None and wanted.is_stored_only:
        raise UserError(
            f"{shards.folder} holds clean tiles, and {what} is stored with the tiles: "
            f"build them with n2s build-shards --noise {noise}"
        )
    if shards.noise is None:
        return
    if parse_training_noise(shards.noise) != wanted:
        raise UserError(f"{shards.folder} holds tiles with noise {shards.noise}, not {noise}: say so, or build others")
    if resample_noise:
        raise UserError(f"data.resample_noise is true, but {shards.folder} holds tiles with their noise in them")
