"""How strong noise is at each brightness and how far it is correlated, read off from differences of pixels.

    n = sqrt(v(x)) (K * w)        w white, unit variance; v the noise level function; K a Gaussian kernel of unit energy

The diagonal difference of lag d, (a - b - c + d) / 2 over the corners of a square of side d, leaves of white noise all
of its variance, of smooth images nothing, and of correlated noise (1 - rho(d))^2, rho being K's autocorrelation along
one axis. So strengths at several lags tell v and the width of K together. In a channel v is a parabola that is nowhere
negative: it holds Gaussian, Poisson, Poisson-Gaussian and Gamma noise, and what a tone curve makes of them.
"""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import nnls

from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.blurred import Blurred, autocorrelation
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import LOWEST_STORED_ZETA, Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian

LAGS = (1, 2, 4)  # in pixels
BINS = 6  # of brightness, with as many pixels each
LEAST_WIDTH = 0.5  # in pixels: fine texture looks as much correlated, and less than that costs next to nothing

_CORRELATED = 0.55  # in pixels: the width below which a first guess is white
_LEAST_STD = 0.02 / 255
_FLAT, _SMOOTHING = 0.1, 4.0  # the share of pixels that count as flat, by gradients smoothed over so many pixels
_ALIKE = 0.1  # relative errors of a variance below which a simpler formula is taken
_CURVE_POINTS = 33
_STRAIGHT_START = 1.0  # how far a first fit is drawn to a constant, and later ones
_RIDGE = 0.002


class _Formula(NamedTuple):
    """A noise, and its variances' largest relative error."""

    noise: NoiseModel
    error: float


# Powers of the brightness that a family's variance is made of, and the family of their factors; the simplest first.
_FAMILIES: list[tuple[tuple[int, ...], Callable[..., NoiseModel]]] = [
    ((0,), lambda constant: Gaussian(constant**0.5)),
    ((1,), Poisson),
    ((2,), lambda square: Gamma(1 / square)),
    ((0, 1), lambda constant, slope: PoissonGaussian(slope, constant**0.5)),
]


class LevelFunction(NamedTuple):
    """An estimate. coefficients: v in Bernstein's basis on [0, 1], none negative, float64 [C, 3]. width: in pixels."""

    coefficients: np.ndarray
    width: float

    def variance(self, x: np.ndarray) -> np.ndarray:
        """v at brightnesses [C, ...] of each channel."""
        found = [_basis(values) @ own for values, own in zip(x, self.coefficients, strict=True)]
        return np.maximum(np.stack(found), _LEAST_STD**2)

    def noise(self, able: Collection[str], low: float = 0.0, high: float = 1.0) -> NoiseModel:
        """The simplest noise that agrees with it between two brightnesses, of families among `able`.

        Where none of these agrees, the one that comes nearest. Beyond the two a curve stays as it is there: a parabola
        through what pixels say may fall to nothing where there are none.
        """
        grid = np.linspace(max(low, 0), min(max(high, low + 0.05), 1), _CURVE_POINTS)
        formulas = [each for each in self._formulas(grid) if each.noise.family in able]
        white = next((each.noise for each in formulas if each.error < _ALIKE), None)
        if white is None and Curve.family in able:
            white = self._curve(grid)
        if white is None:
            white = min(formulas, key=lambda each: each.error).noise
        return Blurred(white, round(self.width, 3)) if self.width >= LEAST_WIDTH else white

    def _curve(self, grid: np.ndarray) -> Curve:
        stds = np.minimum(np.sqrt(self.variance(np.tile(grid, (len(self.coefficients), 1)))), 1)
        return Curve(tuple((float(x), *map(float, own)) for x, own in zip(grid, stds.T, strict=True)))

    def _formulas(self, x: np.ndarray) -> Iterator[_Formula]:
        """Families of one or two numbers that have about these variances at brightnesses x [N] in all channels."""
        variance = self.variance(np.tile(x, (len(self.coefficients), 1)))
        mean = variance.mean(axis=0)
        for powers, make in _FAMILIES:
            terms = np.stack([x**power for power in powers], axis=1)
            found, _ = nnls(terms / mean[:, None], np.ones(len(x)))
            if found.min() > LOWEST_STORED_ZETA**2 and (1 not in powers or found[-1] >= LOWEST_STORED_ZETA):
                error = np.max(np.abs(terms @ found / variance - 1))
                yield _Formula(make(*map(float, found)), float(error))


def _basis(x: np.ndarray) -> np.ndarray:
    """Bernstein's polynomials of degree 2 at values, which are held within [0, 1]: [..., 3]."""
    x = np.clip(x, 0, 1)
    return np.stack([(1 - x) ** 2, 2 * x * (1 - x), x**2], axis=-1)


# --- statistics ---------------------------------------------------------------------------------------------


def difference(values: np.ndarray, lag: int) -> np.ndarray:
    """Diagonal differences of images [..., H, W]: [..., H - lag, W - lag]."""
    a, b, c, d = corners(values, lag)
    return 0.5 * (a - b - c + d)


def corners(values: np.ndarray, lag: int) -> tuple[np.ndarray, ...]:
    """The corners of all squares of a side of `lag` pixels, row by row, of images [..., H, W]."""
    return values[..., :-lag, :-lag], values[..., :-lag, lag:], values[..., lag:, :-lag], values[..., lag:, lag:]


def passed(width: float) -> np.ndarray:
    """The share of noise's variance that differences of each lag leave, float64 [len(LAGS)]."""
    return np.array([np.interp(width, _WIDTHS, column) for column in _PASSED.T])


