"""The AR-DAE loss, the laws of its perturbation and the score model, on Gaussian data where all is known.

For w ~ N(mu, s^2) the score of w + sigma_a u is -(w - mu) / (s^2 + sigma_a^2).
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from n2s_dist.losses.ardae import ardae_loss, raised, share_of_range, sigma_a_law
from n2s_dist.losses.draws import perturbations
from n2s_dist.models.score_model import ScoreModel, build_score_model
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.specification import parse_training_noise
from n2s_dist.training.command_line import read_config

CPU = torch.device("cpu")
MEAN, SPREAD = 0.4, 0.7


def gaussian_data(samples: int, side: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """w ~ N(MEAN, SPREAD^2) and u ~ N(0, 1), both float32 [samples, 1, side, side]."""
    generator = torch.Generator().manual_seed(seed)
    w, u = torch.randn(2, samples, 1, side, side, generator=generator)
    return MEAN + SPREAD * w, u


def filled(sigma_a: float, like: Tensor) -> Tensor:
    return torch.full((len(like), 1, 1, 1), sigma_a)


# --- the loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_a", [0.2, 1.0])
@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.9, 1.0, 1.1])
def test_loss_of_a_scaled_score_has_its_closed_form(sigma_a, factor):
    """E (u + sigma_a c R)^2 = 1 - 2 c r + c^2 r with r = sigma_a^2 / (s^2 + sigma_a^2), within 4 standard errors."""
    w, u = gaussian_data(4000, 16)
    total = SPREAD**2 + sigma_a**2
    losses = ardae_loss(lambda v, _: -factor * (v - MEAN) / total, w, u, filled(sigma_a, w)).double()
    share = sigma_a**2 / total
    expected = 1 - 2 * factor * share + factor**2 * share
    assert abs(losses.mean() - expected) < 4 * losses.std() / math.sqrt(len(losses))
    assert factor != 1 or expected == pytest.approx(SPREAD**2 / total)


@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.9, 1.1])
def test_the_exact_score_has_the_least_loss(factor):
    """Also against the opposite sign; each by at least 4 standard errors of the paired difference."""
    sigma_a = 0.5
    w, u = gaussian_data(4000, 16)
    total = SPREAD**2 + sigma_a**2
    best, other = (
        ardae_loss(lambda v, _, c=c: -c * (v - MEAN) / total, w, u, filled(sigma_a, w)).double() for c in (1.0, factor)
    )
    gain = other - best
    assert gain.mean() > 4 * gain.std() / math.sqrt(len(gain))


def test_loss_is_one_value_a_sample():
    w, u = gaussian_data(3, 8)
    sigma_a = torch.tensor([0.1, 0.5, 1.0]).view(-1, 1, 1, 1)

    def score(v: Tensor, scale: Tensor) -> Tensor:
        return -v / (1 + scale)

    together = ardae_loss(score, w, u, sigma_a)
    alone = [ardae_loss(score, w[i : i + 1], u[i : i + 1], sigma_a[i : i + 1])[0] for i in range(3)]
    assert together.shape == (3,)
    torch.testing.assert_close(together, torch.stack(alone))
    for i in range(3):
        v = (w + sigma_a * u)[i]
        by_hand = (u[i] - sigma_a[i] * v / (1 + sigma_a[i])).square().mean()
        torch.testing.assert_close(together[i], by_hand)


def test_a_model_that_knows_nothing_scores_one():
    w, u = gaussian_data(500, 16)
    losses = ardae_loss(lambda v, _: torch.zeros_like(v), w, u, filled(1.0, w))
    assert losses.mean() == pytest.approx(1, abs=0.02)


# --- training recovers the score ----------------------------------------------------------------------


def fit(model: ScoreModel, w: Tensor, u: Tensor, sigma_a: Tensor) -> None:
    """The least AR-DAE loss on fixed draws, which for these models a quasi-Newton method finds at once."""
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ardae_loss(model, w, u, sigma_a, w.new_zeros(1, 1, 1, 1)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)


class PixelNetwork(nn.Module):
    """The exact form of F for Gaussian data in stable coordinates, with mean and variance to be learned."""

    multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        v, one, level = x[:, :-2], x[:, -2:-1], x[:, -1:]  # v = (z + sigma_a u) / r, level = log r
        ratio = torch.exp(level)
        return (v - self.mean * one / ratio) * ratio**2 / (self.variance + ratio**2 - 1)


def test_stable_training_recovers_mean_variance_and_posterior_mean():
    """Clean x ~ N(MEAN, SPREAD^2) is never seen; z = y / sigma has variance SPREAD^2 / sigma^2 + 1."""
    sigma = 0.5
    x, u = gaussian_data(2000, 8)
    y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    model = ScoreModel(PixelNetwork(), NoiseDistribution.of(Gaussian(sigma)), "stable")
    positions = np.arange(len(y))
    law = torch.tensor(sigma_a_law("stable", 0, positions, len(y), (0.0, 1.0)), dtype=torch.float32)
    fit(model, model.given(y, model.noise.single)[0], u, law.view(-1, 1, 1, 1))

    assert model.network.mean.item() == pytest.approx(MEAN / sigma, rel=0.03)
    assert model.network.variance.item() == pytest.approx(SPREAD**2 / sigma**2 + 1, rel=0.03)
    noisy = torch.linspace(-1, 2, 13).view(1, 1, 1, -1)
    with torch.no_grad():
        torch.testing.assert_close(
            model.denoise(noisy, model.noise.single), posterior_mean(noisy, sigma), rtol=0.03, atol=0.02
        )


def test_image_training_recovers_the_score():
    """One linear 1x1 convolution is enough: score = a w + b with a = -1 / (s^2 + sigma_a^2), b = -a mu."""
    sigma, sigma_a = 0.5, 0.4
    x, u = gaussian_data(2000, 8)
    y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    network = nn.Conv2d(1, 1, 1)
    network.multiple = 1
    model = ScoreModel(network, NoiseDistribution.of(Gaussian(sigma)), "image")
    fit(model, model.given(y, model.noise.single)[0], u, filled(sigma_a, y))

    slope = -1 / (SPREAD**2 + sigma**2 + sigma_a**2)
    assert network.weight.item() == pytest.approx(slope, rel=0.03)
    assert network.bias.item() == pytest.approx(-slope * MEAN, rel=0.05)


# --- the perturbation's laws ----------------------------------------------------------------------------


def test_stable_sigma_a_raises_the_level_log_uniformly_and_is_a_function_of_position_alone():
    positions = np.arange(20_000)
    whole = sigma_a_law("stable", 3, positions, 1, (0.0, 1.0))
    raised = np.log(np.hypot(1, whole)) / np.log(np.sqrt(2))
    assert stats.kstest(raised, "uniform").pvalue > 1e-3
    shuffled = np.random.default_rng(0).permutation(positions)
    np.testing.assert_array_equal(sigma_a_law("stable", 3, shuffled, 99, (0.0, 1.0)), whole[shuffled])
    scaled = sigma_a_law("stable", 3, positions, 1, (0.2, 0.5))
    assert stats.kstest(scaled, "uniform", (0.2, 0.3)).pvalue < 1e-3  # not uniform itself
    low, high = np.log([1.04, 1.25])
    np.testing.assert_allclose(np.log1p(scaled**2), low + (high - low) * raised, rtol=1e-9)
    other_seed = sigma_a_law("stable", 4, positions, 1, (0.0, 1.0))
    for first, second in ((whole, other_seed), (whole[1:], whole[:-1])):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.03  # 4 standard errors


def test_raises_within_a_range_reach_levels_uniform_over_the_family_and_never_perturb_less():
    positions = np.arange(30_000)
    keys, share = positions.astype(np.uint64), share_of_range(3, positions)
    mixture = parse_training_noise("gaussian:5-55,poisson:0.005-0.1,gamma:20-200")
    log_raise = mixture.log_raise(keys, 1, share, mixture)
    least = sigma_a_law("stable", 3, positions, 1, (0.0, 1.0))
    sigma_a = raised(least, log_raise)
    assert (sigma_a >= least).all()

    # what the noise's deviation in y is proportional to, and that of the range's weakest and strongest noise
    family, values = mixture.draw(keys, 1)
    level = values[:, 0]
    strength = np.choose(family, [level, level**0.5, level**-0.5])
    weakest, strongest = np.log([[5 / 255, 0.005**0.5, 200**-0.5], [55 / 255, 0.1**0.5, 20**-0.5]])
    alone = raised(np.zeros(len(positions)), log_raise)
    reached = (np.log(strength * np.hypot(1, alone)) - weakest[family]) / (strongest - weakest)[family]
    for number in range(3):  # the greater of two independent uniform draws: the own level and the wanted one
        assert stats.kstest(np.clip(reached[family == number], 0, 1) ** 2, "uniform").pvalue > 1e-3
    few = mixture.log_raise(keys[:7], 1, share_of_range(3, positions[:7]), mixture)
    np.testing.assert_array_equal(raised(least[:7], few), sigma_a[:7])


def test_raises_into_a_part_of_a_range_reach_that_part_uniformly_from_all_that_is_weaker():
    positions = np.arange(30_000)
    keys, share = positions.astype(np.uint64), share_of_range(3, positions)
    mixture = parse_training_noise("gaussian:5-55,gamma:20-200")
    focus = parse_training_noise("gaussian:22-28,gamma:40-60")
    family, values = mixture.draw(keys, 1)
    level = values[:, 0]
    perturbed = raised(np.zeros(len(positions)), mixture.log_raise(keys, 1, share, focus))
    strength = np.where(family == 0, level, level**-0.5)  # what the noise's deviation in y is proportional to
    weakest, strongest = np.where(family == 0, 22 / 255, 60**-0.5), np.where(family == 0, 28 / 255, 40**-0.5)
    assert np.bincount(family).min() > 14_000
    reached = np.log(strength * np.hypot(1, perturbed) / weakest) / np.log(strongest / weakest)
    for number in (0, 1):
        weaker = (family == number) & (strength < weakest)
        assert weaker.sum() > 3_000 and stats.kstest(reached[weaker], "uniform").pvalue > 1e-3
    assert (perturbed[strength > strongest] == 0).all()


def test_image_sigma_a_is_annealed_linearly_over_the_run():
    law = sigma_a_law("image", 0, np.arange(1001), 1000, (0.05, 0.001))
    np.testing.assert_allclose(law, np.linspace(0.05, 0.001, 1001), rtol=1e-12)


def test_perturbations_do_not_depend_on_how_positions_are_split():
    positions = np.arange(100, 112)
    whole = perturbations(5, positions, torch.Size((12, 3, 7, 5)), CPU)
    parts = [perturbations(5, part, torch.Size((len(part), 3, 7, 5)), CPU) for part in np.split(positions, [1, 4, 10])]
    assert torch.equal(torch.cat(parts), whole)
    backwards = perturbations(5, positions[::-1], torch.Size((12, 3, 7, 5)), CPU)
    assert torch.equal(backwards.flip(0), whole)
    assert not torch.equal(perturbations(6, positions, torch.Size((12, 3, 7, 5)), CPU), whole)


def test_perturbations_are_standard_normal_and_independent():
    u = perturbations(0, np.arange(64), torch.Size((64, 1, 32, 32)), CPU).double().numpy()
    assert stats.kstest(u.ravel(), "norm").pvalue > 1e-3
    correlations = np.corrcoef(u.reshape(64, -1)) - np.eye(64)
    assert np.abs(correlations).max() < 5.5 / 32  # 5.5 standard errors, among 2016 pairs


# --- the score model --------------------------------------------------------------------------------


def posterior_mean(noisy: Tensor, sigma: float) -> Tensor:
    """E[x | y] of the normal-normal model."""
    return MEAN + SPREAD**2 / (SPREAD**2 + sigma**2) * (noisy - MEAN)


class ExactImage(nn.Module):
    multiple = 1

    def forward(self, y: Tensor) -> Tensor:
        return -(y - MEAN) / (SPREAD**2 + 0.3**2)


class ExactStable(nn.Module):
    """F for x ~ N(MEAN, SPREAD^2), sigma = 0.3; the constants must be 1 and a level that nothing raised, 0."""

    multiple = 1

    def forward(self, x: Tensor) -> Tensor:
        z, one, level = x[:, :3], x[:, 3:4], x[:, 4:]
        assert x.shape[1] == 5 and (one == 1).all() and (level == 0).all()
        return (z - MEAN / 0.3) / (SPREAD**2 / 0.3**2 + 1)


@pytest.mark.parametrize(("coordinates", "network"), [("image", ExactImage()), ("stable", ExactStable())])
def test_denoise_with_the_exact_score_is_the_posterior_mean(coordinates, network):
    noisy = 2 * torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    found = ScoreModel(network, NoiseDistribution.of(Gaussian(0.3)), coordinates).denoise(noisy, Gaussian(0.3))
    torch.testing.assert_close(found, posterior_mean(noisy, 0.3), rtol=1e-5, atol=1e-6)


def test_a_perturbed_image_looks_like_one_of_a_higher_level():
    """Divided by r = sqrt(1 + sigma_a^2), with the constant 1, its family, and log r more than its own level."""
    seen = []

    class Listening(nn.Module):
        multiple = 1

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.ones_like(x[:, :3])

    w, sigma_a = torch.randn(2, 3, 4, 5), torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)
    condition = torch.tensor([[0.0, 1.0, 0.0, -0.5]]).view(1, 4, 1, 1)
    score = ScoreModel(Listening(), parse_training_noise("gaussian:5-55,gamma:20-200"), "stable")(w, sigma_a, condition)
    ratio = torch.sqrt(1 + sigma_a**2)
    flat = torch.ones(2, 1, 4, 5)
    told = [flat, 0 * flat, flat, 0 * flat, (torch.log(ratio) - 0.5) * flat]
    torch.testing.assert_close(seen[0], torch.cat([w / ratio, *told], dim=1))
    torch.testing.assert_close(score, (-1 / ratio).expand(2, 3, 4, 5))


def test_gaussian_noise_raised_to_a_level_is_noise_of_that_level():
    """What the network is given, and the score it makes of it, are the same to rounding for y + sigma a u of
    sigma and for the same pixels as an image of noise sigma r.
    """
    model = build_score_model(read_config(["--noise=gaussian:5-55,gamma:20-200", "--network.widths=[4,8]"]), 3)
    y, u, sigma, a = torch.rand(1, 3, 8, 8), torch.randn(1, 3, 8, 8), 0.05, 1.5
    ratio = math.sqrt(1 + a**2)
    w, condition = model.given(y, Gaussian(sigma))
    raised, condition_raised = model.given(y + sigma * a * u, Gaussian(sigma * ratio))
    with torch.no_grad():
        one = model(w + a * u, torch.full((1, 1, 1, 1), a), condition)
        other = model.unperturbed(raised, condition_raised)
    torch.testing.assert_close(ratio * one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "name", "coordinates"),
    [
        *itertools.product([1, 3], ["resunet"], ["image", "stable"]),
        (3, "unet_n2n", "stable"),  # whose one size is large, and slow in 16 bits
    ],
)
def test_every_choice_builds_and_scores_in_float32(name, coordinates, channels):
    """Also under bf16 autocast, where the network runs in 16 bits and the score must not."""
    options = [f"--network.name={name}", f"--ardae.coordinates={coordinates}", "--network.widths=[4,8]"]
    model = build_score_model(read_config(options), channels)
    noisy = torch.rand(2, channels, 13, 18)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = model.denoise(noisy, model.noise.single)
    assert out.shape == noisy.shape and out.dtype == torch.float32 and out.isfinite().all()
