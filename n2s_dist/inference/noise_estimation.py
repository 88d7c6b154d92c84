"""Estimate an image's noise from the noisy image alone: its level, and its family where that is unknown too.

    noisy ──► pieces (pieces.py) ──► level by differences of neighbours ──► corrected until the score finds the pieces
              as noisy as pieces made with that level ──► (family unknown: the one whose score fits best)

The measure of how noisy is Stein's identity. A true score has E[s^2 + ds/dz] = 0, so that

    ratio = -E[ds/dz] / E[s^2]

is 1 at the true level, grows with the level that is assumed, and hardly depends on the image. A trained network's
ratio at the true level is not exactly 1. What it is there is measured: the denoised pieces get fresh noise of the
assumed level, and their ratio is what the image's own is compared with (indirect inference, Gourieroux, Monfort &
Renault 1993).

Families compete by Hyvarinen's objective E[s^2 / 2 + s'] (2005), which is half the expected squared distance
between a model's score and the true one, up to a constant that all models share, if all are written in the same
coordinate of y.
"""

import math

import numpy as np
import torch
from torch import Tensor

from n2s_dist.distributed.precision import full_precision
from n2s_dist.inference.instrument_estimation import find_level_function, noise_of_all
from n2s_dist.inference.pieces import PIECE_SIDE, Pieces, choose_pieces
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.specification import format_training_noise
from n2s_dist.noise.transforms import DARK, DIM
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.hashing import frozen_rng

SMALLEST_SIDE = 32  # in pixels

_PROBE = 0.05  # step of finite differences, in noise standard deviations
_CORRECTIONS = 3  # of the level: they end within a hundredth of where more would
_MIN_SLOPE = 0.4  # of a secant, so that a step is at most 2.5 times what the ratio alone would have it be
_SEED = 0x6C6576656C
_LARGE_PIECES = 160  # side in pixels: what is found for each brightness takes more of them
_NOT_OF_ONE_LEVEL = ("poisson-gaussian", "curve")
_SAFETY = 1.05  # times a standard deviation: told 5 % too little costs up to 0.5 dB, 5 % too much next to nothing
_OF_LUMA = 2.0  # standard deviations: color_from_luma


@full_precision
def estimate_noise(
    model: ScoreModel, noisy: np.ndarray, family: str | None = None, missing: np.ndarray | None = None
) -> NoiseModel:
    """The noise of one image, of `family` or, where None, of the likeliest of the families that the model knows.

    model: a ScoreModel in stable coordinates. noisy: float [H, W, C] on the 0-1 scale, of at least 32 x 32 pixels.
    missing: bool [H, W, C], pixels that are only filled in; like clipped and constant ones they do not count.
    Deterministic; costs as much as denoising at most 450,000 pixels, or a million where the family is unknown. A level
    out of the range that the model was trained on comes back as that range's nearest end. Where the family is unknown,
    a model that is told maps (models/conditioning.py) estimates strength at each brightness and correlation instead
    (instrument_estimation.py), and is told a twentieth more than that.

    Raises UserError for an image too small or with values that are not finite, for a family that the model was not
    trained on, and for a model in image coordinates, whose score is of one level alone.
    """
    height, width = noisy.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"the image has {width} x {height} pixels: to estimate its noise takes {SMALLEST_SIDE} x {SMALLEST_SIDE} "
            "or more, so name the noise"
        )
    if not np.isfinite(noisy).all():
        raise UserError("the image has values that are not finite: its noise can't be estimated")
    candidates = _known(model)
    if model.condition_kind == "map" and family in (None, *_NOT_OF_ONE_LEVEL):
        found = find_level_function(model, _pieces(model, noisy, missing, _LARGE_PIECES))
        white = [each for each in candidates if each.constant_std is not None]
        if white and family is None and found.of_camera_jpeg is not None:
            return _white(model, white[0], found.of_camera_jpeg)
        if found.is_even or family is not None or not white:
            return noise_of_all(model, [found]).scaled(_SAFETY)
        candidates = white  # texture everywhere: only the weakest noise is sure to do no harm
    if family is not None:
        candidates = [each for each in candidates if each.family == family]
    if not candidates:
        raise UserError(
            f"the family '{family}' can't be estimated: the model was trained on {format_training_noise(model.noise)}"
        )
    pieces = _pieces(model, noisy, missing)
    squares = pieces.squares()
    if len(candidates) == 1:
        return _correct(model, pieces, candidates[0].first_guess(squares), _CORRECTIONS)
    rough = [_correct(model, pieces, each.first_guess(squares), 1) for each in candidates]
    chosen = min(rough, key=lambda noise: objective(model, pieces, noise))
    return _correct(model, pieces, chosen, _CORRECTIONS - 1)


