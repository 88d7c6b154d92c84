"""Images that may lie behind a noisy one: samples of the posterior p(x | y), from the posterior means of all levels.

The mean of N exposures of one scene is an exposure of 1/sqrt(N) of the noise, and between them lies a process. Let
lambda be the precision, 1/sigma^2, 1/zeta or k, and S = lambda y. Then S is, of the clean image x,

    Gaussian  Brownian motion with drift    S' = S + N(d x, d)             d = lambda' - lambda,
    Poisson   a Poisson process             S' = S + Poisson(d x)          independent of S
    Gamma     a Gamma process               S' = S + Gamma(shape d, scale x)

In words: y' of precision lambda' is the mean of y and of a further exposure of precision d, in proportion to these. In
all three S tells all that its past does of x, so y' -> y is a Markov chain that starts at x, for lambda' = infinity,
and a sample of the posterior is its reverse: exposures of y that go on until no noise is left, where x, which nobody
knows, has the law p(x | y). In a step so small that x hardly matters beyond its mean, that law may give way to its
mean D(y), the denoised image (for Gaussian noise this is the reverse diffusion of Song et al. 2021, from the image's
own level on; Kawar et al. 2021 take Langevin steps with the same score):

    y' = (1 - s) y + s expose(D(y)),    s = d / lambda'

Exact for Gaussian noise, correlated or not, and for Poisson noise, as steps go to 0. A Gamma process jumps, and takes
from x E[exp(-u / x)] for jumps of each size u: exp(-u E[1/x]) is taken, with the harmonic mean that Tweedie's formula
gives, which is less by a part of the posterior's relative variance. Of Poisson-Gaussian noise and curves S is not all
that is to be known, so samples are nearly right: the tests say how nearly.

A step of finite size leaves out that x varies by the posterior's Cov[x | y], so samples have too little spread: by a
sixth at 20 steps from sigma 25 on. In a step, D moves with the exposure's noise, half of it on average while
the step lasts. That half is made up for in the next step, from D's last move:

    y' += (1 - q) (D(y) - D(y before)),   q = sqrt(lambda / lambda')

For Gaussian fields 20 steps then miss the posterior's deviation by less than 2 %, whatever the spectrum.

The last level is the weakest that the network knows of any family, and the sample is the posterior mean there: what is
left of the posterior, from sigma 25 on about a seventh of its variance, is missing. Weaker still, networks take more of
the image than of the noise: at sigma 1 the squared error of `gaussian-color` is three times the noise's, and chains
that ended at 0.5 lost a decibel of the samples' mean on CBSD68. Levels weaker than the network knows of their own
family are told as its weakest, in stable coordinates: as if the image had more contrast.
"""

import hashlib
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from n2s_dist.inference.tiling import TILE, denoise_tiled
from n2s_dist.models.checkpoint import Loaded
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.distribution import NoiseRange
from n2s_dist.noise.specification import format_noise, format_training_noise
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError

STEPS = 20
MOST = 256  # samples of an image
_LAST_STD = 0.5 / 255  # of the noise at the last level, on middle gray, where the network knows weaker ones
_LAST_FACTOR = 0.3  # the last level is at most so many times the image's own


class _BelowWeakest(ScoreModel):
    """A score model that is told its weakest level where noise is weaker; weights are the given model's."""

    def __init__(self, model: ScoreModel, noise: NoiseModel) -> None:
        super().__init__(model.network, model.noise, model.coordinates, model.condition_kind)
        self.model, self.weakest = model, weakest_known(model, noise)

    def given(self, noisy: Tensor, noise: NoiseModel) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        raised = max(1.0, self.weakest / float(np.mean(noise.std(0.5))))
        return noise.stabilize(noisy), self.conditioning.encode(noise.scaled(raised), noisy.device)

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor, excess: Tensor | None = None) -> Tensor:
        return self.model(w, sigma_a, condition, excess)


def weakest_known(model: ScoreModel, noise: NoiseModel) -> float:
    """Standard deviation on middle gray of the weakest noise of a family, or one alike, that a network was told."""
    return min(float(np.mean(end.std(0.5))) for each in _ranges(model, noise) for end in (each.low, each.high))


