"""BM3D: exact inverses of its transforms, and what is refused."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.stats import gamma, poisson

from n2s_dist.evaluation.bm3d import bm3d, through_stable
from n2s_dist.inference.tiling import Box
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import parse_noise
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.hashing import frozen_rng


def inverse(noise: NoiseModel, mean: float) -> float:
    return float(noise.unbiased_inverse(torch.tensor([mean], dtype=torch.float64)))


@pytest.mark.parametrize("x", [0.05, 0.2, 0.5, 0.9])
def test_the_inverses_are_unbiased(x):
    """The mean of T(y), summed or integrated over y's distribution, goes back to x."""
    counts = np.arange(2000)
    for zeta in (0.01, 0.05):
        mean = np.sum(poisson.pmf(counts, x / zeta) * 2 * np.sqrt(counts + 3 / 8))
        # In closed form Makitalo & Foi's inverse is off by up to some thousandths of a count.
        assert inverse(Poisson(zeta), mean) == pytest.approx(x, abs=0.03 * zeta)
    for k in (50.0, 100.0):
        mean = gamma.expect(lambda y, k=k: math.sqrt(k) * math.log(y), (k,), scale=x / k)
        assert inverse(Gamma(k), mean) == pytest.approx(x, rel=1e-6)


OF_CHANNELS = parse_noise("curve:0=0.04:0.06:0.05_1=0.08:0.06:0.1")


@pytest.mark.parametrize(
    "noise", [Poisson(0.05), PoissonGaussian(0.05, 0.05), Gamma(50.0), OF_CHANNELS], ids=lambda noise: noise.family
)
def test_a_flat_image_comes_back_without_bias_through_any_method_for_white_noise(noise: NoiseModel):
    """The mean stands in for BM3D, which has to be told the deviation that its input really has."""
    told = []

    def white(noisy: np.ndarray, sigma: float) -> np.ndarray:
        mean = noisy.mean((0, 1))
        told.append(((noisy - mean).std() / sigma, noisy.min(), noisy.max()))
        return np.broadcast_to(mean, noisy.shape)

    noisy = noise.corrupt(np.full((200, 200, 3), 0.4), frozen_rng(0)).astype(np.float32)
    estimate = through_stable(white, noisy, noise)
    assert estimate.mean() == pytest.approx(
        0.4, abs=5 * float(np.max(noise.std(np.full((1, 1, 3), 0.4)))) / 200 / 3**0.5
    )
    ((ratio, low, high),) = told
    assert ratio == pytest.approx(1, abs=0.03) and (low, high) == pytest.approx((0, 1))


def test_an_image_too_small_for_its_blocks_is_refused():
    with pytest.raises(UserError, match="30 x 7 pixels is too small"):
        bm3d().denoise(np.zeros((7, 30, 3), np.float32), Gaussian(0.1), Box.of((7, 30)))


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(UserError, match=r"--bm3d needs the package bm3d: pip install -e '\.\[baselines\]'"):
        bm3d()
