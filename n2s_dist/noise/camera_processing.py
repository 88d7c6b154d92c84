"""What cameras do to a developed image to hide its noise and to look crisp: denoising, and sharpening.

    linear RGB ──► luma, its noise reduced where no edge is ──► with smoothed chroma ──► tone curve ──► sharpened luma

Noise that went through this is correlated over pixels: little is left of it from pixel to pixel, most of it at coarse
scales. Beyond its border an image goes on mirrored.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

LUMA = np.array([0.2126, 0.7152, 0.0722])  # of linear sRGB (IEC 61966-2-1)


def with_luma(color: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A color image [H, W, 3] whose luma [H, W] is changed, and its chroma not."""
    luma = color @ LUMA
    return color + (change(luma) - luma)[..., None]


def guided_filter(luma: np.ndarray, radius: int, variance: np.ndarray) -> np.ndarray:
    """He, Sun & Tang 2010, an image [H, W] being its own guide: smooth where it varies less than `variance`.

    radius: of its square windows, in pixels. variance: their epsilon, of each pixel, [H, W].
    """

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, 2 * radius + 1, mode="mirror")

    local_mean = mean(luma)
    local_variance = np.maximum(mean(luma**2) - local_mean**2, 0)
    share = local_variance / np.maximum(local_variance + variance, np.finfo(float).tiny)
    return mean(share) * luma + mean((1 - share) * local_mean)


def smooth_chroma(color: np.ndarray, radius: float) -> np.ndarray:
    """A color image [H, W, 3] whose chroma is blurred, by a Gaussian of this standard deviation in pixels."""
    blurred = gaussian_filter(color, (radius, radius, 0), mode="mirror")
    return blurred + (color @ LUMA - blurred @ LUMA)[..., None]


def unsharp_mask(luma: np.ndarray, amount: float, radius: float) -> np.ndarray:
    """An image [H, W] and `amount` times what a Gaussian of this standard deviation in pixels takes from it."""
    return luma + amount * (luma - gaussian_filter(luma, radius, mode="mirror"))
