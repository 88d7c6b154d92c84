"""Noise fitted to a score, on Gaussian random fields, whose score is a filter known in closed form."""

import numpy as np
import pytest
from support.field_scores import SMOOTH, TEXTURE, FieldScore, noisy_field

from n2s_dist.inference.indirect_inference import fit_noise
from n2s_dist.inference.level_function import LevelFunction
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.correlated import blurred
from n2s_dist.noise.gaussian import Gaussian

MEAN = 0.5
KNOWN = "gaussian:1-75,poisson-gaussian:0.001-0.1:1-25,poisson-gaussian:0.001-0.1:1-25+blur:0.2-1.5"


def fitted(noise: NoiseModel, power: np.ndarray, strength: float = 1.0, known: str = KNOWN) -> LevelFunction:
    """What is found in a field."""
    found = fit_noise(FieldScore(power, MEAN, strength, known), noisy_field(noise, 2, power, MEAN))
    assert found is not None
    return found.function


def with_width(width: float) -> NoiseModel:
    return blurred(Gaussian(0.1), width) if width else Gaussian(0.1)


def deviation(found: LevelFunction) -> float:
    return float(np.sqrt(found.variance(np.full((1, 1), MEAN))[0, 0]))


@pytest.mark.parametrize("width", [0.5, 1.2])
def test_strength_and_width_are_found(width):
    found = fitted(with_width(width), SMOOTH)
    assert found.width == pytest.approx(width, abs=0.05)
    assert deviation(found) == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize("width", [0.0, 0.5, 1.2])
def test_in_fine_texture_the_width_is_found_and_noise_seems_stronger_never_weaker(width):
    """White noise is white, and noise of half a pixel is not. The denoised image that is compared has less texture."""
    found = fitted(with_width(width), TEXTURE)
    assert found.width == pytest.approx(width, abs=0.05)
    assert 0.1 < deviation(found) < 0.125


@pytest.mark.parametrize("strength", [0.7, 1.2])
def test_a_score_that_is_wrong_by_a_factor_misleads_nobody(strength):
    found = fitted(with_width(0.7), SMOOTH, strength=strength)
    assert found.width == pytest.approx(0.7, abs=0.05)
    assert deviation(found) == pytest.approx(0.1, rel=0.05)


def test_a_network_that_knows_no_sensors_is_told_gaussian_noise():
    found = fitted(with_width(0), SMOOTH, known="gaussian:1-75,gaussian:2-60+blur:0.2-1.5")
    assert found.width == 0 and deviation(found) == pytest.approx(0.1, rel=0.03)


def test_a_network_of_white_noise_finds_white_noise():
    found = fitted(with_width(0), SMOOTH, known="gaussian:1-75,poisson-gaussian:0.001-0.1:1-25")
    assert found.width == 0 and deviation(found) == pytest.approx(0.1, rel=0.03)
