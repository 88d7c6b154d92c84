"""Gaussian kernels of unit energy, and arrays or tensors that they blur: what correlates noise between neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_REACH = 4.0  # standard deviations of the kernel, beyond which it is cut off


def radius(width: float) -> int:
    """Pixels that a kernel of this width reaches to each side."""
    return math.ceil(_REACH * width)


def kernel(width: float, reach: int | None = None) -> np.ndarray:
    """A Gaussian of this standard deviation in pixels along one axis, of unit energy: float64 [2 R + 1].

    reach: R, at least radius(width), which it is by default; what is further out than that is 0.
    """
    own = radius(width)
    reach = own if reach is None else reach
    taps = np.zeros(2 * reach + 1)
    at = np.arange(-own, own + 1)
    taps[reach - own : reach + own + 1] = np.exp(-0.5 * (at / width) ** 2) if width else 1.0
    return taps / np.sqrt(np.sum(taps**2))


def autocorrelation(width: float, lags: Sequence[int]) -> list[float]:
    """How alike noise of this width is along one axis at distances of some pixels, all above 0."""
    taps = kernel(width, max(radius(width), *lags))
    return [float((taps[lag:] * taps[:-lag]).sum()) for lag in lags]


def coarse_strength(across: float, down: float | None = None) -> float:
    """How many times as strong as white noise of its standard deviation such noise is over many pixels, at least 1.

    across, down: widths along rows and down columns; None is the same.
    """
    sums = [float(np.sum(kernel(width))) for width in (across, across if down is None else down)]
    return sums[0] * sums[1]


def blur(white: Any, taps: Sequence[Any] | np.ndarray, across: Sequence[Any] | np.ndarray | None = None) -> Any:
    """Filter the last two axes [.., H + 2 R, W + 2 R] with a kernel of 2 R + 1 taps along each: [.., H, W].

    across: the taps along rows where those down columns are others. Arrays or tensors; taps may be tensors
    [B, 1, 1, 1]. Every pixel takes the same additions in the same order, so pieces of one field agree to the last bit.
    """
    reach = len(taps) - 1
    height, width = white.shape[-2] - reach, white.shape[-1] - reach
    rows = sum(tap * white[..., i : i + height, :] for i, tap in enumerate(taps))
    return sum(tap * rows[..., i : i + width] for i, tap in enumerate(taps if across is None else across))
