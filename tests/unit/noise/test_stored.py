"""Noisy tiles: the loader's own frozen noise, rounded by less than matters, and right in distribution."""

import numpy as np
import pytest
from scipy import stats

from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.frozen import corrupt_tile
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.specification import format_noise, parse_noise, parse_training_noise
from n2s_dist.noise.stored import bake as bake_tile
from n2s_dist.utils import hashing

KEY = hashing.name_key("photograph.png")
# Standard deviation of the rounding over that of the noise; docs/shards.md quotes them.
ROUNDING = {"gaussian:5": 3.1e-4, "gaussian:25": 1.3e-4, "gaussian:50": 1e-4, "poisson:0.01": 0, "poisson:0.05": 0,
            "gamma:50": 1.7e-3, "gamma:100": 2.3e-3, "gaussian:25+blur:0.7": 2.5e-3}  # fmt: skip


def tile(value: int | None = None, side: int = 128) -> np.ndarray:
    """Random pixels, or one value everywhere: uint8 [side, side, 3]."""
    if value is not None:
        return np.full((side, side, 3), value, np.uint8)
    return np.random.default_rng(0).integers(1, 256, (side, side, 3), dtype=np.uint8)


def noisy(noise, clean: np.ndarray, row: int = 0, column: int = 0, seed: int = 0) -> np.ndarray:
    """What the loader makes of a tile: float32 [H, W, C]."""
    return corrupt_tile(noise, clean, KEY, row, column, seed)


def bake(noise, clean: np.ndarray, row: int = 0, column: int = 0, seed: int = 0) -> np.ndarray:
    stored = bake_tile(NoiseDistribution.of(noise), clean, seed, KEY, row, column)
    assert stored.dtype == noise.encoding.dtype
    return noise.encoding.decode(stored)


def noise_deviation(noise, x: np.ndarray) -> np.ndarray:
    match noise.white:
        case Gaussian(sigma):
            return np.full(x.shape, sigma)
        case Poisson(zeta):
            return np.sqrt(zeta * x)
        case Gamma(k):
            return x / np.sqrt(k)


@pytest.mark.parametrize("text", ROUNDING)
@pytest.mark.parametrize("value", [None, 1, 128, 255])
def test_rounding_is_far_below_the_noise(text, value):
    noise, clean = parse_noise(text), tile(value)
    exact = noisy(noise, clean).astype(np.float64)
    deviation = noise_deviation(noise, clean / 255)
    rounding = (bake(noise, clean) - exact) / deviation
    assert np.sqrt(np.mean(rounding**2)) <= ROUNDING[text] + 1e-6
    assert abs(np.mean(rounding)) <= 5 * ROUNDING[text] / np.sqrt(rounding.size) + 1e-7


@pytest.mark.parametrize("noise", [Gaussian(5 / 255), Gaussian(55 / 255), Poisson(0.005), Gamma(200)], ids=format_noise)
def test_a_mixtures_rounding_is_far_below_its_weakest_noise(noise):
    """All families as float16, whose error is relative: at most 1 % of the noise's deviation, ends of all ranges."""
    several = parse_training_noise("gaussian:5-55,gamma:20-200").encoding
    clean = tile()
    exact = noisy(noise, clean).astype(np.float64)
    rounding = (several.decode(several.encode(exact)) - exact) / np.maximum(noise_deviation(noise, clean / 255), 1e-9)
    assert several.dtype == "float16" and np.sqrt(np.mean(rounding[clean > 0] ** 2)) < 0.01


@pytest.mark.parametrize("text", ["gaussian:25", "poisson:0.01", "gamma:100"])
def test_overlapping_tiles_agree_and_seeds_do_not(text):
    noise, image = parse_noise(text), tile(side=96)
    whole = bake(noise, image, 100, 200)
    np.testing.assert_array_equal(bake(noise, image[32:, 16:80], 132, 216), whole[32:, 16:80])
    assert (bake(noise, image, 100, 200, seed=1) != whole).mean() > 0.85


@pytest.mark.parametrize("value", [1, 60, 255])
@pytest.mark.parametrize("text", ["gaussian:25", "gamma:100", "gamma:50"])
def test_continuous_noise_passes_kolmogorov_smirnov(text, value):
    noise = parse_noise(text)
    drawn = bake(noise, tile(value, 256)).ravel()
    law = (
        stats.norm(value / 255, noise.sigma)
        if isinstance(noise, Gaussian)
        else stats.gamma(noise.k, 0, value / 255 / noise.k)
    )
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("value", [0, 1, 60, 255])
def test_poisson_counts_are_exact(value):
    zeta = 0.01
    counts = bake_tile(NoiseDistribution.of(Poisson(zeta)), tile(value, 256), 0, KEY, 0, 0).ravel()
    mean = value / 255 / zeta
    if value == 0:
        assert not counts.any()
        return
    edges = np.unique(stats.poisson.ppf(np.linspace(0, 1, 21)[1:-1], mean))
    expected = np.diff(stats.poisson.cdf([-1, *edges, np.inf], mean)) * counts.size
    seen = np.histogram(counts, [-1, *(edges + 0.5), np.inf])[0]
    assert stats.chisquare(seen, expected).pvalue > 1e-3


def test_values_far_out_are_held_at_eight_standard_deviations():
    gaussian = Gaussian(0.1).encoding
    assert gaussian.decode(gaussian.encode(np.array([-5.0, 5.0]))) == pytest.approx([-0.8, 1.8])
