"""Tiles stored with their noise in them, so that the machine that trains holds no clean pixel.

    clean tile (uint8) ──► noise, frozen, as the loader would make it ──► 16 bits a value ──► shard
    shard ──► loader: offset + scale * value ──► noisy crop

| noise    | stored as | rounding against the noise's own standard deviation                            |
|----------|-----------|--------------------------------------------------------------------------------|
| gaussian | uint16    | 1e-4 of it at sigma 25/255; values beyond 8 standard deviations are held there |
| poisson  | uint16    | none: whole counts                                                             |
| others   | float16   | 2e-3 of it for gamma at k = 100, at every intensity (a float's error is        |
|          |           | relative)                                                                      |
| several  | float16   | below 1e-2 of it at sigma 5/255, zeta 0.005 and k 200                          |
"""

import numpy as np

from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.frozen import corrupt_tile


def bake(
    noise: NoiseDistribution, tile: np.ndarray, seed: int, image_key: int, row: int, column: int
) -> np.ndarray:  # fmt: skip
    """A stored noisy tile [H, W, C] from a clean one, uint8 [H, W, C], whose corner lies at (row, column).

    Noise is the loader's own for this seed: tiles of one image that overlap agree.
    """
    return noise.encoding.encode(corrupt_tile(noise.of_image(image_key, seed), tile, image_key, row, column, seed))