def checked_noise(
    model: ScoreModel, noisy: np.ndarray, plain: NoiseModel, holds: bool, missing: np.ndarray | None = None
) -> NoiseModel:
    """An image's noise by a model that is told maps, where that is surely noise and no texture; else `plain`.

    plain: white noise that another model estimated. holds: whether it may hold if noise is white; if it does not, white
    noise of a formula is estimated, and where Stein's identity finds another strength of it, Gaussian noise. What a
    camera's own denoising left of noise comes as strong Gaussian noise (camera_jpegs.py). noisy, missing: as of
    estimate_noise. Costs as much as denoising at most 600,000 pixels, or a million.
    """
    found = find_level_function(model, _pieces(model, noisy, missing, _LARGE_PIECES))
    white = next((each for each in _known(model) if each.constant_std is not None), None)
    if white is not None and found.of_camera_jpeg is not None:
        return _white(model, white, found.of_camera_jpeg)
    if found.is_correlated:
        return noise_of_all(model, [found]).scaled(_SAFETY)
    if holds or white is None:
        return plain
    pieces = _pieces(model, noisy, missing)
    gaussian = _correct(model, pieces, white.first_guess(pieces.squares()), _CORRECTIONS)
    if found.agrees_with(gaussian, pieces.pixels.cpu().numpy()):
        return noise_of_all(model, [found], formula=True).scaled(_SAFETY)
    return gaussian


def _white(model: ScoreModel, white: NoiseModel, std: float) -> NoiseModel:
    """White noise of this standard deviation, within what the model was trained on. white: of any level."""
    low, high = _range(model, white)
    assert white.constant_std is not None
    return white.with_values(float(np.clip(white.level * std / white.constant_std, low, high)))


def color_from_luma(found: NoiseModel, gray: ScoreModel, color: ScoreModel) -> NoiseModel:
    """What a color network is to be told of an image whose chroma went through JPEG at half the resolution.

    found: the noise of its luma, as estimated by a gray network. Luma keeps 0.67 of the standard deviation of noise
    that is independent in three channels. Chroma keeps less, but blurred over pixels, which a network removes better
    when told of stronger noise: _OF_LUMA is the best factor on photographs at quality 90 and 95. The gray network's
    weakest level, below which it can't tell, is the color one's weakest.
    """
    ends = ([found.with_values(level) for level in _range(model, found)] for model in (gray, color))
    weakest_gray, weakest_color = (min(both, key=lambda noise: noise.std(0.5)) for both in ends)
    if math.isclose(found.level, weakest_gray.level, rel_tol=1e-3):
        return weakest_color
    return found.scaled(_OF_LUMA)


def _known(model: ScoreModel) -> list[NoiseModel]:
    """A noise of each family that the model was trained on."""
    if model.coordinates == "image":
        raise UserError("noise is estimated by a model in stable coordinates (ardae.coordinates: stable)")
    known = [each.low for each in model.noise.ranges if not each.is_correlated]
    if not known or (model.noise.is_correlated and model.condition_kind != "map"):
        raise UserError("the strength of correlated noise can't be estimated: name it, such as gaussian:25+blur:0.7")
    return known


