"""How noise is correlated: along rows, along columns, between neighbors, and between channels.

    n = blurred noise (width w) + one value for each row + one for each column

From differences of two frames of one scene, which hold noise alone.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from n2s_dist.noise.blurred import autocorrelation

LAGS = (1, 2)  # in pixels
_GAP = 16  # pixels between halves of a line that have nothing in common but the line's own value
_WIDTHS = np.arange(0, 8.0001, 0.01)
_LEAST = 0.01  # a correlation of neighbors below which noise counts as white
_SURE = 4.0  # standard errors


@dataclass(frozen=True)
class Covariance:
    """Sums of products of a field of noise, averaged over pixels.

    variance: of each value. across, down: covariances at LAGS along rows and along columns. row, column: variance of
    what lines have in common, 0 where it can't be told from 0. count: of pixels.
    """

    variance: float
    across: tuple[float, ...]
    down: tuple[float, ...]
    row: float
    column: float
    count: int

    @property
    def alone(self) -> float:
        """The variance without that of lines."""
        return max(self.variance - self.row - self.column, 0.0)

    def correlations(self) -> np.ndarray:
        """At LAGS, without that of lines: float64 [2, 2], along rows and along columns."""
        lines = np.array([[self.row], [self.column]])
        return (np.array([self.across, self.down]) - lines) / max(self.alone, np.finfo(float).tiny)


def measure_covariance(noise: np.ndarray, counted: np.ndarray) -> Covariance:
    """Of a field of noise of mean 0, [H, W]. counted: bool [H, W], pixels that count."""
    field, ones = np.where(counted, noise, 0.0), counted.astype(float)
    across = tuple(_product(field, ones, 0, lag) for lag in LAGS)
    down = tuple(_product(field, ones, lag, 0) for lag in LAGS)
    return Covariance(
        _product(field, ones, 0, 0), across, down, _of_lines(field, ones), _of_lines(field.T, ones.T), int(ones.sum())
    )


def _product(field: np.ndarray, ones: np.ndarray, down: int, across: int) -> float:
    height, width = field.shape
    first = np.s_[: height - down, : width - across]
    second = np.s_[down:, across:]
    return float((field[first] * field[second]).sum() / max((ones[first] * ones[second]).sum(), 1))


def _of_lines(field: np.ndarray, ones: np.ndarray) -> float:
    """Variance of what rows have in common: the covariance of their left and right ends, if it is no accident."""
    height, width = field.shape
    half = (width - _GAP) // 2
    if half < _GAP or height < _GAP:
        return 0.0
    left, right = (
        field[:, part].sum(axis=1) / np.maximum(ones[:, part].sum(axis=1), 1)
        for part in (slice(0, half), slice(-half, None))
    )
    products = left * right
    found, error = products.mean(), products.std() / np.sqrt(height)
    return float(found) if found > _SURE * error else 0.0


def channel_correlations(noise: np.ndarray, counted: np.ndarray) -> list[float]:
    """Of red with green, red with blue and green with blue, of fields of noise of mean 0 [H, W, 3]; 0 where it can't be
    told from that. counted: bool [H, W, 3], values that count.
    """
    found = []
    for one, two in ((0, 1), (0, 2), (1, 2)):
        both = counted[..., one] & counted[..., two]
        first, second = noise[..., one][both], noise[..., two][both]
        correlation = float((first * second).mean() / np.sqrt((first**2).mean() * (second**2).mean()))
        found.append(correlation if abs(correlation) > max(_LEAST, _SURE / np.sqrt(both.sum())) else 0.0)
    return found


@cache
def _table() -> np.ndarray:
    """Correlations at LAGS of noise of _WIDTHS: float64 [N, 2]."""
    return np.array([autocorrelation(float(width), LAGS) for width in _WIDTHS])


def width_of(correlations: np.ndarray) -> float:
    """The width in pixels of the blur whose correlations at LAGS are nearest to these, float64 [2]."""
    return float(_WIDTHS[np.square(_table() - correlations).sum(axis=1).argmin()])


@dataclass(frozen=True)
class Correlation:
    """What is known of noise between neighbors.

    width: in pixels, 0 for white noise. width_across, width_down: along rows and along columns. lags: correlations at
    LAGS, the mean of both.
    """

    width: float
    width_across: float
    width_down: float
    lags: tuple[float, ...]


def fit_width(fields: list[Covariance]) -> Correlation:
    """The width of the blur whose correlations are nearest to those measured, by least squares over lags."""
    weights = np.array([each.count for each in fields], float)
    found = np.tensordot(weights / weights.sum(), np.stack([each.correlations() for each in fields]), axes=1)
    least = max(_LEAST, _SURE / np.sqrt(weights.sum()))

    def nearest(correlations: np.ndarray) -> float:
        return 0.0 if correlations[0] < least else width_of(correlations)

    return Correlation(nearest(found.mean(axis=0)), nearest(found[0]), nearest(found[1]), tuple(found.mean(axis=0)))
