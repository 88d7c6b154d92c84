"""The crops of crop_pipeline.py, bit for bit, by NumPy: where there is no DALI.

The order of the steps is the graph's, and so is each step's arithmetic; noise/frozen.py has the noise of both.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch import Tensor

from n2s_dist.loading.crop_inputs import CropTask
from n2s_dist.noise import frozen
from n2s_dist.noise.transfer import to_device

_MATH = frozen.numpy_math()


def make_crop(
    task: CropTask, tile: np.ndarray, corner: np.ndarray, flips: tuple[int, int, bool], keys: list[np.ndarray]
) -> np.ndarray:
    """One crop: float32 [C, S, S], or [2, C, S, S] with an extra view.

    tile: [H, W, C] as it is stored. corner: row and column. flips: left-right, up-down, transpose. keys: uint32
    [C, S, 1] and [C, 1, S] of each noise.
    """
    (row, column), size = corner, task.crop_size
    left_right, up_down, transposed = flips
    crop = tile[row : row + size, column : column + size]
    crop = crop[:: -1 if up_down else 1, :: -1 if left_right else 1]
    crop = np.ascontiguousarray(crop.transpose(2, 1, 0) if transposed else crop.transpose(2, 0, 1))
    made = [
        task.noise.draw(crop, frozen.PixelBits(down, across, _MATH), _MATH)
        for down, across in zip(keys[::2], keys[1::2], strict=True)
        if task.noise
    ]
    if task.noise is None or task.extra_view == "clean":
        made.append(task.stored.decode(crop))
    return np.stack(made) if task.extra_view else made[0]


class NumpyCrops:
    """Crops by NumPy, brought to the device of a task; inputs: what `crop_inputs` yields."""

    def __init__(self, inputs: Iterator[tuple], task: CropTask) -> None:
        self._inputs, self._task = inputs, task
        # NumPy lets go of Python's lock in its loops.
        self._threads = ThreadPoolExecutor(task.num_threads, "crops") if task.num_threads > 1 else None

    def make(self) -> Tensor:
        """The next crops, float32 [B, C, S, S], or [B, 2, C, S, S] with an extra view. Raises StopIteration."""
        tiles, corners, left_right, up_down, transposed, *keys = next(self._inputs)

        def crop(place: int) -> np.ndarray:
            flips = left_right[place], up_down[place], transposed[place]
            return make_crop(self._task, tiles[place], corners[place], flips, [key[place] for key in keys])

        places = range(len(tiles))
        made = self._threads.map(crop, places) if self._threads else map(crop, places)
        return to_device(np.stack(list(made)), self._task.device)
