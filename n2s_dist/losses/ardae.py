"""AR-DAE: learn a score by undoing perturbations of known size (Lim et al. 2020).

For u ~ N(0, I) the loss || u + sigma_a R(w + sigma_a u) ||^2 is least when R is the score of
w + sigma_a u, which tends to the score of w as sigma_a goes to 0.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from n2s_dist.losses.loss import Batch, Loss
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import Coordinates
from n2s_dist.utils import hashing


class Ardae(Loss):
    """(u + sigma_a R(w + sigma_a u))^2: Noise2Score's, whose network is a score."""

    name = "ardae"
    key = "n2s"
    is_perturbed = True

    def values(self, model: ScoreModel, run: Callable[..., Tensor], batch: Batch) -> Tensor:
        w, condition = model.given(batch.noisy, batch.noise)
        told = (condition,) if batch.excess is None else (condition, batch.excess)
        values = ardae_loss(run, w, batch.aux, batch.sigma_a, *told, noiseless=batch.noiseless)
        # An overstated crop's error counts times the excess, squared: a few would outweigh all that is told right.
        return values if batch.excess is None else values / batch.excess.flatten()


def sigma_a_law(
    coordinates: Coordinates, seed: int, positions: np.ndarray, total_samples: int, endpoints: tuple[float, float]
) -> np.ndarray:
    """The perturbation's scale for the samples at some global positions: float64 [B].

    stable    on [endpoints], in noise standard deviations, drawn afresh for each sample. It raises the noise's level
              r = sqrt(1 + sigma_a^2) times; log r is uniform.
    image     annealed linearly from the first endpoint to the second over the whole run (the paper's).
    """
    start, end = endpoints
    if coordinates == "image":
        return start + (end - start) * (positions / total_samples)
    low, high = np.log1p(np.square(endpoints))
    return np.sqrt(np.expm1(low + (high - low) * _share(seed, positions, 0)))


def share_of_range(seed: int, positions: np.ndarray) -> np.ndarray:
    """Where in its family's range the level lies that each sample is raised to, uniform on [0, 1): float64 [B]."""
    return _share(seed, positions, 2)


def raised(sigma_a: np.ndarray, log_raise: np.ndarray) -> np.ndarray:
    """Perturbations that raise each level exp(log_raise) times, or sigma_a where that raises it more: float64 [B].

    With log_raise from NoiseDistribution.log_raise, an image of weak noise teaches all levels above its own, from
    targets that are nearly clean.
    """
    return np.maximum(sigma_a, np.sqrt(np.expm1(2 * np.maximum(0, log_raise))))


def excesses(sigma_a: np.ndarray, log_raise: np.ndarray, overstated: np.ndarray) -> np.ndarray:
    """How many times as much noise the network is to be told as perturbed samples have: float64 [B], at least 1.

    An overstated sample is told the level that log_raise would have raised it to; others are told what they have.
    """
    return np.where(overstated, np.exp(np.maximum(0, log_raise - 0.5 * np.log1p(sigma_a**2))), 1.0)


def is_overstated(seed: int, positions: np.ndarray, share: float) -> np.ndarray:
    """Which samples are told a higher level than they have: bool [B]."""
    return _share(seed, positions, 3) < share


def part_of_raise(seed: int, positions: np.ndarray) -> np.ndarray:
    """How much of its raise, in logarithms, an overstated sample gets, uniform on [0, 1): float64 [B]."""
    return _share(seed, positions, 4)


def _share(seed: int, positions: np.ndarray, number: int) -> np.ndarray:
    """Uniform on [0, 1) for each global position, float64 [B]; another number, another draw."""
    return hashing.hash64(seed, hashing.STREAM_PERTURBATION, positions, number) / 2.0**64


def ardae_loss(
    model: Callable[..., Tensor],
    w: Tensor,
    u: Tensor,
    sigma_a: Tensor,
    *condition: Tensor,
    noiseless: Tensor | None = None,
) -> Tensor:
    """AR-DAE loss, the mean over pixels of (u + sigma_a R(w + sigma_a u))^2: one value a sample, [B].

    model: w, sigma_a and condition to score, a ScoreModel or the same behind data parallelism. w: noisy in working
    coordinates, [B, C, H, W]. u: of the same shape, as perturbations draws it. sigma_a: [B, 1, 1, 1]. condition:
    what else the model is told, if anything. A model that knows nothing scores 1; the least value is below 1 by the
    share of u that can be told from the noise.

    noiseless: bool [B, C, H, W], where w is known to hold no noise at all. Nothing is added there, and the score, in
    units of the noise around, is to be 0.
    """
    if noiseless is None:
        residual = u + sigma_a * model(w + sigma_a * u, sigma_a, *condition)
    else:
        u = u.masked_fill(noiseless, 0)
        score = model(w + sigma_a * u, sigma_a, *condition)
        residual = u + torch.where(noiseless, torch.sqrt(1 + sigma_a**2), sigma_a) * score
    return residual.square().flatten(1).mean(1)
