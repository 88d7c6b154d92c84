"""How strong noise is at each brightness and how far it is correlated, and the noise that has about that.

    n = sqrt(v(x)) (K * w)        w white, unit variance; v the noise level function; K a Gaussian kernel of unit energy

In a channel v is a parabola that is nowhere negative: it holds Gaussian, Poisson, Poisson-Gaussian and Gamma noise, and
what a tone curve makes of them.
"""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.correlated import blurred
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import LOWEST_STORED_ZETA, Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian

BINS = 6  # of brightness, with as many pixels each
ENDS = (0.01, 0.99)  # quantiles of brightness that a level function reaches to
LEAST_WIDTH = 0.1  # in pixels: narrower kernels are white

_LEAST_STD = 0.02 / 255
_ALIKE = 0.25  # relative errors of a variance below which a simpler formula is taken: as much is not known any better
_CURVE_POINTS = 33
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
        found = [bernstein(values) @ own for values, own in zip(x, self.coefficients, strict=True)]
        return np.maximum(np.stack(found), _LEAST_STD**2)

    def variance_of(self, images: np.ndarray) -> np.ndarray:
        """v at each value of images [N, C, H, W]."""
        return np.moveaxis(self.variance(np.moveaxis(images, 1, 0)), 0, 1)

    def noise(self, able: Collection[str], low: float = 0.0, high: float = 1.0, alike: float = _ALIKE) -> NoiseModel:
        """The simplest noise that agrees with it between two brightnesses, of families among `able`.

        Where none of these agrees, the one that comes nearest. Beyond the two a curve stays as it is there: a parabola
        through what pixels say may fall to nothing where there are none.
        """
        grid = np.linspace(max(low, 0), min(max(high, low + 0.05), 1), _CURVE_POINTS)
        formulas = [each for each in self._formulas(grid) if each.noise.family in able]
        white = next((each.noise for each in formulas if each.error < alike), None)
        if white is None and Curve.family in able:
            white = self._curve(grid)
        if white is None:
            white = min(formulas, key=lambda each: each.error).noise
        return blurred(white, round(self.width, 3)) if self.width >= LEAST_WIDTH else white

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


def bernstein(x: np.ndarray) -> np.ndarray:
    """Bernstein's polynomials of degree 2 at values, which are held within [0, 1]: [..., 3]."""
    x = np.clip(x, 0, 1)
    return np.stack([(1 - x) ** 2, 2 * x * (1 - x), x**2], axis=-1)


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
            rows = np.concatenate([bernstein(own_x) * data[:, None], np.diag(drawn)])
            coefficients, _ = nnls(rows, np.concatenate([own * data, drawn * constant]))
            expected = np.maximum(bernstein(own_x) @ coefficients, 0.2 * own)
        found.append(coefficients)
    return np.stack(found)