_WIDTHS = np.linspace(0, 2.5, 126)
_PASSED = (1 - np.array([autocorrelation(float(width), LAGS) for width in _WIDTHS])) ** 2


def width_of(shares: np.ndarray, near: float) -> float:
    """The width at which differences leave shares [len(LAGS)] that stand to each other as these do.

    near: a width that the answer is close to. Narrow kernels show in the ratio of the first two lags, wide ones in that
    of the last two.
    """
    wide = float(np.clip((near - 0.4) / 0.5, 0, 1))
    weights = np.array([1 - 0.6 * wide, 0.4 + 0.6 * wide])
    known = np.diff(np.log(_PASSED), axis=1)
    return float(_WIDTHS[np.argmin((known - np.diff(np.log(shares))) ** 2 @ weights)])


def lags_that_tell(width: float) -> slice:
    """Of LAGS the two that most of such noise shows in."""
    return slice(0, 2) if width < 0.6 else slice(1, 3)


class Binned(NamedTuple):
    """Sums over pixels by lag, channel and bin of brightness.

    sums: [M, len(LAGS), C, BINS] of M maps of values. x: the mean brightness, and pixels: how many, [C, BINS].
    """

    sums: np.ndarray
    x: np.ndarray
    pixels: np.ndarray


def bin_edges(x: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Edges of bins of each channel's brightness, [C, BINS + 1], of images [N, C, H, W].

    They lie midway between its quantiles and even steps, so rare and frequent brightnesses both have bins.
    """
    shares = np.linspace(0, 1, BINS + 1)
    edges = []
    for channel in range(x.shape[1]):
        values = x[:, channel][counted[:, channel]]
        low, high = np.quantile(values, (0.005, 0.995))
        edges.append((np.quantile(values, shares) + low + (high - low) * shares) / 2)
    return np.stack(edges)


def binned(maps: list[list[np.ndarray]], x: np.ndarray, counted: np.ndarray, edges: np.ndarray) -> Binned:
    """Add maps up. maps: M lists of one map for each lag, as `difference` gives them. x, counted: [N, C, H, W]."""
    channels = x.shape[1]
    sums = np.zeros((len(maps), len(LAGS), channels, BINS))
    mean, count = np.zeros((channels, BINS)), np.zeros((channels, BINS))
    for place, lag in enumerate(LAGS):
        whole = np.logical_and.reduce(corners(counted, lag))
        brightness = np.mean(corners(x, lag), axis=0)
        for channel in range(channels):
            inside = whole[:, channel]
            own = brightness[:, channel][inside]
            bins = np.clip(np.searchsorted(edges[channel], own, side="right") - 1, 0, BINS - 1)
            for number, by_lag in enumerate(maps):
                sums[number, place, channel] = np.bincount(bins, by_lag[place][:, channel][inside], BINS)
            if place == 0:
                count[channel] = np.bincount(bins, minlength=BINS)
                mean[channel] = np.bincount(bins, own, BINS) / np.maximum(count[channel], 1)
    return Binned(sums, mean, count)


def fit_variance(x: np.ndarray, variance: np.ndarray, count: np.ndarray, ridge: float = _RIDGE) -> np.ndarray:
    """Coefficients [C, 3] of parabolas through variances at brightnesses, all [C, BINS], by relative errors.

    ridge: how far they are drawn to a constant, the harmonic mean, for what texture adds is never negative.
    """
    found = []
    for own_x, own, weight in zip(x, variance, count, strict=True):
        constant = weight.sum() / np.sum(weight / own)
        pull = np.sqrt(ridge * weight.sum())
        expected, coefficients = own, np.full(3, constant)
        for _ in range(4):
            data, drawn = np.sqrt(weight) / expected, pull / np.maximum(coefficients, constant)
            rows = np.concatenate([_basis(own_x) * data[:, None], np.diag(drawn)])
            coefficients, _ = nnls(rows, np.concatenate([own * data, drawn * constant]))
            expected = np.maximum(_basis(own_x) @ coefficients, 0.2 * own)
        found.append(coefficients)
    return np.stack(found)


def first_guess(noisy: np.ndarray, counted: np.ndarray) -> LevelFunction:
    """From the flattest parts of noisy images [N, C, H, W]. counted: bool, the pixels that count.

    Texture makes it too strong, or correlated noise too narrow and then too weak.
    """
    wide = (0, 0, _SMOOTHING, _SMOOTHING)
    slopes = np.gradient(gaussian_filter(noisy, wide), axis=(-2, -1))
    activity = np.sqrt(gaussian_filter(sum(slope**2 for slope in slopes), (0, 0, 1.5, 1.5)))
    limits = [np.quantile(activity[:, c][counted[:, c]], _FLAT) for c in range(noisy.shape[1])]
    flat = counted & (activity <= np.array(limits)[:, None, None])
    smooth = gaussian_filter(noisy, (0, 0, 2, 2))
    squares = [difference(noisy, lag) ** 2 for lag in LAGS]
    found = binned([squares, [np.ones_like(square) for square in squares]], smooth, flat, bin_edges(smooth, flat))
    power, squares_counted = found.sums
    by_lag = power.sum(axis=(1, 2)) / np.maximum(squares_counted.sum(axis=(1, 2)), 1)
    width = width_of(np.maximum(by_lag, _LEAST_STD**2), near=0.65)
    width = width if width >= _CORRELATED else 0.0
    variance = power[1] / np.maximum(squares_counted[1], 1) / passed(width)[1]
    return LevelFunction(
        fit_variance(found.x, np.maximum(variance, _LEAST_STD**2), np.maximum(found.pixels, 1), _STRAIGHT_START), width
    )
