"""Noisy crops by global position: the same DALI graph on the CPU and on the GPU.

    position ──► tile (memory-mapped, zero copy) ──► crop ──► flips, transpose ──► noise ──► [B, C, H, W]
                 sample_order picks tile, place and flips     keyed by the pixel's place in its source image

Noise comes last, where pixels are already few, but its keys go through the same flips: it belongs to
the source image's pixels, so overlapping crops, of one tile or of two, see one noisy version where
they overlap. Nothing has state but the next position.

Methods to compare with may see more than that: the clean crop beside the noisy one, or another noisy one.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline, do_not_convert
from nvidia.dali.plugin.pytorch import feed_ndarray
from torch import Tensor

from n2s_dist.config.schema import ExtraView
from n2s_dist.loading import sample_order, windowed_order
from n2s_dist.loading.dali_math import dali_math
from n2s_dist.loading.sample_order import order_blocks
from n2s_dist.noise import frozen
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.encoding import CLEAN, Encoding
from n2s_dist.noise.specification import format_noise, parse_training_noise
from n2s_dist.shards.reader import Sample, ShardSet
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError

_CPU = torch.device("cpu")
_DALI_TYPES = {"uint8": types.UINT8, "uint16": types.UINT16, "float16": types.FLOAT16}
_PREFETCH = 2
# Small batches are made several at a time, in one run of the graph: on a CPU that is busy training, handing
# work from thread to thread costs more than the work itself.
_MAX_TOGETHER, _VALUES_TOGETHER = 16, 2**22
# Types, dimensions and layouts of what crop_inputs yields after tiles: corner, three flips; keys down and across.
_CROP_INPUTS = [(types.INT32, 1, ""), *[(types.INT32, 0, "")] * 2, (types.BOOL, 0, "")]
_KEY_INPUTS = [(types.UINT32, 3, "")] * 2


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
) -> Iterator[tuple]:
    """What the graph needs for each batch of global positions; a pure function of (seed, position).

    Yields tiles (views, [H, W, C]), crop corners int32 [B, 2], flips left-right, up-down int32 [B],
    transpose bool [B] and, if noisy, noise keys along the crop's two sides uint32 [B, C, S, 1] and [B, C, 1, S],
    followed by those of a second noise where that is what the graph makes beside the first.
    `windows` takes the place of the whole set's shuffle.
    Order is worked out for many batches at a time, where NumPy's overhead per call no longer counts.
    """
    for block in order_blocks(positions):
        batch_size, at = len(block[0]), np.concatenate(block)
        index = windows.sample_index(at) if windows else sample_order.sample_index(seed, at, len(shards))
        samples = shards.take(index)
        choice = sample_order.crop_choice(seed, at)
        places = np.array([sample.tile.shape[:2] for sample in samples], np.uint64) - np.uint64(crop_size - 1)
        corners = (choice[:, :2] % places).astype(np.int32)
        left_right, up_down, transposed = flips = choice[:, 2:].T & np.uint64(1) == 1

        tiles = [sample.tile for sample in samples]
        arrays = [corners, left_right.astype(np.int32), up_down.astype(np.int32), transposed.copy()]
        if noisy:
            image_keys = np.array([sample.image_key for sample in samples], np.uint64)
            if resample_noise:
                image_keys = hashing.hash64(image_keys, at)
            arrays += crop_keys(samples, image_keys, corners, flips, crop_size, seed)
            if extra_view == "noisy":
                second = hashing.hash64(image_keys, hashing.STREAM_SECOND_NOISE)
                arrays += crop_keys(samples, second, corners, flips, crop_size, seed)
        for begin in range(0, len(at), batch_size):
            part = slice(begin, begin + batch_size)
            yield tiles[part], *(array[part] for array in arrays)


def crop_keys(
    samples: list[Sample], image_keys: np.ndarray, corners: np.ndarray, flips: np.ndarray, crop_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Noise keys along the two sides of crops as they will lie after flips: uint32 [B, C, S, 1] and [B, C, 1, S].

    image_keys: uint64 [B], whose noise it is. corners: int [B, 2] in the tiles. flips: bool [3, B], left-right,
    up-down, transpose.
    """
    left_right, up_down, transposed = flips
    pixels = np.arange(crop_size)
    rows, columns = (corners + np.array([(sample.row, sample.column) for sample in samples])).T
    rows = rows[:, None] + np.where(up_down[:, None], pixels[::-1], pixels)
    columns = columns[:, None] + np.where(left_right[:, None], pixels[::-1], pixels)
    channels = samples[0].tile.shape[2]
    row_keys, column_keys = frozen.pixel_keys(image_keys, seed, rows, columns, channels)
    swap = transposed[:, None, None]
    down, across = np.where(swap, column_keys, row_keys), np.where(swap, row_keys, column_keys)
    return down[:, :, :, None], across[:, :, None, :]


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


