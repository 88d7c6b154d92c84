"""What can be seen of an image's noise without a network: its strength by brightness, and its correlation.

    image ──► squares ──► their mean, and the variance of diagonal differences ──► noise level curve
          └─► the flattest squares, without their slope ──► autocorrelation, spectrum

Diagonal differences of 2 x 2 pixels hold little of an image and all of white noise. What they lack of correlated noise
is taken from the flat squares, which hold too little of noise that reaches over several pixels.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

CURVE_SIDE, FLAT_SIDE = 8, 16  # of squares, in pixels
REACH = 6  # of the autocorrelation, in pixels
_BINS = 16
_LEAST_IN_BIN = 20  # squares
# Of the mean of so many squares of normal numbers, against its expectation.
_MEDIAN = stats.chi2.median((CURVE_SIDE // 2) ** 2) / (CURVE_SIDE // 2) ** 2
_CALM = 0.25  # the share of a bin's squares, those of least coarse structure, that its noise is taken from
_FLAT = 0.3  # the share of squares that count as flat
_LEAST_FLAT = 12
_END = 0.02  # the share of pixels at an end of the range from which a square does not count
_CORRELATED = 0.08  # of neighbors in flat squares, below which noise counts as white


@dataclass(frozen=True)
class NoiseView:
    """What was seen of an image.

    Args:
        levels, stds: of each channel, brightness and standard deviation, float64 [K] each
        autocorrelation: [2 R + 1, 2 R + 1] with R = REACH, 1 in the middle
        spectrum: power by frequency, [S, S], frequency 0 in the middle, 1 on average
        clipped: shares of pixels at the lowest and at the highest value
        channel_correlation: of the noise of red with green, and of green with blue
    """

    levels: list[np.ndarray]
    stds: list[np.ndarray]
    autocorrelation: np.ndarray
    spectrum: np.ndarray
    clipped: tuple[float, float]
    channel_correlation: tuple[float, ...]

    @property
    def neighbors(self) -> tuple[float, float]:
        """Correlation with the next pixel along rows and along columns."""
        return float(self.autocorrelation[REACH, REACH + 1]), float(self.autocorrelation[REACH + 1, REACH])

    @property
    def is_white(self) -> bool:
        return max(map(abs, self.neighbors)) < _CORRELATED


def view_noise(image: np.ndarray) -> NoiseView | None:
    """Of an image [H, W, C] on any scale; None where too few squares of it say something."""
    ends = float(image.min()), float(image.max())
    clipped = tuple(float(np.mean(image == end)) for end in ends)
    planes = [image[..., channel].astype(float) for channel in range(image.shape[2])]
    cut = [end for end, share in zip(ends, clipped, strict=True) if share > _END / 4]
    curves = [_curve(plane, cut) for plane in planes]
    flat = _flat_squares(planes, cut, curves) if all(len(levels) for levels, _ in curves) else None
    if flat is None:
        return None
    power = flat.var(axis=(2, 3), keepdims=True)
    alike = flat / np.sqrt(power)
    autocorrelation = _autocorrelation(alike.reshape(-1, FLAT_SIDE, FLAT_SIDE))
    across, down = autocorrelation[REACH, REACH + 1], autocorrelation[REACH + 1, REACH]
    lacking = float(np.sqrt(power.mean() / _diagonal(flat).mean())) if max(across, down) >= _CORRELATED else 1.0
    shared = [float((alike[:, c] * alike[:, c + 1]).mean()) for c in range(len(planes) - 1)]
    return NoiseView(
        levels=[levels for levels, _ in curves],
        stds=[stds * lacking for _, stds in curves],
        autocorrelation=autocorrelation,
        spectrum=_spectrum(alike.reshape(-1, FLAT_SIDE, FLAT_SIDE)),
        clipped=(clipped[0], clipped[1]),
        channel_correlation=tuple(shared),
    )


def _squares(plane: np.ndarray, side: int) -> np.ndarray:
    """Side by side, [N, side, side]."""
    rows, columns = plane.shape[0] // side, plane.shape[1] // side
    cut = plane[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return cut.swapaxes(1, 2).reshape(-1, side, side)


def _diagonal(squares: np.ndarray) -> np.ndarray:
    """Of squares [..., S, S] the variance that diagonal differences say white noise has: [...]."""
    a, b, c, d = (squares[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    return (((a - b - c + d) / 2) ** 2).mean(axis=(-2, -1))


def _coarse(squares: np.ndarray) -> np.ndarray:
    """Variance of squares [..., S, S] that spans several pixels: [...]. Diagonal differences have no part in it."""
    half = squares.shape[-1] // 4
    means = squares.reshape(*squares.shape[:-2], 4, half, 4, half).mean(axis=(-3, -1))
    return means.var(axis=(-2, -1))


def _counts(squares: np.ndarray, cut: list[float]) -> np.ndarray:
    """Which squares [..., S, S] have noise, and hardly any pixel at an end of the range: bool [...]."""
    at_end = sum(((squares == end).mean(axis=(-2, -1)) for end in cut), np.zeros(squares.shape[:-2]))
    return (at_end <= _END) & (_diagonal(squares) > 0)


def _curve(plane: np.ndarray, cut: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Brightness and standard deviation of the calmest squares in steps of brightness."""
    squares = _squares(plane, CURVE_SIDE)
    squares = squares[_counts(squares, cut)]
    mean, variance, coarse = squares.mean(axis=(1, 2)), _diagonal(squares), _coarse(squares)
    order = np.argsort(mean, kind="stable")
    levels, stds = [], []
    for chosen in np.array_split(order, max(1, min(_BINS, len(order) // _LEAST_IN_BIN))) if len(order) else []:
        calm = chosen[np.argsort(coarse[chosen], kind="stable")[: max(1, int(_CALM * len(chosen)))]]
        levels.append(mean[calm].mean())
        stds.append(np.sqrt(np.median(variance[calm]) / _MEDIAN))
    return np.array(levels), np.array(stds)


def _flat_squares(
    planes: list[np.ndarray], cut: list[float], curves: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray | None:
    """The flattest squares without their mean and slope, [N, C, S, S]; None where there are too few.

    curves: each channel's noise, against which structure counts.
    """
    squares = np.stack([_squares(plane, FLAT_SIDE) for plane in planes], axis=1)
    squares = squares[_counts(squares, cut).all(axis=1)]
    if len(squares) < _LEAST_FLAT:
        return None
    grid = (np.arange(FLAT_SIDE) - (FLAT_SIDE - 1) / 2) / np.sqrt(FLAT_SIDE * (FLAT_SIDE**2 - 1) * FLAT_SIDE / 12)
    means = squares.mean(axis=(2, 3))
    noise = np.stack([np.interp(means[:, c], *curve) for c, curve in enumerate(curves)], axis=1)
    squares = squares - means[..., None, None]
    for slope in (
        np.broadcast_to(grid, (FLAT_SIDE, FLAT_SIDE)),
        np.broadcast_to(grid[:, None], (FLAT_SIDE, FLAT_SIDE)),
    ):
        squares = squares - (squares * slope).sum(axis=(2, 3), keepdims=True) * slope
    order = np.argsort((_coarse(squares) / noise**2).max(axis=1), kind="stable")
    return squares[order[: max(_LEAST_FLAT, int(_FLAT * len(squares)))]]


def _autocorrelation(squares: np.ndarray) -> np.ndarray:
    """Of squares of unit variance, [N, S, S], at all lags up to REACH: [2 R + 1, 2 R + 1]."""
    side = squares.shape[-1]
    padded = np.fft.rfft2(squares, (2 * side, 2 * side))
    sums = np.fft.irfft2((np.abs(padded) ** 2).mean(axis=0), (2 * side, 2 * side))
    lags = np.arange(-REACH, REACH + 1)
    pairs = (side - np.abs(lags))[:, None] * (side - np.abs(lags))
    found = sums[np.ix_(lags, lags)] / pairs
    return found / found[REACH, REACH]


def _spectrum(squares: np.ndarray) -> np.ndarray:
    """Mean power of squares [N, S, S] by frequency, 1 on average: [S, S], frequency 0 at [S / 2, S / 2]."""
    window = np.hanning(squares.shape[-1] + 2)[1:-1]
    power = (np.abs(np.fft.fft2(squares * window * window[:, None])) ** 2).mean(axis=0)
    return np.fft.fftshift(power / power.mean())
