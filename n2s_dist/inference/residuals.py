"""What a network takes from an image, in flat areas: how strong it is at each brightness and at each scale.

The strength at a scale s is the standard deviation of s (a - b - c + d) / 2, where a to d are the means over the four
quarters of a square of 2 s pixels a side. White noise has the same at all scales, correlated noise more at coarse ones,
and smooth images next to none. Differences of means need no model of the correlation, so noise that went through a
camera's demosaicing or through JPEG shows as what it is. Where the noisy image itself has less than what was taken,
that is what counts: independent noise only adds.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from n2s_dist.inference.level_function import BINS, bin_edges
from n2s_dist.noise.blurred import kernel

SCALES = (1, 2, 4, 8)  # in pixels

_BRIGHTNESS_SCALE = 2  # at which strengths for each brightness are read: fine texture shows less than at 1
_FLAT = 0.3  # the share of squares that count as flat
_FEWEST = 8  # squares in a bin of brightness
_WINDOW = 16  # side of the areas that are compared with one another, in pixels
_WHOLE = 0.75  # the share of an area's squares that must count
_LEAST = 1e-9  # of a variance
_WIDTHS = np.linspace(0, 2.5, 126)
_WIDTH_WEIGHTS = np.array([1.0, 1.0, 0.7, 0.4])  # of SCALES: coarse ones have few squares, and some of the image
_CORRELATED = 0.35  # in pixels: the width from which on coarse scales count most
_LEVEL_WEIGHTS = {False: np.array([0.3, 0.4, 0.2, 0.1]), True: np.array([0.0, 0.2, 0.5, 0.3])}


class Residual(NamedTuple):
    """What was taken away.

    x: the mean brightness, variance: at scale 2, and squares: how many, [C, BINS]. relative: the strength at each of
    SCALES over sqrt(variance), NaN where the image is too small. evenness: the tenth part of small areas that least is
    taken from has so many times the mean variance: noise is even, texture is not.
    """

    x: np.ndarray
    variance: np.ndarray
    squares: np.ndarray
    relative: np.ndarray
    evenness: float

    @property
    def width(self) -> float:
        """Of the Gaussian kernel, in pixels, with which noise has about these relative strengths; 0 is white."""
        known = np.isfinite(self.relative)
        weights = np.where(known, _WIDTH_WEIGHTS, 0)
        apart = np.log(np.where(known, self.relative, 1)) - np.log(_STRENGTHS)
        apart -= (apart @ weights / weights.sum())[:, None]
        found = float(_WIDTHS[np.argmin(apart**2 @ weights)])
        return found if found >= _CORRELATED else 0.0

    def level(self, width: float) -> float:
        """How many times sqrt(variance) the standard deviation of noise of this width is that would do the same."""
        known = np.isfinite(self.relative)
        weights = np.where(known, _LEVEL_WEIGHTS[self.width > 0], 0)
        own = np.where(known, self.relative, 0) / strengths(width)
        return float(np.sqrt(own**2 @ weights / weights.sum()))


def strengths(width: float) -> np.ndarray:
    """Of noise of unit variance and a Gaussian kernel of this width, at each of SCALES: float64 [4]."""
    taps = kernel(width) if width else np.ones(1)
    found = []
    for scale in SCALES:
        step = np.concatenate([np.full(scale, 1 / scale), np.full(scale, -1 / scale)])
        found.append(0.5 * scale * float(np.sum(np.convolve(taps, step) ** 2)))
    return np.array(found)


_STRENGTHS = np.array([strengths(float(width)) for width in _WIDTHS])


def measure(residual: np.ndarray, clean: np.ndarray, counted: np.ndarray, variance: np.ndarray) -> Residual:
    """Read a residual. All [N, C, H, W]: it, the denoised image, which pixels count, and a guess of its variance."""
    activity = _activity(clean, variance)
    fields = np.stack([residual, residual + clean])  # what was taken, and the noisy image that bounds it
    x, own, squares = _by_brightness(fields, clean, counted, activity)
    whitened = fields / np.sqrt(variance)
    parts = [_flat_squares(whitened, counted, activity, scale) for scale in SCALES]
    middle = np.sqrt(parts[SCALES.index(_BRIGHTNESS_SCALE)])
    return Residual(x, own, squares, np.sqrt(np.array(parts)) / middle, _evenness(whitened[0], counted, activity))


def _block_means(values: np.ndarray, scale: int) -> np.ndarray:
    rows, columns = values.shape[-2] // scale, values.shape[-1] // scale
    whole = values[..., : rows * scale, : columns * scale]
    return whole.reshape(*values.shape[:-2], rows, scale, columns, scale).mean((-3, -1))


def _quarters(values: np.ndarray, scale: int) -> tuple[np.ndarray, ...]:
    """Means over the quarters of all squares of 2 x scale pixels that begin at multiples of scale."""
    means = _block_means(values, scale)
    return means[..., :-1, :-1], means[..., :-1, 1:], means[..., 1:, :-1], means[..., 1:, 1:]


def energy(residual: np.ndarray, scale: int) -> np.ndarray:
    """The squared strength of fields [..., H, W] at a scale in each square of twice as many pixels a side."""
    a, b, c, d = _quarters(residual, scale)
    return (0.5 * scale * (a - b - c + d)) ** 2


def _mean(values: np.ndarray, scale: int) -> np.ndarray:
    return np.mean(_quarters(values, scale), axis=0)


def whole_squares(counted: np.ndarray, scale: int) -> np.ndarray:
    """Which squares consist of pixels that count."""
    return np.logical_and.reduce([part == 1 for part in _quarters(counted.astype(np.float64), scale)])


def _activity(clean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Squared slopes of an image over its noise's variance, around each pixel: [N, 1, H, W]."""
    smooth = gaussian_filter(clean, (0, 0, 1, 1))
    slopes = sum(slope**2 for slope in np.gradient(smooth, axis=(-2, -1)))
    return gaussian_filter((slopes / variance).mean(axis=1, keepdims=True), (0, 0, 2, 2))