@pipeline_def(enable_conditionals=True)
def crop_pipeline(
    source: Any, crop_size: int, noise: NoiseModel | None, device: str, stored: Encoding = CLEAN,
    extra_view: ExtraView | None = None,
):  # fmt: skip
    """Build the graph. device: "cpu" or "gpu"; every operator in it has both backends.

    source: what feeds DALI's external source with `crop_inputs`. noise: what to add, or None. stored:
    how tiles hold values on the 0-1 scale. extra_view: what to make of each crop besides, if noise is added.
    """
    noises = 0 if noise is None else 2 if extra_view == "noisy" else 1
    inputs = [(_DALI_TYPES[stored.dtype], 3, "HWC"), *_CROP_INPUTS, *_KEY_INPUTS * noises]
    tile, corner, left_right, up_down, transposed, *keys = fn.external_source(
        source=source,
        num_outputs=len(inputs),
        batch=True,
        dtype=[dtype for dtype, _, _ in inputs],
        ndim=[ndim for _, ndim, _ in inputs],
        layout=[layout for _, _, layout in inputs],
        no_copy=True,
    )
    # Cut on the host, so that crops cross the bus to a GPU, and not whole tiles.
    crop = fn.slice(tile, start=corner, shape=[crop_size, crop_size], axes=[0, 1])
    if device == "gpu":
        crop, keys = crop.gpu(), [key.gpu() for key in keys]
    if stored.dtype == "float16":
        crop = fn.cast(crop, dtype=types.FLOAT)  # which flips, as float16 does not
    crop = fn.flip(crop, horizontal=left_right, vertical=up_down)
    if transposed:
        crop = fn.transpose(crop, perm=[2, 1, 0], transpose_layout=False)
    else:
        crop = fn.transpose(crop, perm=[2, 0, 1], transpose_layout=False)
    made = [do_not_convert(_corrupt)(noise, crop, *keys[2 * i : 2 * i + 2]) for i in range(noises)]
    if noise is None or extra_view == "clean":
        made.append(fn.cast(crop, dtype=types.FLOAT) * stored.scale + stored.offset)
    return fn.stack(*made) if extra_view else made[0]


def _corrupt(noise: NoiseModel, crop: Any, down_keys: Any, across_keys: Any) -> Any:
    math = dali_math()
    return noise.draw(crop, frozen.PixelBits(down_keys, across_keys, math), math)


class CropLoader:
    """Float32 batches [B, C, S, S] on a device, for a given sequence of positions.

    noise: added to clean tiles; None gives what the tiles hold, clean or noisy. extra_view: with each noisy crop the
    clean one, or one with a second noise, independent and as frozen as the first; batches are then [B, 2, C, S, S],
    the usual one first. `positions` yields one int64 array a batch, all of one length; an endless one makes an
    endless loader. Raises UserError when a tile is smaller than the crop.
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
    ) -> None:
        check_crop_size(shards, crop_size)
        assert noise is not None or extra_view is None, "only clean tiles can give more than one noisy version"
        assert noise is None or shards.noise is None, "tiles that hold noise get no more of it"
        stored = parse_training_noise(shards.noise).encoding if shards.noise else CLEAN
        values = batch_size * shards.manifest.channels * crop_size**2 * (2 if extra_view else 1)
        together = max(1, min(_MAX_TOGETHER, _VALUES_TOGETHER // values))
        self._device, self._batch_size, self._made = device, batch_size, deque[Tensor]()
        inputs = crop_inputs(
            shards, map(np.concatenate, batched(positions, together)), crop_size, seed,
            noisy=noise is not None, resample_noise=resample_noise, windows=windows, extra_view=extra_view,
        )  # fmt: skip
        # DALI reads the host arrays in place while batches are in flight: keep them until it has done so.
        in_flight: deque = deque(maxlen=2 * _PREFETCH + 1)

        def source() -> tuple:
            in_flight.append(next(inputs))
            return in_flight[-1]

        on_gpu = device.type == "cuda"
        self._pipeline: Pipeline = crop_pipeline(
            source, crop_size, noise, "gpu" if on_gpu else "cpu", stored, extra_view,
            batch_size=together * batch_size, num_threads=num_threads,
            device_id=(device.index or 0) if on_gpu else None, prefetch_queue_depth=_PREFETCH,
        )  # fmt: skip
        self._pipeline.build()

    def __iter__(self) -> "CropLoader":
        return self

    def __next__(self) -> Tensor:
        if not self._made:
            self._made.extend(
                (self._run_gpu() if self._device.type == "cuda" else self._run_cpu()).split(self._batch_size)
            )
        return self._made.popleft()

    def _run_cpu(self) -> Tensor:
        """The graph's next crops, in its own memory: a copy would take as long as all that went before it."""
        (made,) = self._pipeline.run()
        return torch.from_dlpack(made.as_tensor())  # owns that memory until its last reference goes

    def _run_gpu(self) -> Tensor:
        """A copy of the graph's next crops, all in the order of PyTorch's stream, so that the host waits for nothing.

        Work in that stream may outlive the last reference to DALI's memory; and to give that memory back from Python
        synchronises the device, which nothing may do while a CUDA graph is captured.
        """
        stream = torch.cuda.current_stream(self._device)
        (made,) = self._pipeline.run(stream)
        crops = made.as_tensor()
        return feed_ndarray(crops, torch.empty(crops.shape(), device=self._device), cuda_stream=stream)
