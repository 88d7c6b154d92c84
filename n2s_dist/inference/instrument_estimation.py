"""Estimate any noise level function and the width of the noise's correlation from one noisy image.

    noisy ──► pieces ──► first guess by differences (level_function.py) ──► corrected for each lag and brightness until
              the score finds the pieces as noisy as their denoised version with noise of the guess put on

For a network that is told maps. F is the noise that it finds in stable coordinates and u a field drawn like the noise.
A true one has, for every linear filter h (Stein's identity for noise of any covariance),

    E[(h * F)^2] = E[(h * u) (h * dF/du)]

so the ratio of the two sides, by lags of differences and by brightness, says where the guess is too weak or too strong,
and at which distances. What the ratio is where the guess is right is measured: on the denoised pieces with fresh noise
(indirect inference, as noise_estimation.py has it for one level).
"""

from typing import NamedTuple

import numpy as np
import torch

from n2s_dist.inference.level_function import (
    LAGS,
    LEAST_WIDTH,
    Binned,
    LevelFunction,
    bin_edges,
    binned,
    difference,
    first_guess,
    fit_variance,
    lags_that_tell,
    passed,
    width_of,
)
from n2s_dist.inference.pieces import Pieces
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.blurred import blur, kernel, radius
from n2s_dist.utils.hashing import frozen_rng

_PROBE = 0.05  # step of finite differences, in noise standard deviations
_ROUNDS = 5
_LEAST_SLOPE = 0.3  # of a secant, so that a step is at most so many times what the ratio alone would have it be
_MOST_STEP, _MOST_WIDENING = 1.2, 0.3  # in a round: of a variance's logarithm, and of the width in pixels
_ENDS = (0.01, 0.99)  # quantiles of brightness that a level function reaches to
_ENOUGH = 0.01  # a round that changes less is the last
_SEED = 0x696E7374


class _Secant:
    """Steps of one number towards where nothing is missing, from how far the steps before have brought it."""

    def __init__(self, least_slope: float) -> None:
        self._least, self._before = least_slope, (0.0, 0.0)

    def step(self, place: float, missing: float) -> float:
        """How far to go. missing: how far it would be, did what is missing fall as the place moves."""
        moved, slope = place - self._before[0], 1.0
        if self._before != (0.0, 0.0) and moved:
            slope = min(max((self._before[1] - missing) / moved, self._least), 1.0)
        self._before = place, missing
        return missing / slope


class Estimate(NamedTuple):
    """What was found in one image. low, high: the brightness that it was found at."""

    function: LevelFunction
    low: float
    high: float


def estimate_level_function(model: ScoreModel, pieces: Pieces) -> NoiseModel:
    """The noise of an image that `pieces` stand for, of the simplest family that agrees with what was found.

    model: one that is told maps. Deterministic. Costs up to 20 passes over the pieces. Widths stay within what the
    model was trained on.
    """
    return noise_of_all(model, [find_level_function(model, pieces)])


def noise_of_all(model: ScoreModel, found: list[Estimate]) -> NoiseModel:
    """One noise for images of one instrument: the median of what was found in each."""
    coefficients = np.median([each.function.coefficients for each in found], axis=0)
    width = float(np.median([each.function.width for each in found]))
    low, high = min(each.low for each in found), max(each.high for each in found)
    return LevelFunction(coefficients, width).noise(model.families, low, high)