def _range(model: ScoreModel, noise: NoiseModel) -> tuple[float, float]:
    """Lowest and highest level that an estimate can have."""
    trained = model.noise.range_of(noise.family)
    if model.noise.is_single or trained is None:
        parameter = noise.parameters[0]
        return parameter.least, parameter.high / parameter.scale
    return trained.low.level, trained.high.level


def _pieces(model: ScoreModel, noisy: np.ndarray, missing: np.ndarray | None = None, side: int = PIECE_SIDE) -> Pieces:
    device = next(model.parameters()).device
    pixels, counted = choose_pieces(noisy, missing, side)
    return Pieces(pixels.to(device), None if counted is None else counted.to(device))


@torch.no_grad()
def score_and_divergence(model: ScoreModel, y: Tensor, noise: NoiseModel) -> tuple[Tensor, Tensor]:
    """s_z and v ds_z/dz v for a fixed sign v at each value, whose mean is the divergence's (Hutchinson 1990)."""
    z, condition = model.given(y, noise)
    signs = torch.from_numpy(frozen_rng(_SEED, 0).integers(0, 2, z.shape, np.int8)).to(z) * 2 - 1
    score = model.unperturbed(z, condition)
    return score, signs * (model.unperturbed(z + _PROBE * signs, condition) - score) / _PROBE


def ratio(model: ScoreModel, y: Tensor, noise: NoiseModel, counted: Tensor | None = None) -> tuple[float, Tensor]:
    """-E[ds_z/dz] / E[s_z^2] of images [B, C, H, W] under an assumed noise, and their posterior mean.

    counted: bool, the pixels that the means are taken of, or None for all.
    """
    score, divergence = score_and_divergence(model, y, noise)
    share = -_counted(divergence, counted).double().mean() / _counted(score, counted).double().square().mean()
    return float(share.clamp(0.05, 20)), noise.posterior_mean(y, score)


def _counted(values: Tensor, counted: Tensor | None) -> Tensor:
    return values if counted is None else values[counted]


def _correct(model: ScoreModel, pieces: Pieces, noise: NoiseModel, rounds: int) -> NoiseModel:
    """Move the level until y is as noisy to the score as its own denoised version with that noise put on.

    The first step takes the ratio to grow as the assumed variance does; later ones know how it did grow, which on
    fine texture is slower (secants).
    """
    power = noise.parameters[0].power
    y, counted = pieces
    low, high = np.log(_range(model, noise))
    place, before = float(np.clip(math.log(noise.level), low, high)), None
    for _ in range(rounds):
        noise = noise.with_values(math.exp(place))
        found, denoised = ratio(model, y, noise, counted)
        clean = denoised.clamp(0, 1).double().cpu().numpy()
        again = noise.corrupt(clean, frozen_rng(_SEED, 1)).astype(np.float32)
        expected, _ = ratio(model, torch.from_numpy(again).to(y), noise, counted)
        missing = power * math.log(expected / found)
        slope = 1.0
        if before is not None and place != before[0]:
            slope = min(max((before[1] - missing) / (place - before[0]), _MIN_SLOPE), 1 / _MIN_SLOPE)
        before = place, missing
        place = float(np.clip(place + missing / slope, low, high))
    return noise.with_values(math.exp(place))


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


@full_precision
def scan_total_variation(model: ScoreModel, noisy: np.ndarray, family: str, levels: int = 50) -> NoiseModel:
    """The way of Noise2Score (Kim & Ye 2021): of evenly spaced levels, the one whose denoised image varies least.

    As in the authors' programs: the score of the noisy image, taken once, goes into Tweedie's formula at every level,
    and the penalty is the denoised image's total variation and, for Poisson and Gamma noise, how ill it fits the
    noisy one. Their network is told no level; here it is told the first guess. Takes what estimate_noise takes.
    """
    known = next(each for each in _known(model) if each.family == family)
    pieces = _pieces(model, noisy)
    y, guess = pieces.pixels, known.first_guess(pieces.squares())
    z, condition = model.given(y, guess)
    with torch.no_grad():
        score = model.unperturbed(z, condition)
    candidates = [known.with_values(float(level)) for level in np.linspace(*_range(model, known), levels)]
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
