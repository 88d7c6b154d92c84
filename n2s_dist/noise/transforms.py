"""Transforms that several families share: Anscombe's and its inverse, and differences that show noise alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor

# Noise is compared where an image is brighter than the first of these, fully from the second on: black pixels have no
# Gamma noise and few photons. The first is half an 8-bit level.
DARK, DIM = 0.5 / 255, 0.1
_NORMAL_MAD = 0.6745  # median of |n|, n ~ N(0, 1)


def black_anscombe() -> float:
    """Anscombe's transform of zero counts."""
    return 2 * (3 / 8) ** 0.5


def inverse_anscombe(d: Tensor) -> Tensor:
    """Counts whose Anscombe transform has mean d: the exact unbiased inverse in closed form (Makitalo & Foi 2011).

    Zero counts transform to 2 sqrt(3/8), below which there is nothing to invert.
    """
    d = d.clamp(min=2 * math.sqrt(3 / 8))
    root = math.sqrt(3 / 2)
    counts = d**2 / 4 + root / (4 * d) - 11 / (8 * d**2) + 5 * root / (8 * d**3) - 1 / 8
    return counts.clamp(min=0)


def haar(pieces: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute diagonal Haar coefficients of 2 x 2 pixels, and their means, of images [..., H, W]."""
    a, b, c, d = (
        pieces[..., i::2, j::2][..., : pieces.shape[-2] // 2, : pieces.shape[-1] // 2] for i in (0, 1) for j in (0, 1)
    )
    return (a - b - c + d).abs() / 2, (a + b + c + d) / 4


def spread(deviations: Tensor) -> float:
    """The variance of noise, from its absolute deviations' median (Donoho & Johnstone 1994); above 0."""
    return max(float((deviations.median() / _NORMAL_MAD) ** 2), 1e-8)