@torch.no_grad()
def find_level_function(model: ScoreModel, pieces: Pieces) -> Estimate:
    """What estimate_level_function names."""
    noisy = pieces.pixels.cpu().numpy().astype(np.float64)
    counted = np.ones(noisy.shape, bool) if pieces.counted is None else pieces.counted.cpu().numpy()
    guess, clean = first_guess(noisy, counted), noisy
    ends = np.quantile(noisy[counted], _ENDS)
    guess = guess._replace(width=min(guess.width, model.noise.max_width))
    place, of_level, of_width = 0.0, _Secant(_LEAST_SLOPE), _Secant(_LEAST_SLOPE)
    for number in range(_ROUNDS):
        last = number == _ROUNDS - 1
        if last and guess.width < LEAST_WIDTH:
            guess = guess._replace(width=0.0)
        found, wanted, clean = _compare(model, pieces, counted, guess, ends)
        ends = np.quantile(clean[counted], _ENDS)
        width = guess.width
        if not last:
            step = np.clip(of_width.step(width, wanted.width - width), -_MOST_WIDENING, _MOST_WIDENING)
            width = float(np.clip(width + step, 0, model.noise.max_width))
        telling = lags_that_tell(guess.width)
        wider = np.log(passed(guess.width)[telling].mean() / passed(width)[telling].mean())
        missing = float(np.average(wanted.log_ratio, weights=found.pixels))
        step = float(np.clip(of_level.step(place, missing), -_MOST_STEP, _MOST_STEP))
        place += step
        change = wanted.log_ratio - missing + step + wider
        variance = guess.variance(found.x) * np.exp(change)
        settled = np.max(np.abs(change)) < _ENOUGH and abs(width - guess.width) < _ENOUGH
        guess = LevelFunction(fit_variance(found.x, variance, found.pixels), width)
        if settled:
            break
    return Estimate(guess, *map(float, ends))


class _Wanted(NamedTuple):
    """What would make both sides equal. log_ratio: of variances, [C, BINS]; width: in pixels."""

    log_ratio: np.ndarray
    width: float


def _compare(
    model: ScoreModel, pieces: Pieces, counted: np.ndarray, guess: LevelFunction, ends: np.ndarray
) -> tuple[Binned, _Wanted, np.ndarray]:
    """What a guess leaves in the pieces, what it lacks, and the denoised pieces, float64 [N, C, H, W].

    ends: the darkest and the brightest that they are.
    """
    noise = guess.noise(model.families, *map(float, ends))
    found, clean = _sides(model, pieces.pixels, noise, counted, None)
    corrupted = noise.corrupt(np.moveaxis(clean.clip(0, 1), 1, -1), frozen_rng(_SEED, 1))
    again = torch.from_numpy(np.ascontiguousarray(np.moveaxis(corrupted, -1, 1), np.float32)).to(pieces.pixels)
    expected, _ = _sides(model, again, noise, counted, clean)
    by_lag = _correction(found, expected, (1, 2), slice(None))
    by_bin = _correction(found, expected, (0,), lags_that_tell(guess.width))
    return found, _Wanted(np.log(by_bin), width_of(passed(guess.width) * by_lag, near=guess.width)), clean


def _correction(found: Binned, expected: Binned, axes: tuple[int, ...], lags: slice) -> np.ndarray:
    """How many times as large variances have to be. axes: of [LAGS, C, BINS], to add up over."""
    ratios = []
    for each in (found, expected):
        response, power = each.sums[:, lags].sum(axis=tuple(axis + 1 for axis in axes))
        power = np.maximum(power, 1e-12)
        ratios.append(np.maximum(response, 1e-3 * power) / power)
    return np.clip(ratios[1] / ratios[0], np.exp(-_MOST_STEP), np.exp(_MOST_STEP))


def _sides(
    model: ScoreModel, y: torch.Tensor, noise: NoiseModel, counted: np.ndarray, clean: np.ndarray | None
) -> tuple[Binned, np.ndarray]:
    """Both sides of Stein's identity by lag and brightness, and the denoised pieces, float64 [N, C, H, W].

    clean: what brightness is taken from; None takes the denoised pieces.
    """
    z, condition = model.given(y, noise)
    reach = radius(noise.width) if noise.width else 0
    rows, columns = z.shape[2] + 2 * reach, z.shape[3] + 2 * reach
    field = frozen_rng(_SEED, 0).standard_normal((*z.shape[:2], rows, columns))
    u = np.ascontiguousarray(blur(field, kernel(noise.width)) if reach else field, np.float32)
    score = model.unperturbed(z, condition)
    moved = model.unperturbed(z + _PROBE * torch.from_numpy(u).to(z), condition)
    estimate = noise.posterior_mean(y, score).cpu().numpy().astype(np.float64)
    power, response = score.cpu().numpy(), ((score - moved) / _PROBE).cpu().numpy()
    clean = estimate if clean is None else clean
    maps = [
        [difference(u, lag).astype(np.float64) * difference(response, lag) for lag in LAGS],
        [difference(power, lag).astype(np.float64) ** 2 for lag in LAGS],
    ]
    return binned(maps, clean, counted, bin_edges(clean, counted)), estimate
