"""Estimate an image's noise from the noisy image alone: its level, and its family where that is unknown too.

    noisy ──► pieces (pieces.py) ──► level by differences of neighbours ──► corrected until the score finds the pieces
              as noisy as pieces made with that level ──► (family unknown: the one whose score fits best)

The measure of how noisy is Stein's identity, and families compete by Hyvarinen's objective (stein.py). A trained
network's ratio at the true level is not exactly 1. What it is there is measured: the denoised pieces get fresh noise of
the assumed level, and their ratio is what the image's own is compared with (indirect inference, Gourieroux, Monfort &
Renault 1993).
"""

import math

import numpy as np

from n2s_dist.distributed.precision import full_precision
from n2s_dist.inference.instrument_estimation import find_noise, noise_to_tell, white_of_flat_areas
from n2s_dist.inference.pieces import PIECE_SIDE, Pieces, choose_pieces
from n2s_dist.inference.stein import find_strength, objective, rescaled
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.specification import format_training_noise
from n2s_dist.utils.errors import UserError

SMALLEST_SIDE = 32  # in pixels

_CORRECTIONS = 3  # of the level: they end within a hundredth of where more would
_LARGE_PIECES = 160  # side in pixels: what is found for each brightness takes more of them
_NOT_OF_ONE_LEVEL = ("poisson-gaussian", "curve")
_CLEARLY = 0.01  # of an objective: as far do estimates of the same noise differ
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
    (instrument_estimation.py).

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
    candidates = known_noises(model)
    if model.condition_kind == "map" and family in (None, *_NOT_OF_ONE_LEVEL):
        found = find_noise(model, choose_pieces_for(model, noisy, missing, _LARGE_PIECES))
        white = [each for each in candidates if each.constant_std is not None]
        if white and family is None and found.of_camera_jpeg is not None:
            return _white(model, white[0], found.of_camera_jpeg)
        if found.is_even or family is not None or not white:
            return noise_to_tell(model, found)
        candidates = white  # texture everywhere: only the weakest noise is sure to do no harm
    if family is not None:
        candidates = [each for each in candidates if each.family == family]
    if not candidates:
        raise UserError(
            f"the family '{family}' can't be estimated: the model was trained on {format_training_noise(model.noise)}"
        )
    pieces = choose_pieces_for(model, noisy, missing)
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

    plain: white noise that another model estimated. holds: whether it may hold if noise is white. White noise of a gray
    image is what the model's score finds, or what flat areas show, as strong as the score has it, where that is
    likelier. In color `plain` stays, if it may hold; else white noise of a formula is estimated, and where flat areas
    show other strength of it, Gaussian noise. What a camera's own denoising left of noise comes as strong Gaussian
    noise (camera_jpegs.py). noisy, missing: as of estimate_noise. Costs as much as denoising at most 1,200,000 pixels;
    4,500,000 in gray.
    """
    large = choose_pieces_for(model, noisy, missing, _LARGE_PIECES)
    found = find_noise(model, large)
    white = next((each for each in known_noises(model) if each.constant_std is not None), None)
    if white is not None and found.of_camera_jpeg is not None:
        return _white(model, white, found.of_camera_jpeg)
    if found.is_correlated:
        return noise_to_tell(model, found)
    if found.is_worth_a_test:
        others = [rescaled(model, large, white_of_flat_areas(model, found))]
        others += [noise_to_tell(model, found)] if found.is_by_score else []
        return _likeliest(model, large, others, plain, holds)
    if not holds and white is not None:
        pieces = choose_pieces_for(model, noisy, missing)
        plain = _correct(model, pieces, white.first_guess(pieces.squares()), _CORRECTIONS)
        if found.agrees_with(plain, pieces.pixels.cpu().numpy()):
            return noise_to_tell(model, found, formula=True)
    return plain


def _likeliest(
    model: ScoreModel, pieces: Pieces, found: list[NoiseModel], plain: NoiseModel, holds: bool
) -> NoiseModel:
    """White noise that was found, or `plain`, unless Hyvarinen's objective is clearly less for one of the others.

    holds: whether `plain` may be taken. It is, too, where the model does not serve all, which then can't be compared.
    """
    if not all(model.serves(each) for each in (plain, *found)):
        return plain
    scored = {objective(model, pieces, each): each for each in found}
    least = min(scored)
    own = objective(model, pieces, plain) if holds else math.inf
    return scored[least] if not holds or least < own - _CLEARLY * abs(own) else plain


def _white(model: ScoreModel, white: NoiseModel, std: float) -> NoiseModel:
    """White noise of this standard deviation, within what the model was trained on. white: of any level."""
    low, high = level_range(model, white)
    assert white.constant_std is not None
    return white.with_values(float(np.clip(white.level * std / white.constant_std, low, high)))


def color_from_luma(found: NoiseModel, gray: ScoreModel, color: ScoreModel) -> NoiseModel:
    """What a color network is to be told of an image whose chroma went through JPEG at half the resolution.

    found: the noise of its luma, as estimated by a gray network. Luma keeps 0.67 of the standard deviation of noise
    that is independent in three channels. Chroma keeps less, but blurred over pixels, which a network removes better
    when told of stronger noise: _OF_LUMA is the best factor on photographs at quality 90 and 95. The gray network's
    weakest level, below which it can't tell, is the color one's weakest.
    """
    ends = ([found.with_values(level) for level in level_range(model, found)] for model in (gray, color))
    weakest_gray, weakest_color = (min(both, key=lambda noise: noise.std(0.5)) for both in ends)
    if math.isclose(found.level, weakest_gray.level, rel_tol=1e-3):
        return weakest_color
    return found.scaled(_OF_LUMA)


def known_noises(model: ScoreModel) -> list[NoiseModel]:
    """A noise of each family that the model was trained on."""
    if model.coordinates == "image":
        raise UserError("noise is estimated by a model in stable coordinates (ardae.coordinates: stable)")
    known = [each.low for each in model.noise.ranges if not each.is_correlated]
    if not known or (model.noise.is_correlated and model.condition_kind != "map"):
        raise UserError("the strength of correlated noise can't be estimated: name it, such as gaussian:25+blur:0.7")
    return known


def level_range(model: ScoreModel, noise: NoiseModel) -> tuple[float, float]:
    """Lowest and highest level that an estimate can have."""
    trained = model.noise.range_of(noise.family)
    if model.noise.is_single or trained is None:
        parameter = noise.parameters[0]
        return parameter.least, parameter.high / parameter.scale
    return trained.low.level, trained.high.level


def choose_pieces_for(
    model: ScoreModel, noisy: np.ndarray, missing: np.ndarray | None = None, side: int = PIECE_SIDE
) -> Pieces:
    """Pieces of an image on the model's device. noisy, missing: as of estimate_noise. side: of pieces, in pixels."""
    device = next(model.parameters()).device
    pixels, counted = choose_pieces(noisy, missing, side)
    return Pieces(pixels.to(device), None if counted is None else counted.to(device))


def _correct(model: ScoreModel, pieces: Pieces, noise: NoiseModel, rounds: int) -> NoiseModel:
    """Move the level until y is as noisy to the score as its own denoised version with that noise put on."""
    ends = np.log(level_range(model, noise))
    start = float(np.clip(math.log(noise.level), *ends))
    power = noise.parameters[0].power
    return find_strength(
        model, pieces, lambda place: noise.with_values(math.exp(place)), start, tuple(ends), power, rounds
    )