def _flat_squares(whitened: np.ndarray, counted: np.ndarray, activity: np.ndarray, scale: int) -> float:
    """The mean energy in flat squares of the field [2, N, C, H, W] that has least, NaN where there are none."""
    if min(whitened.shape[-2:]) < 2 * scale:
        return float("nan")
    whole = whole_squares(counted, scale)
    if not whole.any():
        return float("nan")
    active = np.broadcast_to(_mean(activity, scale), whole.shape)
    flat = whole & (active <= np.quantile(active[whole], _FLAT))
    return max(min(float(energy(field, scale)[flat].mean()) for field in whitened), _LEAST)


def _by_brightness(
    fields: np.ndarray, clean: np.ndarray, counted: np.ndarray, activity: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean brightness, variance and number of flat squares by channel and bin of brightness, [C, BINS] each.

    fields: [2, N, C, H, W]; in each bin the one that has least energy gives the variance.
    """
    scale = _BRIGHTNESS_SCALE
    energies, brightness, whole = energy(fields, scale), _mean(clean, scale), whole_squares(counted, scale)
    active = np.broadcast_to(_mean(activity, scale), whole.shape)
    edges = bin_edges(clean, counted)
    x, variance, squares = np.zeros((3, clean.shape[1], BINS))
    for channel in range(clean.shape[1]):
        inside = whole[:, channel]
        values, quiet = brightness[:, channel][inside], active[:, channel][inside]
        own = [energy[:, channel][inside] for energy in energies]
        bins = np.clip(np.searchsorted(edges[channel], values, side="right") - 1, 0, BINS - 1)
        for number in range(BINS):
            members = bins == number
            if np.count_nonzero(members) < _FEWEST:
                continue
            flat = members & (quiet <= np.quantile(quiet[members], _FLAT))
            x[channel, number], squares[channel, number] = values[flat].mean(), flat.sum()
            variance[channel, number] = max(min(energy[flat].mean() for energy in own), _LEAST)
        if not squares[channel].any():  # too few squares for bins
            x[channel], squares[channel] = clean[:, channel].mean(), 1
            variance[channel] = max(min(energy[:, channel].mean() for energy in energies), _LEAST)
    return x, variance, squares


def _evenness(whitened: np.ndarray, counted: np.ndarray, activity: np.ndarray) -> float:
    """See Residual. Areas of pixels that don't count have no noise, and are not compared."""
    scale = _BRIGHTNESS_SCALE
    if min(whitened.shape[-2:]) < 2 * _WINDOW:
        return 1.0
    side = _WINDOW // scale
    areas = _block_means(energy(whitened, scale).mean(axis=1), side)
    active = _block_means(_mean(activity, scale)[:, 0], side)
    in_all = np.all(whole_squares(counted, scale), axis=1).astype(np.float64)
    whole = _block_means(np.asarray(in_all), side) >= _WHOLE
    if not whole.any():
        return 1.0
    calm = areas[whole & (active <= np.median(active[whole]))]
    return float(np.quantile(calm, 0.1) / max(calm.mean(), _LEAST))
