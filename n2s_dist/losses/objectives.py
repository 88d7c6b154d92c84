"""What each method learns by: a loss on one batch, one value a sample, [B].

All methods have one network, one scaling (score_model.py), one loader and one way to denoise, `ScoreModel.denoise`. Its
network's output F stands for the noise in stable coordinates z (noise/base.py), where it has unit variance:

    ardae         s = -F / (1 + sigma_a^2) is the score of z + sigma_a u; Tweedie's formula denoises
    the others    d = z - F is the clean image; the same formula, with s = -F, brings it back to the 0-1 scale: x_hat(y)

| method      | loss, a mean over pixels              | its expectation for Gaussian noise                            |
|-------------|---------------------------------------|---------------------------------------------------------------|
| supervised  | (x_hat(y) - x)^2 / sigma^2            | mean squared error over sigma^2: MSE                          |
| noise2noise | (x_hat(y) - y_2)^2 / sigma^2          | MSE + 1                                                       |
| noise2void  | (x_hat(y') - y)^2 / sigma^2 where y'  | MSE + 1 of predicting a pixel from others, as y' has          |
|             | has a neighbour's value in place of y | another's value there                                         |
| sure        | 1 + s^2 + 2 b . (ds/dz) b             | MSE                                                           |
| r2r         | (d(z + a w) - (z - w / a))^2          | MSE of denoising z + a w, + 1 + 1 / a^2                       |

Supervised training sees clean pixels, Noise2Noise a second noisy version of each: they are there to compare with. The
others see one noisy version. Any noise whose mean is the clean image keeps the first three right, with its deviation at
middle gray for sigma; SURE and R2R take the noise in z for Gaussian, which is an approximation for Poisson and Gamma.

Draws are pure functions of (seed, position), so a resumed run repeats them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from n2s_dist.config.schema import Method
from n2s_dist.losses.ardae import ardae_loss, draws_at_once, generators, perturbations, philox_keys
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.batch import NoiseBatch
from n2s_dist.noise.blurred import Kernels
from n2s_dist.noise.transfer import to_device

# Noise2Void: one pixel in 64 is masked, as in Krull et al. 2019, by a value of the 5 x 5 around it.
_ONE_IN = 64
_NEIGHBOURS = [(down, across) for down in range(-2, 3) for across in range(-2, 3) if (down, across) != (0, 0)]
# SURE's step in noise standard deviations. From 0.01 to 0.3 its estimate is within 1 % of the error, in float32 and in
# bf16, which resolves 0.4 % of a value; steps of 0.001 and 1 are further off.
_STEP = 0.1
# R2R's a, as Pang et al. 2021 have it.
_RECORRUPTION = 0.5


class Batch(NamedTuple):
    """What one rank computes a loss on at a time."""

    positions: np.ndarray  # int64 [B], global
    noisy: Tensor  # y: [B, C, S, S] on the 0-1 scale
    noise: NoiseModel | NoiseBatch
    aux: Tensor  # [B, C, S, S]: x (supervised), y_2 (noise2noise), or what `draw` gives the method
    sigma_a: Tensor  # [B, 1, 1, 1], AR-DAE's alone
    excess: Tensor | None = None  # [B, 1, 1, 1], of the told level over the present one; None is 1 for all
    noiseless: Tensor | None = None  # bool [B, C, S, S], where y was made constant


def draw(
    method: Method,
    seed: int,
    positions: np.ndarray,
    shape: torch.Size,
    device: torch.device,
    kernels: Kernels | None = None,
) -> Tensor:
    """A method's own randomness at some global positions, [B, C, H, W].

    N(0, C), float32, for AR-DAE's u, SURE's b and R2R's w; blind spots, int64, for Noise2Void. C is the noise's
    correlation: `kernels`, or none for white noise.
    """
    if method == "noise2void":
        return blind_spots(seed, positions, shape, device)
    return perturbations(seed, positions, shape, device, kernels)


def blind_spots(seed: int, positions: np.ndarray, shape: torch.Size, device: torch.device) -> Tensor:
    """Whose value each one gets, by its place in the flattened channel: int64 [B, C, H, W].

    Its own, but for one in 64, masked, which get a random neighbour's. Border pixels, with fewer neighbours, are masked
    less often. Noise is independent between channels, so each has its own blind spots.
    """
    height, width = shape[2:]
    choices = _ONE_IN * len(_NEIGHBOURS)
    if draws_at_once(device):
        keys = philox_keys(seed, positions, device)
        uniform = torch.ops.aten._philox_uniform_(torch.empty(shape, device=device), keys)
        pick = (uniform * choices).long()
    else:
        pick = torch.empty(shape, dtype=torch.int64, device=device)
        for sample, generator in zip(pick, generators(seed, positions, device), strict=True):
            sample.random_(0, choices, generator=generator)
    offsets = to_device(np.array([*_NEIGHBOURS, (0, 0)]), device)
    down, across = offsets[pick.clamp(max=len(_NEIGHBOURS))].unbind(-1)
    row = (torch.arange(height, device=device)[:, None] + down).clamp(0, height - 1)
    column = (torch.arange(width, device=device) + across).clamp(0, width - 1)
    return row * width + column


def method_loss(method: Method, model: ScoreModel, run: Callable[..., Tensor], batch: Batch) -> Tensor:
    """A method's loss on a batch: one value a sample, float32 [B].

    run: what computes the score, the model itself or the same behind data parallelism.
    """
    _, noisy, noise, aux, sigma_a, excess, noiseless = batch
    w, condition = model.given(noisy, noise)
    if method == "ardae":
        told = (condition,) if excess is None else (condition, excess)
        return ardae_loss(run, w, aux, sigma_a, *told, noiseless=noiseless)
    assert not isinstance(noise, NoiseBatch), "the configuration allows it for ardae alone"
    if method == "sure" or method == "r2r":
        loss = sure_loss if method == "sure" else r2r_loss
        return loss(lambda z: run(z, z.new_zeros(1, 1, 1, 1), condition), w, aux)
    unit = noise.std(0.5) ** 2
    if method == "noise2void":
        return noise2void_loss(lambda y: model.denoise(y, noise, run), noisy, aux) / unit
    return regression_loss(model.denoise(noisy, noise, run), aux) / unit


def regression_loss(x_hat: Tensor, target: Tensor) -> Tensor:
    """|| x_hat(y) - target ||^2: least for E[target | y], which is E[x | y] whether the target is clean or noisy.

    For that the second noise is independent of the first, with mean zero (Lehtinen et al. 2018).
    """
    return (x_hat - target).square().flatten(1).mean(1)


def noise2void_loss(denoise: Callable[[Tensor], Tensor], noisy: Tensor, source: Tensor) -> Tensor:
    """|| x_hat(y') - y ||^2 over the masked pixels, which y' replaces (Krull et al. 2019).

    Their own noise can't be told from y', so this is least for the best estimate of x from the pixels around.
    source: as blind_spots makes it.
    """
    replaced = noisy.flatten(2).gather(2, source.flatten(2)).view_as(noisy)
    own = torch.arange(noisy[0, 0].numel(), device=noisy.device).view(noisy.shape[2:])
    masked = (source != own).flatten(1)
    errors = (denoise(replaced) - noisy).square().flatten(1)
    return (masked * errors).sum(1) / masked.sum(1).clamp(min=1)


def sure_loss(score: Callable[[Tensor], Tensor], z: Tensor, b: Tensor) -> Tensor:
    """Stein's unbiased estimate of || d(z) - x ||^2, x being the clean image in units of the noise, from z alone.

    || d - z ||^2 - 1 + 2 div d = 1 + || s ||^2 + 2 div s, as d = z + s, with div s ~ b . (s(z + e b) - s(z)) / e
    for b ~ N(0, I) (Ramani et al. 2008; Soltanayev & Chun 2018).
    """
    here, moved = score(torch.cat([z, z + _STEP * b])).chunk(2)  # in one call, which data parallelism wants
    return (1 + here.square() + 2 / _STEP * b * (moved - here)).flatten(1).mean(1)


def r2r_loss(score: Callable[[Tensor], Tensor], z: Tensor, w: Tensor) -> Tensor:
    """|| d(z + a w) - (z - w / a) ||^2, w ~ N(0, I): for unit Gaussian noise the two have independent noise.

    So it is least for d(z + a w) = E[x | z + a w] (Pang et al. 2021). At test time d is given z itself, once; the mean
    over 16 recorruptions, the paper's way, was 0.04 dB lower.
    """
    once = z + _RECORRUPTION * w
    return (once + score(once) - (z - w / _RECORRUPTION)).square().flatten(1).mean(1)
