"""PSNR of a network on photographs that scikit-image's wheel holds: the same figures on every machine, to rounding.

They are recorded where a network is shipped, and any installation can be compared with them.
"""

import math
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

from n2s_dist.inference.tiling import denoise_whole
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.specification import format_noise, parse_noise
from n2s_dist.utils.hashing import frozen_rng, name_key

PHOTOGRAPHS = ("astronaut", "chelsea")
_SIDE = 192  # pixels, from the middle
_NOISES = ("gaussian:25", "gaussian:50", "poisson:0.01", "poisson:0.05", "gamma:100", "gamma:50")


def photograph(name: str, channels: int) -> np.ndarray:
    """The middle of a photograph: float64 [H, W, channels] on the 0-1 scale, gray by ITU-R 601 luma."""
    image = Image.fromarray(getattr(skimage.data, name)()).convert("L" if channels == 1 else "RGB")
    left, top = (image.width - _SIDE) // 2, (image.height - _SIDE) // 2
    pixels = np.asarray(image.crop((left, top, left + _SIDE, top + _SIDE))) / 255
    return pixels.reshape(_SIDE, _SIDE, channels)


def noises(aim: NoiseDistribution) -> list[NoiseModel]:
    """What to measure a network at: the noise it is for, or what a table of results has of its ranges."""
    if aim.is_single:
        return [aim.single]
    return [noise for noise in map(parse_noise, _NOISES) if aim.holds(noise)]


def measure_photographs(model: ScoreModel, channels: int, aim: NoiseDistribution) -> list[dict[str, Any]]:
    """Rows {photograph, noise, psnr_noisy_db, psnr_db}; the noise is frozen, estimates are clamped to [0, 1]."""
    rows = []
    for noise in noises(aim):
        for name in PHOTOGRAPHS:
            clean = photograph(name, channels)
            noisy = noise.corrupt(clean, frozen_rng(0, name_key(name)))
            estimate = np.clip(denoise_whole(model, noisy, noise), 0, 1)
            found = {"psnr_noisy_db": psnr_db(clean, noisy), "psnr_db": psnr_db(clean, estimate)}
            rows.append({"photograph": name, "noise": format_noise(noise), **found})
    return rows


def largest_difference_db(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """Between the denoised PSNR of two measurements; infinite when they are not of the same photographs and noises."""
    if [(row["photograph"], row["noise"]) for row in rows] != [(row["photograph"], row["noise"]) for row in others]:
        return math.inf
    return max(abs(row["psnr_db"] - other["psnr_db"]) for row, other in zip(rows, others, strict=True))
