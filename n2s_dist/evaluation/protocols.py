"""How noisy images are made of clean ones, and by what name each way goes in every row of the results."""

import numpy as np

from n2s_dist.evaluation.benchmarks import Task
from n2s_dist.images.eight_bit import read_image, to_uint8
from n2s_dist.noise.base import NoiseModel
from n2s_dist.utils.hashing import frozen_rng, name_key

PROTOCOLS = {
    "float": "noise neither clipped nor quantised, estimate clamped to [0, 1], PSNR per image, then the mean",
    "uint8_input": "noisy image clipped and rounded to 8 bits, estimate clamped to [0, 1], PSNR per image, then mean",
}


def describe(names: list[str]) -> str:
    """The protocols that were used, each with what it says."""
    return "; ".join(f"{name}: {PROTOCOLS[name]}" for name in PROTOCOLS if name in names)


def read_pair(task: Task, noise: NoiseModel | None, seed: int, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """A task's clean image, uint8 [H, W, C], and its noisy version, float32 on the 0-1 scale.

    The clean image of a task without truth is the noisy one. Noise depends on the seed and the names of benchmark and
    image alone. noise: None where all tasks have noisy versions.
    """
    pixels = read_image(task.image)
    if task.noisy is not None:
        given = read_image(task.noisy) if task.has_truth else pixels
        return pixels, (given / 255.0).astype(np.float32)
    assert noise is not None
    noisy = noise.corrupt(pixels / 255.0, frozen_rng(seed, *map(name_key, task.name)))
    if protocol == "uint8_input":
        noisy = to_uint8(noisy) / 255.0
    return pixels, noisy.astype(np.float32)
