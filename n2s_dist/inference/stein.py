"""What a score says of an assumed noise: whether it is as strong as the image's, and which of several is likelier.

Stein's identity: a true score has E[s^2 + ds/dz] = 0, so that

    ratio = -E[ds/dz] / E[s^2]

is 1 at the true level, grows with the level that is assumed, and hardly depends on the image. Of noise with covariance
C the network gives g = C s, and E[g^2 + v dg/dz v] = 0 with v ~ N(0, C).

Hyvarinen's objective E[s^2 / 2 + s'] (2005) is half the expected squared distance between a model's score and the true
one, up to a constant that all models share, if all are written in the same coordinate of y.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from n2s_dist.inference.pieces import Pieces
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.transforms import DARK, DIM
from n2s_dist.utils.hashing import frozen_rng

_SEED = 0x6C6576656C

_PROBE = 0.05  # step of finite differences, in noise standard deviations
_ROUNDS = 3  # of corrections: they end within a hundredth of where more would
_MIN_SLOPE = 0.4  # of a secant, so that a step is at most 2.5 times what the ratio alone would have it be


@torch.no_grad()
def score_and_divergence(model: ScoreModel, y: Tensor, noise: NoiseModel) -> tuple[Tensor, Tensor]:
    """s_z and v ds_z/dz v for a fixed sign v at each value, whose mean is the divergence's (Hutchinson 1990).

    Of noise with covariance C the model gives g = C s_z, and v has that covariance: E[g^2 + v dg/dz v] is 0 as well.
    """
    z, condition = model.given(y, noise)
    probe = _probe(noise, z.shape).to(z)
    score = model.unperturbed(z, condition)
    return score, probe * (model.unperturbed(z + _PROBE * probe, condition) - score) / _PROBE


def _probe(noise: NoiseModel, shape: torch.Size) -> Tensor:
    """Signs that are correlated as the noise is, [B, C, H, W]."""
    rng, around = frozen_rng(_SEED, 0), 2 * noise.margin

    def signs(*size: int) -> np.ndarray:
        return rng.integers(0, 2, size, np.int8) * np.float32(2) - 1

    *outer, height, width = shape
    white = signs(*outer, height + around, width + around)
    if noise.field.is_white:
        return torch.from_numpy(white)
    of_rows, of_columns = signs(*outer, height, 1), signs(*outer, 1, width)
    return torch.from_numpy(noise.field.compose(noise.field.blurred(white), of_rows, of_columns))


def ratio(model: ScoreModel, y: Tensor, noise: NoiseModel, counted: Tensor | None = None) -> tuple[float, Tensor]:
    """-E[ds_z/dz] / E[s_z^2] of images [B, C, H, W] under an assumed noise, and their posterior mean.

    counted: bool, the pixels that the means are taken of, or None for all.
    """
    score, divergence = score_and_divergence(model, y, noise)
    share = -_counted(divergence, counted).double().mean() / _counted(score, counted).double().square().mean()
    return float(share.clamp(0.05, 20)), noise.posterior_mean(y, score)


def _counted(values: Tensor, counted: Tensor | None) -> Tensor:
    return values if counted is None else values[counted]


def noised_again(denoised: Tensor, noise: NoiseModel, key: int = 1) -> Tensor:
    """A denoised image [B, C, H, W] with fresh noise on it."""
    clean, rng = denoised.clamp(0, 1).double().cpu().numpy(), frozen_rng(_SEED, key)
    if not noise.field.is_white:  # along which axes it is correlated matters
        again = np.moveaxis(noise.corrupt(np.moveaxis(clean, 1, -1), rng), -1, 1)
    else:
        again = noise.corrupt(clean, rng)
    return torch.from_numpy(np.ascontiguousarray(again, np.float32)).to(denoised)


def find_strength(
    model: ScoreModel,
    pieces: Pieces,
    noise_at: Callable[[float], NoiseModel],
    start: float,
    ends: tuple[float, float],
    power: float,
    rounds: int,
) -> NoiseModel:
    """The noise of a row of them that is as strong as an image's.

    noise_at: by a logarithm, from `start` on and within `ends`; exp of that grows as the variance to this power. The
    first step takes the ratio to grow as the assumed variance does; later ones know how it did grow, which on fine
    texture is slower.
    """
    place, before = start, None
    for _ in range(rounds):
        noise = noise_at(place)
        found, denoised = ratio(model, pieces.pixels, noise, pieces.counted)
        expected, _ = ratio(model, noised_again(denoised, noise), noise, pieces.counted)
        missing = power * math.log(expected / found)
        step = secant_step(place, missing, before)
        place, before = float(np.clip(place + step, *ends)), (place, missing)
    return noise_at(place)


def rescaled(model: ScoreModel, pieces: Pieces, noise: NoiseModel) -> NoiseModel:
    """A noise with the strength that Stein's identity finds, and its own course over brightness and its own width."""
    everywhere = (-math.inf, math.inf)
    return find_strength(model, pieces, lambda place: noise.scaled(math.exp(place)), 0.0, everywhere, 0.5, _ROUNDS)


def secant_step(
    place: float, missing: float, before: tuple[float, float] | None, least_slope: float = _MIN_SLOPE
) -> float:
    """The next step of a search. before: the last place, and what was missing there; None takes a slope of 1."""
    slope = 1.0
    if before is not None and place != before[0]:
        slope = min(max((before[1] - missing) / (place - before[0]), least_slope), 1 / least_slope)
    return missing / slope


def objective(model: ScoreModel, pieces: Pieces, noise: NoiseModel) -> float:
    """Hyvarinen's E[s_u^2 / 2 + ds_u/du], u(y) a coordinate that is the same for every noise.

    With q = dz/du a change of variables gives s_u = q s_z + d log q / du. dy/du is the root of the brightness over
    the dark, where it falls to 0 fast enough for every family: black pixels have no Gamma noise and few photons.
    """
    y, counted = pieces
    score, divergence = (values.double() for values in score_and_divergence(model, y, noise))
    y = y.double()
    inside = y > 2 * DARK
    y = torch.where(inside, y, 2 * DARK).requires_grad_()
    bright = y - DARK
    speed = bright / torch.sqrt(bright + DIM)

    def slope(values: Tensor) -> Tensor:
        """d/du of a function of y."""
        return speed * torch.autograd.grad(values.sum(), y, create_graph=True)[0]

    q = slope(noise.stabilize(y))
    bend = slope(torch.log(q))
    score_u = q * score + bend
    divergence_u = q**2 * divergence + slope(q) * score + slope(bend)
    return float(_counted(torch.where(inside, score_u**2 / 2 + divergence_u, 0).detach(), counted).mean())
