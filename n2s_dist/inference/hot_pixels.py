"""Hot and dead pixels: single values that neither noise nor light explains. They are denoised from their neighbors.

A value counts as defective where all of this holds, in stable coordinates, in which the noise is as strong everywhere:

    it sticks out     of the median around it, by more than _REACH of the noise's deviations and of the spread of the 24
                      values around it: so texture counts as noise
    it is isolated    above the ring two pixels away, the 8 values around it hardly rise with it, nor do the 4 nearest
                      on average: a lens spreads what is bright, and so stars stay
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import median_filter

from n2s_dist.inference.arrays import ImageBatch
from n2s_dist.models.image_batches import from_batch, to_batch
from n2s_dist.noise.base import NoiseModel

_REACH = 6.0  # standard deviations
_ROUNDING = 0.29 / 255  # the standard deviation of rounding to 8 bits, which counts as noise as well
# How far the highest of 8 neighbors may rise, and the 4 nearest on average: a share of the height, and by chance.
_HIGHEST, _NEAREST = (0.1, 3.0), (0.05, 1.0)
_ROUNDS = 2  # the first may be told too much noise, for hot pixels look like some
_SMALLEST_SIDE = 5
_AT_ONCE = 2**16  # values whose surroundings are held at a time
_SIGMA_OF_RANKS = 1.04  # half of what lies between the 4th and the 21st of 24 normal values

_OFFSETS = [(row, column) for row in range(-2, 3) for column in range(-2, 3) if (row, column) != (0, 0)]
_DISTANCES = np.array([max(abs(row), abs(column)) for row, column in _OFFSETS])
_IS_NEAREST = np.array([abs(row) + abs(column) == 1 for row, column in _OFFSETS])


def find_defective(image: np.ndarray, noise: NoiseModel, missing: np.ndarray | None = None) -> np.ndarray:
    """Which values of an image are hot or dead: bool [H, W, C], each channel by itself.

    image: float [H, W, C] on the 0-1 scale with this noise. missing: bool of that shape, values that are only filled
    in; they are never found. Images of less than 5 pixels a side have none.
    """
    found = np.zeros(image.shape, bool)
    if min(image.shape[:2]) < _SMALLEST_SIDE:
        return found
    stable = from_batch(noise.stabilize(to_batch(image, torch.device("cpu"))))[0]
    unit = noise.stable_std
    for channel in range(image.shape[-1]):
        y, z = image[..., channel], stable[..., channel]
        places = np.abs(z - median_filter(z, 3, mode="mirror")) > _REACH * unit
        places &= np.abs(y - median_filter(y, 3, mode="mirror")) > _REACH * _ROUNDING
        if missing is not None:
            places &= ~missing[..., channel]
        rows, columns = np.nonzero(places)
        for start in range(0, len(rows), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            here = z, rows[some], columns[some], unit
            kept = _stick_out(*here) & _isolated(*here)
            found[rows[some][kept], columns[some][kept], channel] = True
    return found


def _around(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The 24 values around some places, mirrored at the borders: [K, 24]."""
    down, right = (np.array([offset[axis] for offset in _OFFSETS]) for axis in (0, 1))
    height, width = (side - 1 for side in plane.shape)
    at = (
        height - np.abs(height - np.abs(rows[:, None] + down)),
        width - np.abs(width - np.abs(columns[:, None] + right)),
    )
    return plane[at]


def _stick_out(z: np.ndarray, rows: np.ndarray, columns: np.ndarray, unit: float) -> np.ndarray:
    around = _around(z, rows, columns)
    middle = np.median(around[:, _DISTANCES == 1], axis=1)
    ranked = np.sort(around, axis=1)
    spread = (ranked[:, 20] - ranked[:, 3]) / (2 * _SIGMA_OF_RANKS)
    return np.abs(z[rows, columns] - middle) > _REACH * np.maximum(unit, spread)


def _isolated(z: np.ndarray, rows: np.ndarray, columns: np.ndarray, unit: float) -> np.ndarray:
    around = _around(z, rows, columns)
    ground = np.median(around[:, _DISTANCES == 2], axis=1)
    height = z[rows, columns] - ground
    rises = (around - ground[:, None]) * np.sign(height)[:, None]
    highest, nearest = rises[:, _DISTANCES == 1].max(axis=1), rises[:, _IS_NEAREST].mean(axis=1)
    limits = (share * np.abs(height) + chance * unit for share, chance in (_HIGHEST, _NEAREST))
    return (highest < next(limits)) & (nearest < next(limits))


def fill_by_median(image: np.ndarray, holes: np.ndarray, missing: np.ndarray) -> None:
    """Put the median of the up to 8 neighbors that are there in place of each hole. image: float [H, W, C], changed.

    holes, missing: bool of that shape, holes being among the missing. A hole without neighbors keeps its value.
    """
    for channel in range(image.shape[-1]):
        rows, columns = np.nonzero(holes[..., channel])
        near = _DISTANCES == 1
        values = _around(image[..., channel], rows, columns)[:, near]
        is_there = ~_around(missing[..., channel], rows, columns)[:, near]
        some = is_there.any(axis=1)
        median = np.nanmedian(np.where(is_there, values, np.nan)[some], axis=1)
        image[rows[some], columns[some], channel] = median


def _repair(images: ImageBatch, noises: list[NoiseModel]) -> tuple[ImageBatch, bool]:
    """The same with the defective values found and filled in place, and whether there are more than were known."""
    gaps = np.zeros(images.pixels.shape, bool) if images.missing is None else images.missing
    fresh = np.stack([find_defective(*each) for each in zip(images.pixels, noises, gaps, strict=True)])
    holes, missing = images.repaired | fresh, gaps | fresh
    for image, its_holes, its_missing in zip(images.pixels, holes, missing, strict=True):
        fill_by_median(image, its_holes, its_missing)
    return replace(images, repaired=holes, missing=missing if missing.any() else None), bool(fresh.any())


def with_repairs(
    images: ImageBatch, noises_of: Callable[[ImageBatch], tuple[Any, ...]]
) -> tuple[ImageBatch, tuple[Any, ...]]:
    """Fill hot and dead pixels of images that are to be repaired; returns the images and what `noises_of` says of them.

    noises_of: each image's noise, whether it was estimated, and more. An estimate is made again without what was found.
    """
    said = noises_of(images)
    for _ in range(_ROUNDS if images.repaired is not None else 0):
        images, is_more = _repair(images, said[0])
        if not is_more:
            break
        if said[1]:
            said = noises_of(images)
    return images, said
