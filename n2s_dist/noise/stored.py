"""Tiles stored with their noise in them, so that the machine that trains holds no clean pixel.

    clean tile (uint8) ──► noise, frozen, as the loader would make it ──► 16 bits a value ──► shard
    shard ──► loader: offset + scale * value ──► noisy crop

| noise    | stored as | rounding against the noise's own standard deviation                            |
|----------|-----------|--------------------------------------------------------------------------------|
| gaussian | uint16    | 1e-4 of it at sigma 25/255; values beyond 8 standard deviations are held there |
| poisson  | uint16    | none: whole counts                                                             |
| gamma    | float16   | 2e-3 of it at k = 100, at every intensity (a float's error is relative)        |
| several  | float16   | below 1e-2 of it at sigma 5/255, zeta 0.005 and k 200                          |
"""

from dataclasses import dataclass

import numpy as np

from n2s_dist.noise.frozen import corrupt_tile
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.mixtures import Mixture, TrainingNoise
from n2s_dist.noise.poisson import Poisson

_LEVELS = 65535
_REACH = 8.0  # standard deviations


@dataclass(frozen=True)
class Encoding:
    """A noisy value y on the 0-1 scale is stored as (y - offset) / scale in dtype."""

    dtype: str
    scale: float
    offset: float

    def encode(self, noisy: np.ndarray) -> np.ndarray:
        stored = (noisy.astype(np.float64) - self.offset) / self.scale
        return (np.clip(np.round(stored), 0, _LEVELS) if self.dtype == "uint16" else stored).astype(self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """float32, the arithmetic of the loader's graph."""
        return stored.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)


CLEAN = Encoding("uint8", 1 / 255, 0.0)


def encoding(noise: TrainingNoise) -> Encoding:
    """How tiles with this noise are stored."""
    match noise:
        case Gaussian(sigma):
            return Encoding("uint16", (1 + 2 * _REACH * sigma) / _LEVELS, -_REACH * sigma)
        case Poisson(zeta):
            return Encoding("uint16", zeta, 0.0)
        case Gamma() | Mixture():
            return Encoding("float16", 1.0, 0.0)


def bake(noise: TrainingNoise, tile: np.ndarray, seed: int, image_key: int, row: int, column: int) -> np.ndarray:
    """A stored noisy tile [H, W, C] from a clean one, uint8 [H, W, C], whose corner lies at (row, column).

    Noise is the loader's own for this seed: tiles of one image that overlap agree.
    """
    own = noise.of_image(image_key, seed) if isinstance(noise, Mixture) else noise
    return encoding(noise).encode(corrupt_tile(own, tile, image_key, row, column, seed))
