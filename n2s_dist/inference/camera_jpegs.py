"""How strong noise is in a camera's own JPEG, which the camera has denoised, read where the picture is calmest.

    what a network takes that is told too much ──► luma and chroma ──► squares of 32 pixels, those with the least fine
              luma first ──► strength at 1, 2, 4 and 8 pixels ──► one level of white noise

A camera smooths chroma over several pixels, and luma where it sees no edge. What is left is next to nothing from pixel
to pixel and grows up to 8 pixels and beyond, which no Gaussian kernel of a pixel or two has. Networks remove it best
when they are told white noise that is as strong at all scales as this is at the coarsest: two to four times its
standard deviation. That level was tuned on simulated cameras (full_frame_jpeg.yaml and crop_sensor_jpeg.yaml of
configs/cameras).

Luma is read in the calmest tenth of the squares. Chroma is read there and in the three thirds, and the least counts:
noise of chroma hardly depends on luma's texture, and a picture only adds to it. Luma says less than chroma: it holds
most of a picture's texture, and cameras leave chroma's coarse noise alone.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from n2s_dist.inference.residuals import SCALES, energy, whole_squares

_SIDE = 32  # of the compared squares, in pixels; they lie half a side apart
_CALM = 0.1  # the share of squares that luma is read in
_FEWEST = 4  # of them
_CHANNELS = 2  # in which a pixel must count: of saturated colors one is clipped nearly everywhere
_HALF = 0.5  # the share of a square that must count at each scale
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_FIELDS = np.stack([_LUMA, np.array([1, 0, 0]) - _LUMA, np.array([0, 0, 1]) - _LUMA])  # luma, R - Y, B - Y
_FINE_CHROMA = 0.24  # of its strength at 4 pixels, at 1 pixel: JPEGs and cameras that smooth it leave less
_FINE_OF_STRONG = 0.12  # the same where there is more at 1 pixel than this: white noise is, with coarse texture
_ROUNDING = 1 / 255
_FINE_LUMA = 0.7  # of its strength at 2 pixels, at 1 pixel: sharp texture and white noise have more
_GROWING_CHROMA = 1.7  # times its strength at 4 pixels, at 8 pixels
_DENOISED_LUMA = 0.44  # of its strength at 2 pixels, at 1 pixel: bilinear demosaicing leaves 0.46
_LUMA_SHARE = 0.25
_GROWTH = 0.5
_FACTOR = 1.15
_PICTURE = 5 / 255  # what calm places show of a picture without noise, and of 8 bits


class CalmStrengths(NamedTuple):
    """Standard deviations at each of SCALES, on the 0-1 scale, float64 [4]; chroma is the mean of R - Y and B - Y."""

    luma: np.ndarray
    chroma: np.ndarray

    @property
    def is_smoothed(self) -> bool:
        """Whether a camera or JPEG has taken the fine part of chroma, and luma is no sharp texture."""
        most = _FINE_CHROMA if self.chroma[0] < _ROUNDING else _FINE_OF_STRONG
        return bool(self.chroma[0] < most * self.chroma[2] and self.luma[0] < _FINE_LUMA * self.luma[1])

    @property
    def is_denoised(self) -> bool:
        """Whether it grows from scale to scale as neither demosaicing nor JPEG leave it, but a camera's denoising."""
        return bool(self.chroma[-1] > _GROWING_CHROMA * self.chroma[-2] or self.luma[0] < _DENOISED_LUMA * self.luma[1])

    @property
    def level(self) -> float:
        """The standard deviation of white noise to tell. Chroma that still grows at 8 pixels goes on beyond them."""
        coarse = self.luma[-1] ** _LUMA_SHARE * self.chroma[-1] ** (1 - _LUMA_SHARE)
        found = _FACTOR * coarse * max(self.chroma[-1] / self.chroma[-2], 1) ** _GROWTH
        return float(np.sqrt(max(found**2 - _PICTURE**2, 0)))


def calm_strengths(residual: np.ndarray, clean: np.ndarray, counted: np.ndarray) -> CalmStrengths | None:
    """All [N, 3, H, W]: what was taken, what was left, and which pixels count. None where too few squares do."""
    if residual.shape[1] != 3 or min(residual.shape[-2:]) < 2 * _SIDE:
        return None
    fields = [np.einsum("kc,nchw->nkhw", _TO_FIELDS, each) for each in (residual, residual + clean)]
    in_most = counted.sum(axis=1, keepdims=True) >= _CHANNELS
    parts, shares = [], []
    for scale in SCALES:
        whole = whole_squares(in_most, scale).astype(np.float64)
        shares.append(_squares(whole, scale))
        held = np.maximum(shares[-1], _HALF)
        parts.append(np.minimum(*(_squares(energy(field, scale) * whole, scale) / held for field in fields)))
    rows, columns = (min(each.shape[axis] for each in parts) for axis in (-2, -1))
    energies = np.stack([each[..., :rows, :columns] for each in parts])  # [scales, N, fields, rows, columns]
    usable = np.all([each[:, 0, :rows, :columns] >= _HALF for each in shares], axis=0)
    energies = np.moveaxis(energies, 2, -1)[:, usable]  # [scales, squares, fields]
    order = np.argsort(energies[1:3, :, 0].sum(axis=0), kind="stable")
    calm = order[: int(_CALM * len(order))]
    if len(calm) < _FEWEST:
        return None
    luma = energies[:, calm, 0].mean(axis=1)
    chroma = [energies[:, group, 1:].mean(axis=(1, 2)) for group in (calm, *np.array_split(order, 3))]
    least = min(chroma, key=lambda power: float(power[-1]))
    return CalmStrengths(*(np.sqrt(np.maximum(power, np.finfo(float).tiny)) for power in (luma, least)))


def _squares(values: np.ndarray, scale: int) -> np.ndarray:
    """Means over squares of _SIDE pixels of what residuals.energy gives at a scale, [N, K, rows, columns]."""
    side, step = _SIDE // scale - 1, _SIDE // 2 // scale
    return sliding_window_view(values, (side, side), axis=(-2, -1))[..., ::step, ::step, :, :].mean(axis=(-2, -1))
