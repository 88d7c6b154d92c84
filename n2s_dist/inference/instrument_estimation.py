"""Estimate any noise level function and the noise's correlation from one noisy image.

    noisy ──► pieces ──► denoised as if the noise were stronger than it is ──► what was taken from flat areas, by
              brightness and scale (residuals.py) ──► the next guess, and so on
                                          └──► gray, and even: what the score says (indirect_inference.py)

For a network that is told maps. Told too much, it takes all noise from a flat area and leaves what is not flat (it has
been trained so: ardae.overstated), so what it takes there is the noise itself, however it came about. Told too little,
it would leave the coarse part of correlated noise and never find it. How much the network takes of known noise is
measured as well, on the denoised pieces with noise of the guess, and divided out (indirect inference).

The noise of gray images is a sensor's, of one kernel, and a score tells it from texture. A camera's colors went through
demosaicing and JPEG, which no noise that a network is told describes; for them flat areas have the last word.

A kernel that is wider than the noise's costs decibels, one that is narrower next to nothing, as long as the density at
coarse scales is right. A camera's noise has a kernel in each channel and JPEG's on top: the width that color networks
are told is less than the one that was found.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from n2s_dist.distributed.precision import full_precision
from n2s_dist.inference import residuals
from n2s_dist.inference.camera_jpegs import CalmStrengths, calm_strengths
from n2s_dist.inference.indirect_inference import fit_noise
from n2s_dist.inference.level_function import ENDS, LEAST_WIDTH, LevelFunction, fit_variance
from n2s_dist.inference.pieces import Pieces
from n2s_dist.inference.residuals import Residual, strengths
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.correlated import blurred
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.utils.hashing import frozen_rng

_ROUNDS = 4
_START = Gaussian(40 / 255)
_START_WIDTH = 0.6  # in pixels: told white noise, a gray network leaves correlated noise alone
_WIDER = 0.05  # in pixels, than what was found: in the next round of a gray network
_NARROWER = 0.25  # in pixels, than what was found: what a color network is told in the end
_OVERSTATED = 1.4  # how many times the standard deviation that was found is told in the next round
_UNEVEN, _TEXTURE = 0.5, 12 / 255  # what is less even and of no more than this standard deviation is texture
_SURE = 0.62  # what is as even as this is noise
_FINE = 0.62  # of the strength at a scale of 2 pixels, at 1 pixel: sure noise with less is correlated
_SURER, _NARROW = 0.72, 0.72  # the same of more even noise, for narrow kernels: those of 0.5 pixels have 0.66
_ENOUGH = 128  # side of the pieces in pixels: smaller ones hold too few coarse squares
_KERNEL_HOLDS = 0.55  # of a level by the calmest places: where more is found, a Gaussian kernel holds
_AGREEMENT = 0.25  # of two standard deviations, in logarithms
_MOST_CORRECTION = 1.12  # of a standard deviation, by what the network takes of known noise
_FEWEST = 8192  # pixels for a score to be asked
_ALIKE = 0.1  # relative error of a variance below which a simpler formula is taken, if a score has found it
_SAFETY = 1.05  # times a standard deviation: told 5 % too little costs up to 0.5 dB, 5 % too much next to nothing
_SEED = 0x696E7374


class Estimate(NamedTuple):
    """What was found in one image.

    low, high: the brightness that it was found at. is_even: it is noise, not texture. is_correlated: it is surely
    noise, and correlated over pixels. is_by_score: a score has said so, not flat areas alone. is_worth_a_test: it is
    even, and of a gray image of pixels enough: what is likelier can be asked of a score. flat: what flat areas alone
    say. coarse: its standard deviation at a scale of 8 pixels. calm: what the calmest places of a color image show.
    """

    function: LevelFunction
    low: float
    high: float
    is_even: bool
    is_correlated: bool
    is_by_score: bool
    is_worth_a_test: bool
    flat: LevelFunction
    coarse: float
    calm: CalmStrengths | None

    @property
    def of_camera_jpeg(self) -> float | None:
        """The standard deviation to tell as white noise where a camera has denoised its JPEG; None where none has.

        There a Gaussian kernel does not hold, and the search with one ends far below what calm places show.
        """
        if self.calm is None or not self.calm.is_smoothed:
            return None
        holds = not self.calm.is_denoised and self.coarse > _KERNEL_HOLDS * self.calm.level
        return None if holds else self.calm.level

    def agrees_with(self, white: NoiseModel, y: np.ndarray) -> bool:
        """Whether it is white, and over images y [N, C, H, W] as strong as a white noise, within a fourth."""
        seen = y.clip(self.low, self.high)
        own, other = self.function.variance_of(seen).mean(), np.mean(white.std(np.moveaxis(seen, 1, -1)) ** 2)
        return self.function.width < LEAST_WIDTH and abs(math.log(own / other)) < 2 * _AGREEMENT


def noise_of_all(model: ScoreModel, found: list[Estimate], formula: bool = False) -> NoiseModel:
    """One noise for images of one instrument: the median of what was found in each, of the simplest family that agrees.

    formula: take the family that comes nearest where none agrees, and no curve, which may go astray at rare brightness.

    Images with texture everywhere count only if there are no others.
    """
    found = [each for each in found if each.is_even] or found
    coefficients = np.median([each.function.coefficients for each in found], axis=0)
    width = float(np.median([each.function.width for each in found]))
    low, high = min(each.low for each in found), max(each.high for each in found)
    families = [each for each in model.families if not formula or each != Curve.family]
    function = LevelFunction(coefficients, width)
    if all(each.is_by_score for each in found):
        return function.noise(families, low, high, _ALIKE)
    return function.noise(families, low, high)


def noise_to_tell(model: ScoreModel, found: Estimate, formula: bool = False) -> NoiseModel:
    """What was found in an image, with a margin unless a score has found white noise. formula: as of noise_of_all."""
    noise = noise_of_all(model, [found], formula)
    return noise if found.is_by_score and not noise.width else noise.scaled(_SAFETY)


def white_of_flat_areas(model: ScoreModel, found: Estimate) -> NoiseModel:
    """The formula of white noise that comes nearest to what flat areas alone say."""
    return noise_of_all(model, [found._replace(function=found.flat, is_by_score=False)], formula=True).white


def find_noise(model: ScoreModel, pieces: Pieces) -> Estimate:
    """The strength at each brightness and the correlation of the noise of an image that `pieces` stand for.

    Noise that flat areas are sure is correlated stays what they say: they see kernels of any form, up to 8 pixels. But
    where no noise fits the score it is texture.

    model: one that is told maps. Deterministic. Costs 5 passes over the pieces; of gray images 29 or more. Widths stay
    within what the model was trained on.
    """
    found = find_level_function(model, pieces)
    if pieces.pixels.shape[1] > 1 or pieces.mask().sum() < _FEWEST or not found.is_even:
        return found
    found = found._replace(is_worth_a_test=True)
    fit = fit_noise(model, pieces)
    if found.is_correlated:
        return found if fit is not None else found._replace(is_even=False, is_correlated=False, is_worth_a_test=False)
    if fit is None:
        return found
    return found._replace(**fit._asdict(), is_correlated=fit.function.width > 0, is_by_score=True)


@full_precision
@torch.no_grad()
def find_level_function(model: ScoreModel, pieces: Pieces) -> Estimate:
    """As find_noise, by flat areas alone."""
    noisy = pieces.pixels.cpu().numpy().astype(np.float64)
    counted = pieces.mask()
    finder = _Finder(model, counted, noisy.shape[1] == 1)
    told = finder.start
    guess = LevelFunction(np.full((noisy.shape[1], 3), _START.sigma**2), 0.0)
    calm = None
    for number in range(_ROUNDS):
        clean = finder.denoised(pieces.pixels, told)
        if number == 0 and min(noisy.shape[-2:]) >= _ENOUGH:
            calm = calm_strengths(noisy - clean, clean, counted)
        for _ in range(2):  # flat areas depend on the guess
            found = residuals.measure(noisy - clean, clean, counted, guess.variance_of(clean))
            guess = LevelFunction(_fit(found, found.variance), found.width)
        low, high = map(float, np.quantile(clean[counted], ENDS))
        told = finder.overstated(guess, found).noise(finder.families, low, high)
    function = finder.corrected(guess, found, clean, told, (low, high))
    strongest = float(np.sqrt(function.variance(np.full((len(function.coefficients), 1), high)).max()))
    is_even = found.evenness >= _UNEVEN or strongest > _TEXTURE
    fine = _FINE if found.evenness < _SURER else _NARROW
    correlated = found.evenness >= _SURE and min(noisy.shape[-2:]) >= _ENOUGH and found.relative[0] < fine
    coarse = float(np.sqrt(function.variance_of(clean)[counted].mean())) * strengths(function.width)[-1]
    return Estimate(function, low, high, is_even, bool(correlated), False, False, function, coarse, calm)


def _fit(found: Residual, variance: np.ndarray) -> np.ndarray:
    """Coefficients [C, 3] of a level function, from variances at the brightnesses where there are any."""
    rows = []
    for x, own, squares in zip(found.x, variance, found.squares, strict=True):
        there = squares > 0
        rows.append(fit_variance(x[None, there], own[None, there], squares[None, there])[0])
    return np.stack(rows)


class _Finder(NamedTuple):
    """A network, the pixels that count, and whether images are gray."""

    model: ScoreModel
    counted: np.ndarray
    is_gray: bool

    @property
    def families(self) -> list[str]:
        """That it is told of in between: a gray network that is told a curve leaves noise where the curve is off."""
        return [each for each in self.model.families if not self.is_gray or each != Curve.family]

    @property
    def start(self) -> NoiseModel:
        width = min(_START_WIDTH, self.model.noise.max_width)
        return blurred(_START, width) if self.is_gray and width else _START

    def denoised(self, y: torch.Tensor, told: NoiseModel) -> np.ndarray:
        """Pieces [N, C, H, W] without noise that is told, float64."""
        z, condition = self.model.given(y, told)
        estimate = told.posterior_mean(y, self.model.unperturbed(z, condition))
        return estimate.cpu().numpy().astype(np.float64)

    def width(self, found: float) -> float:
        """What the network is to be told in the end, where a width was found."""
        return min(max(found if self.is_gray else found - _NARROWER, 0.0), self.model.noise.max_width)

    def overstated(self, guess: LevelFunction, found: Residual) -> LevelFunction:
        """What is told in the next round."""
        if self.is_gray:
            width = min(guess.width + _WIDER, self.model.noise.max_width) if guess.width else 0.0
            level = found.level(width)
        else:
            width, told = 0.0, self.width(guess.width)
            level = found.level(told) * strengths(told)[-1]
        strongest = max(float(np.max(each.high.std(0.5))) for each in self.model.noise.ranges)
        most = strongest / max(float(np.sqrt(guess.coefficients.max())), 1e-6)
        return LevelFunction(guess.coefficients * min(level * _OVERSTATED, most) ** 2, width)

    def corrected(
        self, guess: LevelFunction, found: Residual, clean: np.ndarray, told: NoiseModel, ends: tuple[float, float]
    ) -> LevelFunction:
        """The guess over what the network takes of noise that is known to be there."""
        known = LevelFunction(guess.coefficients * found.level(guess.width) ** 2, guess.width)
        noise = known.noise(self.model.families, *ends)
        corrupted = noise.corrupt(np.moveaxis(clean.clip(0, 1), 1, -1), frozen_rng(_SEED, 0))
        device = next(self.model.parameters()).device
        again = torch.from_numpy(np.ascontiguousarray(np.moveaxis(corrupted, -1, 1), np.float32))
        taken = np.moveaxis(corrupted, -1, 1) - self.denoised(again.to(device), told)
        seen = residuals.measure(taken, clean, self.counted, guess.variance_of(clean))
        there = known.variance(seen.x) * strengths(guess.width)[1] ** 2
        share = np.clip(there / np.maximum(seen.variance, 1e-12), _MOST_CORRECTION**-2, _MOST_CORRECTION**2)
        width = self.width(guess.width)
        return LevelFunction(_fit(found, found.variance * share) * found.level(width) ** 2, width)
