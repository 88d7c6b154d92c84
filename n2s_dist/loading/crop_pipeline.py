"""Noisy crops by global position: the same DALI graph on the CPU and on the GPU.

    position ──► tile (memory-mapped, zero copy) ──► crop ──► flips, transpose ──► noise ──► [B, C, H, W]
                 sample_order picks tile, place and flips     keyed by the pixel's place in its source image

Noise comes last, where pixels are already few, but its keys go through the same flips: it belongs to
the source image's pixels, so overlapping crops, of one tile or of two, see one noisy version where
they overlap. Nothing has state but the next position.

Methods to compare with may see more than that: the clean crop beside the noisy one, or another noisy one.
numpy_pipeline.py makes the same crops where there is no DALI.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline, do_not_convert
from nvidia.dali.plugin.pytorch import feed_ndarray
from nvidia.dali.tensors import TensorCPU, TensorListCPU
from torch import Tensor

from n2s_dist.config.schema import ExtraView
from n2s_dist.loading.crop_inputs import CropTask
from n2s_dist.loading.dali_math import dali_math
from n2s_dist.noise import frozen
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.encoding import CLEAN, Encoding

_DALI_TYPES = {"uint8": types.UINT8, "uint16": types.UINT16, "float16": types.FLOAT16}
_PREFETCH = 2
# Types and dimensions of what crop_inputs yields after tiles: corner, three flips; keys down and across.
_CROP_INPUTS = [(types.INT32, 1), *[(types.INT32, 0)] * 2, (types.BOOL, 0)]
_KEY_INPUTS = [(types.UINT32, 3)] * 2


@pipeline_def(enable_conditionals=True)
def crop_pipeline(
    source: Any, crop_size: int, noise: NoiseModel | None, device: str, stored: Encoding = CLEAN,
    extra_view: ExtraView | None = None,
):  # fmt: skip
    """Build the graph. device: "cpu" or "gpu"; every operator in it has both backends.

    source: what feeds DALI's external source with `crop_inputs`, tiles as `tile_list` makes them. noise: what to add,
    or None. stored: how tiles hold values on the 0-1 scale. extra_view: what to make of each crop besides, if noise is
    added.
    """
    noises = 0 if noise is None else 2 if extra_view == "noisy" else 1
    inputs = [(_DALI_TYPES[stored.dtype], 3), *_CROP_INPUTS, *_KEY_INPUTS * noises]
    tile, corner, left_right, up_down, transposed, *keys = fn.external_source(
        source=source,
        num_outputs=len(inputs),
        batch=True,
        dtype=[dtype for dtype, _ in inputs],
        ndim=[ndim for _, ndim in inputs],
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


def tile_list(tiles: list[np.ndarray]) -> TensorListCPU:
    """Tiles, each [H, W, C], for DALI's external source, which takes a list of arrays one by one, in Python."""
    listed = [TensorCPU(tile) for tile in tiles]
    return TensorListCPU(listed, "HWC", contiguous=False)  # type: ignore[call-overload]  # DALI's stubs lack it


class DaliCrops:
    """Crops by DALI, on the device of a task; inputs: what `crop_inputs` yields."""

    def __init__(self, inputs: Iterator[tuple], task: CropTask) -> None:
        # DALI reads the host arrays in place while batches are in flight: keep them until it has done so.
        in_flight: deque = deque(maxlen=2 * _PREFETCH + 1)

        def source() -> tuple:
            tiles, *arrays = next(inputs)
            in_flight.append((tile_list(tiles), *arrays))
            return in_flight[-1]

        self._device = task.device
        on_gpu = task.device.type == "cuda"
        self._pipeline: Pipeline = crop_pipeline(
            source, task.crop_size, task.noise, "gpu" if on_gpu else "cpu", task.stored, task.extra_view,
            batch_size=task.batch_size, num_threads=task.num_threads,
            device_id=(task.device.index or 0) if on_gpu else None, prefetch_queue_depth=_PREFETCH,
        )  # fmt: skip
        self._pipeline.build()

    def make(self) -> Tensor:
        """The next crops, float32 [B, C, S, S], or [B, 2, C, S, S] with an extra view. Raises StopIteration."""
        return self._run_gpu() if self._device.type == "cuda" else self._run_cpu()

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
