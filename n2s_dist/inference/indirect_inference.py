"""The noise of a gray image, by a network's score: its strength at each brightness, and the width of its correlation.

    pieces, some noise assumed ──► score ──► Stein's ratio by brightness, correlation of neighbors ─┐
    denoised pieces with fresh noise of that kind ──► score ──► the same                            ┴──► next guess

Where the assumed noise is the true one the two agree, whatever a network does wrong (indirect inference, Gourieroux,
Monfort & Renault 1993). Unlike flat areas, Stein's identity holds wherever the picture has texture.

A network that is told noise of some width finds noise that is nearly as correlated as the image's own is. So the
correlation of what it finds, against what it finds where that width is true, shows the true width.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from n2s_dist.distributed.precision import full_precision
from n2s_dist.inference.level_function import BINS, ENDS, LevelFunction, bernstein, bin_edges
from n2s_dist.inference.pieces import Pieces
from n2s_dist.inference.stein import noised_again, score_and_divergence, secant_step
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.blurred import autocorrelation
from n2s_dist.noise.correlated import blurred
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.transforms import spread

_ROUNDS = 6
_ROUNDS_OF_WHITE = 3  # after it has turned out to be white
_FIRST_WIDTH = 0.6  # in pixels: told white noise, a network leaves correlated noise alone
_FAR = 4  # in pixels: beyond most kernels
_WHITE_FROM = 1  # the round after which noise may turn out to be white
_NARROWEST = 0.47  # in pixels: white noise shows less, if late where there is much texture, noise of 0.5 at least 0.49
_MIN_SLOPE = 0.3  # of a secant over correlations, so that a step is at most 3.3 times what is missing
_FEWEST = 200  # pixels in a bin of brightness
_MOST = 8.0  # times a variance, in one round
_APART = 0.3  # root of the mean square, of a variance in logarithms, in the last round: texture was seen with 0.5
_WIDTHS = np.linspace(0.01, 2.5, 250)
_CORRELATIONS = np.array([autocorrelation(float(width), [1])[0] for width in _WIDTHS])
_LINE = np.array([[1, 0], [1, 0.5], [1, 1]])  # 1 and x in Bernstein's basis
_LEAST_SLOPE, _LEAST_VARIANCE = 1e-5, 1e-8  # of a Poisson-Gaussian noise


class _Seen(NamedTuple):
    """What a score says of images under an assumed noise.

    edges: of bins of brightness, [BINS + 1]. x: mean brightness, ratio: -E[ds/dz] / E[s^2], pixels: how many, [BINS].
    correlation: between neighbors, of the noise that was found.
    """

    denoised: Tensor
    edges: np.ndarray
    x: np.ndarray
    ratio: np.ndarray
    pixels: np.ndarray
    correlation: float


class Fit(NamedTuple):
    """What was found, and the brightness that it was found at."""

    function: LevelFunction
    low: float
    high: float


@full_precision
@torch.no_grad()
def fit_noise(model: ScoreModel, pieces: Pieces) -> Fit | None:
    """The strength at each brightness, and the width, of the noise of gray pieces; None where no such noise fits.

    model: one that is told maps, of white and of correlated noise. The variance is a line over brightness, as a
    sensor's is: curves go astray where images are dark and clipped. Widths stay within what the model was trained on.
    Deterministic; costs 24 passes over the pieces, up to 36 where noise turns out late to be white.
    """
    widest, counted = model.noise.max_width, pieces.mask()
    function, before = LevelFunction(np.full((1, 3), _first_variance(pieces)), min(_FIRST_WIDTH, widest)), None
    ends, apart, last = (0.0, 1.0), math.inf, _ROUNDS
    for number in range(_ROUNDS + _ROUNDS_OF_WHITE):
        if number == last:
            break
        told = _told(model, function, ends)
        here = _look(model, pieces, told)
        ends = tuple(np.quantile(here.denoised.cpu().numpy()[counted], ENDS).tolist())
        again = Pieces(noised_again(here.denoised, told, key=number + 1), pieces.counted)
        there = _look(model, again, told, here.edges)
        usable = np.minimum(here.pixels, there.pixels) >= _FEWEST
        if not usable.any():
            break
        x, grown = here.x[usable], np.clip(there.ratio / here.ratio, 1 / _MOST, _MOST)[usable]
        variance = np.broadcast_to(told.std(x[:, None]), (len(x), 1))[:, 0] ** 2
        coefficients = _least_squares(x, variance * grown, here.pixels[usable])
        apart = np.sqrt(np.average(np.log(grown) ** 2, weights=here.pixels[usable]))
        width = function.width
        if width:
            place, missing = float(np.interp(width, _WIDTHS, _CORRELATIONS)), here.correlation - there.correlation
            place, before = place + secant_step(place, missing, before, _MIN_SLOPE), (place, missing)
            width = min(float(np.interp(place, _CORRELATIONS, _WIDTHS)), widest)
            width = max(width, _NARROWEST) if number < _WHITE_FROM else width * (width >= _NARROWEST)
            last = max(_ROUNDS, number + 1 + _ROUNDS_OF_WHITE) if not width else last
        function = LevelFunction(coefficients[None], width)
    return Fit(function, *ends) if apart < _APART else None


def _first_variance(pieces: Pieces) -> float:
    """Too much rather than too little: told far too little, a network takes nothing, and the search stands still."""
    y, counted = pieces.pixels.cpu(), torch.from_numpy(pieces.mask())
    apart = (y[..., _FAR:] - y[..., :-_FAR])[counted[..., _FAR:] & counted[..., :-_FAR]]
    return spread(apart.abs()) / 2


def _told(model: ScoreModel, function: LevelFunction, ends: tuple[float, float]) -> NoiseModel:
    """What the network is told in between: the nearest formula, Poisson-Gaussian noise where it knows that."""
    if PoissonGaussian.family not in model.families:
        return function.noise([each for each in model.families if each != Curve.family], *ends)
    x = np.linspace(*ends, 2 * BINS)
    start, _, end = _least_squares(x, function.variance(x[None])[0], np.ones(len(x)))
    white = PoissonGaussian(max(end - start, _LEAST_SLOPE), max(start, _LEAST_VARIANCE) ** 0.5)
    return blurred(white, round(function.width, 3)) if function.width else white


def _look(model: ScoreModel, pieces: Pieces, noise: NoiseModel, edges: np.ndarray | None = None) -> _Seen:
    """edges: of bins of brightness; None chooses them."""
    score, divergence = score_and_divergence(model, pieces.pixels, noise)
    denoised = noise.posterior_mean(pieces.pixels, score)
    counted = pieces.mask()
    s, ds, x = (each.cpu().numpy().astype(np.float64) for each in (score, divergence, denoised))
    if edges is None:
        edges = bin_edges(x, counted)[0]
    bins = np.clip(np.searchsorted(edges, x[counted], side="right") - 1, 0, BINS - 1)
    pixels = np.bincount(bins, minlength=BINS)
    mean, slopes, squares = (
        np.bincount(bins, values[counted], BINS) / np.maximum(pixels, 1) for values in (x, -ds, s**2)
    )
    return _Seen(
        denoised, edges, mean, np.clip(slopes / np.maximum(squares, 1e-9), 0.05, 20), pixels, _along(s, counted)
    )


def _along(values: np.ndarray, counted: np.ndarray) -> float:
    """The correlation between neighbors that both count, across and down."""
    products = squares = 0.0
    for one, two in ((np.s_[..., 1:], np.s_[..., :-1]), (np.s_[..., 1:, :], np.s_[..., :-1, :])):
        both = counted[one] & counted[two]
        a, b = values[one][both], values[two][both]
        products, squares = products + float(a @ b), squares + float(a @ a + b @ b) / 2
    return products / max(squares, 1e-9)


def _least_squares(x: np.ndarray, variance: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Bernstein's coefficients [3] of a line, nowhere falling, through variances at brightnesses x: relative errors."""
    terms, expected = bernstein(x) @ _LINE, variance
    for _ in range(4):
        weights = np.sqrt(pixels) / expected
        factors, _ = nnls(terms * weights[:, None], variance * weights)
        expected = np.maximum(terms @ factors, 0.2 * variance)
    return _LINE @ factors
