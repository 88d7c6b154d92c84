"""Photon transfer (Janesick 2007): a camera's gain and read noise, from how its noise grows with light.

    dark frames ──► black level, noise without light, hot pixels
    flat fields, or frames of one scene ──► signal and variance at several exposures ──► variance = gain signal + dark

Variances are taken over time, pixel by pixel, so what differs from pixel to pixel but stays does not count. All values
are in ADU.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from n2s_dist.noise.correlation import Covariance, channel_correlations, measure_covariance
from n2s_dist.utils.errors import UserError

_PAIRS = 4  # differences of two frames that are kept of each exposure
_FAR_SHARE = 1e-5  # of good pixels, which have variances beyond the limit
_ROOM = 2.0  # times that limit: exposures are not quite even
_HOT = 8.0  # standard deviations of pixels without light
_BINS = 32  # of a scene's pixels, by the root of their brightness
_LEAST_IN_BIN = 200
_SATURATED = 1e-3  # the share of saturated pixels that leaves an exposure out
_CLEAR = 4.0  # standard deviations between a signal and white
_SPIKE, _SPIKE_SHARE = 4, 0.002  # the highest value comes so many times as often as the next, and in such a share
_FLICKER = 0.25  # of the light, and in ADU, by which frames of one exposure may differ
_FLICKER_ADU = 3.0
_MODEL_ERROR = 0.005  # of any variance, however many pixels it is of
_BENT, _SURE = 0.1, 5.0  # a share of the variance, and standard errors, off a line
_LEAST_FOR_CURVE = 4  # exposures


@dataclass
class FrameStatistics:
    """What is kept of frames of one exposure: [H, W, C] each, float64.

    name: what people call it. black: ADU, around which lamps flicker; None for dark frames, whose level may drift.
    """

    name: str
    black: float | None = None
    count: int = 0
    highest: float = -np.inf
    lowest: float = np.inf
    low_share: float = 0.0
    is_spike: bool = False
    step: int = 0  # the largest that divides all differences; 0 for values that are not whole
    differences: list[np.ndarray] = field(default_factory=list)
    _first: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _sum: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _squares: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _most: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _before: np.ndarray | None = None
    _drift: float = 0.0

    def add(self, frame: np.ndarray) -> None:
        """Count one more frame, [H, W, C] of any real type. Raises UserError for another size, and for NaN."""
        values = frame.astype(float)
        if self.count and values.shape != self._first.shape:
            raise UserError(f"{self.name} holds frames of different sizes: {_size(self._first)} and {_size(values)}")
        if not np.isfinite(values).all():
            raise UserError(f"{self.name} holds values that are not finite: leave such frames out")
        self._note_ends(values)
        if not self.count:
            self._first, self._most = values, values.copy()
            self._sum, self._squares = np.zeros_like(values), np.zeros_like(values)
        np.maximum(self._most, values, out=self._most)
        values = self._as_bright_as_first(values)
        moved = values - self._first
        self._sum += moved
        self._squares += moved**2
        if self._before is None:
            self._before = values
        else:
            if len(self.differences) < _PAIRS:
                self.differences.append(((values - self._before) / np.sqrt(2)).astype(np.float32))
            self._before = None
        self.count += 1

    def _as_bright_as_first(self, values: np.ndarray) -> np.ndarray:
        """The same without what lamps flicker and black levels drift."""
        first, mean = float(self._first.mean()), float(values.mean())
        if self.black is None:
            self._drift += mean - first
            return values + (first - mean)
        light = first - self.black
        if abs(mean - first) > max(_FLICKER * light, _FLICKER_ADU):
            raise UserError(
                f"{self.name} holds frames of different brightness, {first:.6g} and {mean:.6g} ADU on average: give "
                "each exposure's frames apart"
            )
        return values if light <= _FLICKER_ADU else self.black + (values - self.black) * (light / (mean - self.black))

    def _note_ends(self, values: np.ndarray) -> None:
        whole = (values == np.rint(values)).all()
        found, counts = np.unique(values, return_counts=True)
        if whole and (self.step or not self.count):
            self.step = int(np.gcd.reduce(np.append(np.diff(found).astype(np.int64), self.step)))
        elif not whole:
            self.step = 0
        if found[0] <= self.lowest:
            self.lowest, self.low_share = float(found[0]), float(counts[0] / values.size)
        if found[-1] >= self.highest:
            self.highest = float(found[-1])
            following = counts[-2] if len(counts) > 1 else 0
            self.is_spike = bool(counts[-1] > max(_SPIKE * following, _SPIKE_SHARE * values.size))

    @property
    def mean(self) -> np.ndarray:
        """Of each pixel over time."""
        return self._first + (self._sum + self._drift) / self.count

    @property
    def most(self) -> np.ndarray:
        """The highest value of each pixel."""
        return self._most

    @property
    def variance(self) -> np.ndarray:
        """Of each pixel over time, unbiased."""
        return (self._squares - self._sum**2 / self.count) / (self.count - 1)

    def covariances(self, counted: np.ndarray, std: np.ndarray | float = 1.0) -> list[Covariance]:
        """Of the noise in differences of two frames. counted: bool [H, W, C]. std: what to divide it by."""
        return [
            measure_covariance(plane, good)
            for difference in self.differences
            for plane, good in zip(np.moveaxis(difference / std, -1, 0), np.moveaxis(counted, -1, 0), strict=True)
        ]

    def channel_correlations(self, counted: np.ndarray, std: np.ndarray | float = 1.0) -> list[list[float]]:
        """Of the noise in each difference of two color frames; nothing of gray ones. Arguments as of covariances."""
        color = self.differences if counted.shape[-1] == 3 else []
        return [channel_correlations(difference / std, counted) for difference in color]


@dataclass(frozen=True)
class Exposure:
    """Signal and noise at one brightness. name: its frames' name.

    level: ADU, the mean; variance: ADU^2; error: the standard error of the variance as a share of it; top: ADU that
    nearly no value exceeds.
    """

    name: str
    level: float
    variance: float
    error: float
    top: float


@dataclass(frozen=True)
class Transfer:
    """The line: variance = gain (level - black) + dark_variance, in ADU. black_is_known: whether it was measured.

    bend: the largest share of a variance that the line misses, where that is no accident; else 0.
    """

    gain: float
    black: float
    dark_variance: float
    black_is_known: bool
    bend: float

    def std(self, level: np.ndarray) -> np.ndarray:
        """The standard deviation of pixels at these levels, in ADU."""
        return np.sqrt(np.maximum(self.gain * (level - self.black) + self.dark_variance, 1e-12))


def _size(frame: np.ndarray) -> str:
    return f"{frame.shape[1]} x {frame.shape[0]}" + (" in color" if frame.shape[2] > 1 else "")


def steady_pixels(frames: FrameStatistics, among: np.ndarray | None = None) -> np.ndarray:
    """Pixels whose variance is none of a hot or blinking one's: bool [H, W, C]. among: those that may be.

    For frames of even light: a scene's pixels differ in variance.
    """
    good = np.ones(frames.variance.shape, bool) if among is None else among
    steady = np.zeros_like(good)
    steady[good] = _are_steady(frames.variance[good], frames.count - 1)
    return steady


def _are_steady(variance: np.ndarray, freedom: int) -> np.ndarray:
    """Which of some pixels' variances, of so many degrees of freedom, are no outliers."""
    limit = _ROOM * stats.chi2.ppf(1 - _FAR_SHARE, freedom) / freedom
    steady = np.ones(variance.shape, bool)
    for _ in range(3):
        if steady.any():
            steady = variance <= limit * max(float(variance[steady].mean()), np.finfo(float).tiny)
    return steady


