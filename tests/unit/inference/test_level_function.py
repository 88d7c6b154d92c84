"""Noise level functions and widths of correlation: held to noise whose variances and correlations are known."""

import numpy as np
import pytest

from n2s_dist.inference.level_function import (
    BINS,
    LAGS,
    LevelFunction,
    bin_edges,
    binned,
    difference,
    first_guess,
    fit_variance,
    passed,
    width_of,
)
from n2s_dist.noise.blurred import blur, kernel, radius
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.specification import format_noise, parse_noise

ALL = ["gaussian", "poisson", "gamma", "poisson-gaussian", "curve"]
FORMULAS = ["gaussian:12", "poisson:0.02", "gamma:60", "poisson-gaussian:0.01:4"]


def function_of(text: str, width: float = 0.0) -> LevelFunction:
    """A noise's own variances, fitted at many brightnesses."""
    x = np.linspace(0.01, 0.99, 200)[None]
    variance = np.broadcast_to(parse_noise(text).std(x), x.shape) ** 2
    return LevelFunction(fit_variance(x, variance, np.ones_like(x), ridge=0.0), width)


@pytest.mark.parametrize("width", [0.0, 0.5, 1.0, 1.5])
def test_differences_leave_the_share_of_variance_that_correlation_says(width):
    rng, reach = np.random.default_rng(0), radius(width)
    field = blur(rng.standard_normal((1, 1, 700 + 2 * reach, 700 + 2 * reach)), kernel(width))
    found = [float(np.mean(difference(field, lag) ** 2)) for lag in LAGS]
    np.testing.assert_allclose(found, passed(width), rtol=0.04, atol=0.002)


def test_differences_see_nothing_of_straight_slopes():
    y, x = np.mgrid[:20, :30]
    for lag in LAGS:
        assert np.abs(difference(3.0 * x + 2.0 * y, lag)).max() < 1e-12


@pytest.mark.parametrize("width", [0.0, 0.4, 0.7, 1.0, 1.3, 1.6])
def test_shares_tell_the_width(width):
    for near in (0.0, 0.7, 1.5):
        assert width_of(7.0 * passed(width), near) == pytest.approx(width, abs=0.03)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_parabola_holds_each_family_and_is_named_after_it(text):
    function, noise = function_of(text), parse_noise(text)
    x = np.linspace(0.05, 0.95, 30)[None]
    np.testing.assert_allclose(function.variance(x), np.broadcast_to(noise.std(x), x.shape) ** 2, rtol=0.02)
    named = function.noise(ALL, 0.05, 0.95)
    assert named.family == noise.family
    np.testing.assert_allclose(named.values[: len(noise.values)], noise.values, rtol=0.06)


def test_what_no_family_has_is_a_curve_of_each_channel():
    hump = LevelFunction(np.array([[1e-4, 9e-4, 1e-4], [1e-4, 4e-4, 1e-4], [1e-4, 9e-4, 1e-4]]), 0.7)
    named = hump.noise(ALL)
    assert isinstance(named.white, Curve) and named.width == 0.7
    x = np.full((1, 1, 3), 0.5)
    np.testing.assert_allclose(named.std(x)[0, 0] ** 2, hump.variance(np.full((3, 1), 0.5))[:, 0], rtol=1e-3)


def test_a_family_that_the_network_does_not_know_is_never_named():
    hump = LevelFunction(np.array([[1e-4, 9e-4, 1e-4]]), 0.0)
    assert isinstance(hump.noise(["gaussian", "gamma"]), Gaussian)
    assert function_of("poisson-gaussian:0.01:4").noise(["gaussian", "poisson"]).family in ("gaussian", "poisson")


def test_a_narrow_correlation_is_called_white():
    assert function_of("gaussian:12", 0.3).noise(ALL).width == 0
    assert function_of("gaussian:12", 0.8).noise(ALL).width == 0.8


def test_sums_are_of_squares_that_count_whole():
    x = np.repeat(np.linspace(0, 1, BINS), 8)[None, None, None].repeat(16, axis=2)
    counted = np.ones(x.shape, bool)
    counted[..., 5, :] = False
    ones = [np.ones_like(difference(x, lag)) for lag in LAGS]
    found = binned([ones], x, counted, bin_edges(x, counted))
    for place, lag in enumerate(LAGS):
        rows = sum(5 not in (row, row + lag) for row in range(16 - lag))
        assert found.sums[0, place].sum() == rows * (x.shape[3] - lag)
    assert found.pixels.sum() == found.sums[0, 0].sum()


@pytest.mark.parametrize("text", ["gaussian:10", "gaussian:25+blur:0.7", "gaussian:25+blur:1.2"])
def test_flat_areas_give_a_first_guess(text):
    noise = parse_noise(text)
    clean = np.full((256, 256, 1), 0.4)
    noisy = np.moveaxis(noise.corrupt(clean, np.random.default_rng(0)), -1, 0)[None]
    guess = first_guess(noisy, np.ones(noisy.shape, bool))
    assert guess.width == pytest.approx(noise.width, abs=0.15)
    assert float(guess.variance(np.full((1, 1), 0.4))[0, 0]) ** 0.5 == pytest.approx(noise.std(0.4), rel=0.12)


def test_images_without_noise_have_next_to_none():
    guess = first_guess(np.full((1, 3, 64, 64), 0.5), np.ones((1, 3, 64, 64), bool))
    named = guess.noise(ALL)
    assert isinstance(named, Gaussian) and named.sigma < 0.1 / 255, format_noise(named)
