"""Noise level functions and widths of correlation: held to noise whose variances and correlations are known."""

import numpy as np
import pytest

from n2s_dist.inference.level_function import LevelFunction, fit_variance
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.specification import parse_noise

ALL = ["gaussian", "poisson", "gamma", "poisson-gaussian", "curve"]
FORMULAS = ["gaussian:12", "poisson:0.02", "gamma:60", "poisson-gaussian:0.01:4"]


def function_of(text: str, width: float = 0.0) -> LevelFunction:
    """A noise's own variances, fitted at many brightnesses."""
    x = np.linspace(0.01, 0.99, 200)[None]
    variance = np.broadcast_to(parse_noise(text).std(x), x.shape) ** 2
    return LevelFunction(fit_variance(x, variance, np.ones_like(x), ridge=0.0), width)


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
    assert function_of("gaussian:12", 0.05).noise(ALL).width == 0
    assert function_of("gaussian:12", 0.8).noise(ALL).width == 0.8
