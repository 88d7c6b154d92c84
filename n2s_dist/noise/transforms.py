"""Inverses of variance-stabilizing transforms, which several families share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor


def inverse_anscombe(d: Tensor) -> Tensor:
    """Counts whose Anscombe transform has mean d: the exact unbiased inverse in closed form (Makitalo & Foi 2011).

    Zero counts transform to 2 sqrt(3/8), below which there is nothing to invert.
    """
    d = d.clamp(min=2 * math.sqrt(3 / 8))
    root = math.sqrt(3 / 2)
    counts = d**2 / 4 + root / (4 * d) - 11 / (8 * d**2) + 5 * root / (8 * d**3) - 1 / 8
    return counts.clamp(min=0)