def dark_pixels(dark: FrameStatistics) -> np.ndarray:
    """Pixels of dark frames that are not hot: bool [H, W, C]."""
    good = steady_pixels(dark)
    mean = dark.mean
    middle = np.median(mean[good])
    deviation = 1.4826 * np.median(np.abs(mean[good] - middle))
    accident = np.sqrt(dark.variance[good].mean() / dark.count)
    return good & (np.abs(mean - middle) <= _HOT * max(deviation, accident, np.finfo(float).tiny))


def flat_exposure(frames: FrameStatistics, good: np.ndarray) -> Exposure:
    """One exposure of even light. good: pixels that count."""
    mean, variance = frames.mean[good], frames.variance[good]
    top = float(np.quantile(frames.most[good], 1 - _SATURATED))
    error = np.sqrt(2 / ((frames.count - 1) * max(len(mean), 1)))
    return Exposure(frames.name, float(mean.mean()), float(variance.mean()), float(error), top)


def is_below(exposure: Exposure, white: float) -> bool:
    """Whether its values stay below white, in ADU, which cuts off noise."""
    return max(exposure.top, exposure.level + _CLEAR * exposure.variance**0.5) < white


def scene_exposures(frames: FrameStatistics, good: np.ndarray, white: float) -> list[Exposure]:
    """Exposures of pixels of like brightness, out of frames of one scene. Pixels that reach white, in ADU, don't count.

    The mean of a few frames and their variance are independent for normal noise; for counts the variance grows with
    the mean as it does from scene to scene. So choosing pixels by their own mean does not bend the line.
    """
    good = good & (frames.most < white)
    mean, variance, freedom = frames.mean[good], frames.variance[good], frames.count - 1
    found = []
    for chosen in _bins(mean):
        chosen = chosen[_are_steady(variance[chosen], freedom)]
        level, noise = float(mean[chosen].mean()), float(variance[chosen].mean())
        error = float(np.sqrt(2 / (freedom * len(chosen))))
        found.append(Exposure(frames.name, level, noise, error, level + _CLEAR * noise**0.5))
    return [each for each in found if each.top < white]