def _ranges(model: ScoreModel, noise: NoiseModel) -> list[NoiseRange]:
    alike = (noise.family, noise.alike.family, *noise.told_as)
    found = [each for each in model.noise.ranges if each.low.family in alike]
    return [each for each in found if each.is_correlated != noise.field.is_white] or found or list(model.noise.ranges)


def check_wanted(samples: int, seed: int) -> None:
    """UserError for a number of samples, 0 for none, or a seed that can't be."""
    if not 0 <= samples <= MOST:
        raise UserError(f"{samples} samples are asked for: take 1 to {MOST}")
    if seed < 0:
        raise UserError(f"the seed of the samples is {seed}: take 0 or more")


def check_can_sample(loaded: Loaded, noise: NoiseModel) -> None:
    """UserError where samples of the posterior can't be drawn: noise or networks that don't go from level to level."""
    if not noise.is_divisible:
        raise UserError(
            f"samples can't be drawn for {format_noise(noise)}: the mean of several such images has other noise"
        )
    model = loaded.model
    knows_levels = model.coordinates == "stable" and any(not each.is_single for each in _ranges(model, noise))
    if not (knows_levels and loaded.is_universal):
        known = format_training_noise(loaded.config.aim)
        kind = {1: "gray", 3: "color"}[loaded.channels]
        raise UserError(
            f"samples take a network of many levels, and {loaded.path} is for {known}: take universal-{kind}"
        )


def factors(model: ScoreModel, noise: NoiseModel) -> np.ndarray:
    """How many times the image's noise each level of the chain has: float64 [STEPS + 1], from 1 on."""
    known = min(float(np.mean(end.std(0.5))) for each in model.noise.ranges for end in (each.low, each.high))
    return np.geomspace(1, min(_LAST_FACTOR, max(known, _LAST_STD) / float(np.mean(noise.std(0.5)))), STEPS + 1)


def draw_samples(
    model: ScoreModel,
    noisy: np.ndarray,
    noise: NoiseModel,
    mean: np.ndarray,
    count: int,
    seed: int = 0,
    tile: int = TILE,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Samples of the clean image, independent of each other: float32 [count, H, W, C] on the 0-1 scale, not clamped.

    noisy: float [H, W, C] on the 0-1 scale. noise: of a family that is_divisible. mean: the posterior mean, of that
    shape. Costs STEPS denoisings a sample. A sample is a function of the image, of seed and of its number, to rounding:
    the tile changes nothing. Images of less than a tile go through together.
    progress: called with the number of pixels of each tile that is done.
    """
    assert noise.is_divisible and model.coordinates == "stable", "as callers check"
    out = np.empty((count, *noisy.shape), np.float32)
    content = hashlib.blake2b(noisy.astype(np.float32).tobytes(), digest_size=8).digest()
    key = int.from_bytes(content, "little")
    reaching = _BelowWeakest(model, noise)
    together = max(1, tile**2 // (noisy.shape[0] * noisy.shape[1]))
    for start in range(0, count, together):
        part = out[start : start + together]
        rngs = [hashing.frozen_rng(seed, hashing.STREAM_SAMPLE, key, start + number) for number in range(len(part))]
        part[:] = _last_means(reaching, noisy, noise, mean, rngs, tile, progress)
    return out


def _last_means(
    model: ScoreModel,
    noisy: np.ndarray,
    noise: NoiseModel,
    mean: np.ndarray,
    rngs: list[np.random.Generator],
    tile: int,
    progress: Callable[[int], Any] | None,
) -> np.ndarray:
    """The posterior means at the last levels of chains, one a generator: float32 [S, H, W, C]."""
    levels = factors(model, noise)
    y = np.repeat(noisy[None].astype(np.float32), len(rngs), axis=0)
    now = before = np.repeat(mean[None].astype(np.float32), len(rngs), axis=0)
    for factor, weaker in pairwise(levels.tolist()):
        further = noise.scaled(1 / math.sqrt(weaker**-2 - factor**-2))
        ratio = weaker / factor
        scene = np.maximum(now, 0) if noise.is_nonnegative else now
        exposed = np.stack([further.expose(each, rng) for each, rng in zip(scene, rngs, strict=True)])
        y = ratio**2 * y + (1 - ratio**2) * exposed + (1 - ratio) * (now - before)
        y = (np.maximum(y, 0) if noise.is_nonnegative else y).astype(np.float32)
        now, before = denoise_tiled(model, y, noise.scaled(weaker), tile, progress), now
    return now
