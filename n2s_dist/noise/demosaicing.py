"""Color filter arrays: what a Bayer sensor keeps of a color image, and two ways to get color back.

    color [H, W, 3] ──► mosaic ──► one value a pixel [H, W] ──► bilinear or malvar ──► color [H, W, 3]

Beyond its border an image goes on mirrored at its outermost pixels, which keeps the order of the filters.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import correlate

PATTERNS = ("RGGB", "GRBG", "GBRG", "BGGR")  # the upper left 2 x 2 pixels, row by row
SMALLEST_SIDE = 4  # in pixels

_CROSS = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4  # of the pixels that have green
_SQUARE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4  # of those that have red, or blue

# Malvar, He & Cutler 2004, figure 2, in eighths: bilinear interpolation, corrected by the known channel's Laplacian.
_GREEN = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]) / 8
_ALONG_ROW = (
    np.array([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]) / 8
)
_DIAGONAL = (
    np.array([[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]) / 8
)


def filter_colors(shape: tuple[int, int], pattern: str) -> np.ndarray:
    """Which channel each pixel has, 0 for red, 1 for green, 2 for blue: int [H, W]."""
    cell = np.array(["RGB".index(letter) for letter in pattern]).reshape(2, 2)
    height, width = shape
    return np.tile(cell, (height // 2 + 1, width // 2 + 1))[:height, :width]


def mosaic(color: np.ndarray, pattern: str) -> np.ndarray:
    """Of each pixel of a color image [H, W, 3] the channel that its filter lets through: [H, W]."""
    chosen = filter_colors(color.shape[:2], pattern)
    return np.take_along_axis(color, chosen[..., None], axis=2)[..., 0]


def bilinear(raw: np.ndarray, pattern: str) -> np.ndarray:
    """Each missing value is the mean of its nearest neighbors of that channel. raw: float [H, W]; float [H, W, 3]."""
    colors = filter_colors(raw.shape, pattern)
    planes = [
        correlate(np.where(colors == channel, raw, 0), kernel, mode="mirror")
        for channel, kernel in enumerate((_SQUARE, _CROSS, _SQUARE))
    ]
    return np.stack(planes, axis=-1)


def malvar(raw: np.ndarray, pattern: str) -> np.ndarray:
    """Gradient-corrected linear interpolation (Malvar, He & Cutler 2004). raw: float [H, W]; float [H, W, 3]."""
    colors = filter_colors(raw.shape, pattern)
    green, along_row, along_column, diagonal = (
        correlate(raw, kernel, mode="mirror") for kernel in (_GREEN, _ALONG_ROW, _ALONG_ROW.T, _DIAGONAL)
    )
    red_rows = (colors == 0).any(axis=1)[:, None]
    planes = [raw, np.where(colors == 1, raw, green), raw]
    for channel, own_rows in ((0, red_rows), (2, ~red_rows)):
        at_green = np.where(own_rows, along_row, along_column)
        planes[channel] = np.where(colors == channel, raw, np.where(colors == 1, at_green, diagonal))
    return np.stack(planes, axis=-1)


METHODS: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {"bilinear": bilinear, "malvar": malvar}
