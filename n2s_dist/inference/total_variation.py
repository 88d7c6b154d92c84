"""Noise2Score's own way to an unknown level (Kim & Ye 2021), to compare with."""

import numpy as np
import torch
from torch import Tensor

from n2s_dist.distributed.precision import full_precision
from n2s_dist.inference.noise_estimation import choose_pieces_for, known_noises, level_range
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.transforms import DARK


@full_precision
def scan_total_variation(model: ScoreModel, noisy: np.ndarray, family: str, levels: int = 50) -> NoiseModel:
    """The way of Noise2Score (Kim & Ye 2021): of evenly spaced levels, the one whose denoised image varies least.

    As in the authors' programs: the score of the noisy image, taken once, goes into Tweedie's formula at every level,
    and the penalty is the denoised image's total variation and, for Poisson and Gamma noise, how ill it fits the
    noisy one. Their network is told no level; here it is told the first guess. Takes what estimate_noise takes.
    """
    known = next(each for each in known_noises(model) if each.family == family)
    pieces = choose_pieces_for(model, noisy)
    y, guess = pieces.pixels, known.first_guess(pieces.squares())
    z, condition = model.given(y, guess)
    with torch.no_grad():
        score = model.unperturbed(z, condition)
    candidates = [known.with_values(float(level)) for level in np.linspace(*level_range(model, known), levels)]
    return min(
        candidates,
        key=lambda noise: _penalty(y, noise.natural_posterior_mean(y, _natural(score, y, guess, noise)), family),
    )


def _natural(score: Tensor, y: Tensor, guess: NoiseModel, noise: NoiseModel) -> Tensor:
    """The score in `noise`'s natural coordinates, which are y or counts, from s_z in `guess`'s stable ones."""
    if guess.family == "gaussian":
        return score / guess.level
    if guess.family == "gamma":
        return (guess.level**0.5 * score - 1) / y.clamp(min=DARK)
    counts = (y / guess.level).clamp(min=0) + 3 / 8
    return (score / counts.sqrt() - 0.5 / counts) * (noise.level / guess.level)


def _penalty(y: Tensor, denoised: Tensor, family: str) -> float:
    """Mean absolute difference of neighbours, with the misfit and its weight that the authors' programs add to it."""
    rows, columns = denoised.diff(dim=-2), denoised.diff(dim=-1)
    variation = float(rows.abs().mean() + columns.abs().mean())
    positive = denoised > DARK
    x, y = denoised[positive], y[positive]
    if family == "poisson":
        return 0.1 * variation + float((x - y * torch.log(x)).mean())
    if family == "gamma":
        return variation + float((torch.log(x) + y / x + (y / x) ** 2).mean())
    return variation