def _bins(mean: np.ndarray) -> list[np.ndarray]:
    """Places of pixels in order of brightness, in steps of its root; none of too few pixels."""
    if len(mean) < _LEAST_IN_BIN:
        return []
    order = np.argsort(mean, kind="stable")
    roots = np.sqrt(mean[order] - mean[order[0]])
    ends = np.searchsorted(roots, np.linspace(0, roots[-1], _BINS + 1)[1:], side="right")
    bins, start = [], 0
    for end in ends:
        if end - start >= _LEAST_IN_BIN:
            bins.append(order[start:end])
            start = int(end)
    return bins


def fit_line(
    exposures: Iterable[Exposure], dark: Exposure | None, black: float | None, rounding: float = 0.0
) -> Transfer:
    """The line through exposures and darkness, by least squares of shares of the variance.

    dark: of dark frames, whose level is black unless `black` says otherwise. With neither, black is the lowest that it
    can be; the noise of every value is the same whichever it is. rounding: ADU^2, the variance that rounding alone has.

    Raises UserError where there are fewer than two exposures, or they do not differ, or noise does not grow with light.
    """
    lit = list(exposures)
    points = [*([dark] if dark else []), *lit]
    if len(points) < 2 or not lit:
        raise UserError(
            f"{len(lit)} unsaturated exposures are too few: give dark frames and one exposure, or two exposures"
        )
    levels, variances = (np.array([getattr(each, name) for each in points]) for name in ("level", "variance"))
    if not (variances > 0).all():
        none = points[int(variances.argmin())].name
        raise UserError(f"{none} has no noise at all: give frames as the camera took them, none twice")
    if np.ptp(levels) < np.sqrt(variances.max()):
        raise UserError(
            f"the exposures lie between {levels.min():.6g} and {levels.max():.6g} ADU, too near each other: make one "
            "several times as bright as another"
        )
    errors = variances * np.hypot([each.error for each in points], _MODEL_ERROR)
    columns = np.stack([levels, np.ones_like(levels)], axis=1)
    (gain, constant), *_ = np.linalg.lstsq(columns / errors[:, None], variances / errors, rcond=None)
    if gain <= 0:
        raise UserError(
            f"the noise does not grow with light (gain {gain:.3g} ADU per electron): give raw frames, of no tone curve"
        )
    misses = variances / np.maximum(columns @ [gain, constant], np.finfo(float).tiny) - 1
    sure = np.abs(misses) > _SURE * errors / variances
    bend = float(np.abs(misses[sure]).max(initial=0))
    bend = bend if bend > _BENT and len(lit) >= _LEAST_FOR_CURVE else 0.0
    known = dark.level if black is None and dark else black
    is_known = known is not None
    if known is None:
        known = max(0.0, float(rounding - constant) / float(gain))
    return Transfer(float(gain), known, max(float(constant + gain * known), 0.0), is_known, bend)
