"""How noisy images are made of clean ones, and by what name each way goes in every row of the results."""

from typing import NamedTuple

import numpy as np

from n2s_dist.evaluation.benchmarks import EIGHT_BIT_INPUT, OWN_DEPTH, Benchmark, Task
from n2s_dist.evaluation.noisy_files import read_shown
from n2s_dist.images.eight_bit import read_image, to_uint8
from n2s_dist.images.files import ImageFile
from n2s_dist.images.scale import Scale
from n2s_dist.noise.base import NoiseModel
from n2s_dist.utils.hashing import frozen_rng, name_key

MADE = ("float", EIGHT_BIT_INPUT)  # of noisy images that are made of clean ones
PROTOCOLS = {
    "float": "noise neither clipped nor quantised, estimate clamped to [0, 1], PSNR per image, then the mean",
    EIGHT_BIT_INPUT:
        "noisy image clipped and rounded to 8 bits, estimate clamped to [0, 1], PSNR per image, then mean",
    OWN_DEPTH: "noisy files at their own depth, estimate clamped to [0, 1], PSNR per image, then the mean",
}  # fmt: skip
_EIGHT_BITS = Scale(0, 255)


class ImagePair(NamedTuple):
    """An image and its noisy version.

    clean: [H, W, C] of the file's type. scale: which of those values are 0 and 1. noisy: float32 [H, W, C] on the 0-1
    scale.
    """

    clean: np.ndarray
    scale: Scale
    noisy: np.ndarray


def describe(names: list[str]) -> str:
    """The protocols that were used, each with what it says."""
    return "; ".join(f"{name}: {PROTOCOLS[name]}" for name in PROTOCOLS if name in names)


def read_pair(task: Task, noise: NoiseModel | None, seed: int, source: Benchmark) -> ImagePair:
    """A task's clean image and its noisy version.

    The clean image of a task without truth is the noisy one. Noise depends on the seed and the names of benchmark and
    image alone. noise: None where all tasks have noisy versions.
    """
    clean, scale = _read(task.image, source)
    if task.noisy is not None:
        given, its = _read(task.noisy, source) if task.has_truth else (clean, scale)
        return ImagePair(clean, scale, its.to_unit(given).astype(np.float32))
    assert noise is not None
    noisy = noise.corrupt(clean / 255.0, frozen_rng(seed, *map(name_key, task.name)))
    if source.protocol == EIGHT_BIT_INPUT:
        noisy = to_uint8(noisy) / 255.0
    return ImagePair(clean, scale, noisy.astype(np.float32))


def _read(image: ImageFile, source: Benchmark) -> tuple[np.ndarray, Scale]:
    if source.protocol == OWN_DEPTH:
        return read_shown(image, source.scale)
    return read_image(image), _EIGHT_BITS


def clean_picture(task: Task, source: Benchmark) -> np.ndarray:
    """A task's clean image in 8 bits, [H, W, C]."""
    clean, scale = _read(task.image, source)
    return clean if clean.dtype == np.uint8 else to_uint8(scale.to_unit(clean))
