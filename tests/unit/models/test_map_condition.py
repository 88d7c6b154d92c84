"""What a network of network.condition map is told: the noise's strength wherever it is, and how it is correlated."""

import math

import numpy as np
import pytest
import torch

from n2s_dist.models.conditioning import make_conditioning
from n2s_dist.models.score_model import build_score_model
from n2s_dist.noise.batch import NoiseBatch
from n2s_dist.noise.correlated import blurred
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import format_noise, parse_training_noise
from n2s_dist.training.command_line import read_config

CPU = torch.device("cpu")
TEXT = "gaussian:5-55,poisson:0.005-0.1,gamma:20-200,poisson-gaussian:0.002-0.05:1-20+blur:0-1.2"
MIXED = PoissonGaussian(0.01, 0.04)
NOISES = [Gaussian(0.1), Poisson(0.01), Poisson(0.1), Gamma(50.0), MIXED, PoissonGaussian(5e-4, 0.1)]


@pytest.mark.parametrize("noise", NOISES, ids=format_noise)
def test_the_std_at_z_is_the_slope_of_the_inverse_transform(noise):
    y = torch.linspace(0.01, 1.5, 60, dtype=torch.float64, requires_grad=True)
    z = noise.stabilize(y)
    (slope,) = torch.autograd.grad(z.sum(), y)
    torch.testing.assert_close(noise.std_at(z.detach()), 1 / slope, rtol=1e-9, atol=0)
    assert (noise.std_at(torch.linspace(-1e3, float(z[0].detach()), 9, dtype=torch.float64)) > 0).all()


@pytest.mark.parametrize("noise", NOISES, ids=format_noise)
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_scaled_noise_has_so_many_times_the_deviation(noise, factor):
    for x in (0.1, 0.7):
        assert noise.scaled(factor).std(x) == pytest.approx(factor * noise.std(x))
    wide = blurred(noise, 0.7).scaled(factor)
    assert wide.width == 0.7 and wide.std(0.5) == pytest.approx(factor * noise.std(0.5))


def told(noise: NoiseModel | NoiseBatch, w: torch.Tensor, log_ratio: float = 0.0) -> torch.Tensor:
    conditioning = make_conditioning("map", parse_training_noise(TEXT))
    planes = conditioning.planes(w, conditioning.encode(noise, CPU), torch.full((1, 1, 1, 1), log_ratio))
    assert planes.shape == (len(w), conditioning.count(w.shape[1]), *w.shape[2:])
    return planes


@pytest.mark.parametrize("noise", [*NOISES, blurred(MIXED, 0.8)], ids=format_noise)
def test_planes_are_one_the_local_strength_and_the_width(noise):
    y = torch.rand(2, 3, 5, 4) + 0.1
    one, level, width = told(noise, noise.stabilize(y), 0.3).split((1, 3, 1), dim=1)
    assert (one == 1).all() and torch.equal(width, torch.full_like(width, noise.width))
    # The transform's slope is the noise's own deviation but for the 3/8 photon of Anscombe's.
    around = y + 3 / 8 * noise.level if noise.family.startswith("poisson") else y
    expected = torch.log(torch.as_tensor(noise.std(around)) / 0.1) + 0.3
    torch.testing.assert_close(level, expected.expand_as(level), rtol=1e-4, atol=1e-4)


def test_each_image_of_a_batch_is_told_its_own_noise():
    distribution, keys = parse_training_noise(TEXT), np.arange(40, dtype=np.uint64)
    own = [distribution.of_image(int(key), 3) for key in keys]
    assert {noise.family for noise in own} == set(distribution.families) and sum(noise.width > 0 for noise in own) > 3
    w = torch.randn(40, 1, 4, 4) * 3 + 8
    together = told(NoiseBatch.of_images(distribution, keys, 3, CPU), w)
    alone = torch.cat([told(noise, one[None]) for noise, one in zip(own, w, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_the_map_is_of_the_perturbed_image_alone():
    """Two noisy images that are the same once perturbed are told the same: what was added can't be seen."""
    options = ["--noise=poisson:0.01-0.1", "--network.condition=map", "--network.widths=[4,8]"]
    model = build_score_model(read_config(options), 3)
    y, u, sigma_a = torch.rand(1, 3, 8, 8), torch.randn(1, 3, 8, 8), torch.full((1, 1, 1, 1), 0.7)
    w, condition = model.given(y, Poisson(0.05))
    with torch.no_grad():
        one = model(w + sigma_a * u, sigma_a, condition)
        other_w, other_condition = model.given(torch.rand(1, 3, 8, 8), Poisson(0.05))
        torch.testing.assert_close(condition, other_condition)
        torch.testing.assert_close(one, model(other_w + (w + sigma_a * u - other_w), sigma_a, other_condition))


def test_gaussian_noise_raised_to_a_level_is_told_as_noise_of_that_level():
    y, u, sigma, a = torch.rand(1, 3, 8, 8), torch.randn(1, 3, 8, 8), 0.05, 1.5
    ratio = math.sqrt(1 + a**2)
    raised = told(Gaussian(sigma), Gaussian(sigma).stabilize(y) + a * u, math.log(ratio))
    torch.testing.assert_close(raised, told(Gaussian(sigma * ratio), Gaussian(sigma * ratio).stabilize(y)))


def test_a_single_level_takes_a_map_as_well():
    model = build_score_model(
        read_config(["--noise=gaussian:25", "--network.condition=map", "--network.widths=[4,8]"]), 1
    )
    noise = Gaussian(25 / 255)
    assert model.denoise(torch.rand(2, 1, 8, 8), noise).shape == (2, 1, 8, 8)
    assert model.conditioning.count(1) == 3 and model.families == {"gaussian"}
