"""Images with less noise than the network is told: what training makes of them, against closed forms."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from n2s_dist.losses.ardae import ardae_loss, excesses, is_overstated, part_of_raise, raised
from n2s_dist.losses.constant_areas import make_constant
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import UserError

POSITIONS = np.arange(400)


class Scale(nn.Module):
    """F(x) = c x: the exact form for Gaussian data around 0."""

    multiple = 1

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        return self.c * x[:, :1]


def filled(value: float, count: int) -> Tensor:
    return torch.full((count, 1, 1, 1), value)


@pytest.mark.parametrize("excess", [1.0, 3.0])
def test_a_network_that_is_told_too_much_learns_the_noise_that_is_there(excess):
    """Data of variance 2, half of it noise, of which F is told `excess` times the deviation: F = n / (e r) is best."""
    generator = torch.Generator().manual_seed(0)
    w, u = torch.randn(2, 1000, 1, 16, 16, generator=generator)
    w, sigma_a = w * 2**0.5, 0.7
    ratio = (1 + sigma_a**2) ** 0.5
    # E[n + a u | v] = r^2 v / (2 + a^2), and F sees v / (e r) and stands for the noise over e r.
    exact = ratio**2 / (2 + sigma_a**2)
    losses = {}
    for factor in (0.8, 1.0, 1.2):
        model = ScoreModel(Scale(exact * factor), NoiseDistribution.of(Gaussian(0.1)), "stable")
        told = (w.new_zeros(1, 1, 1, 1), filled(excess, len(w)))
        losses[factor] = ardae_loss(model, w, u, filled(sigma_a, len(w)), *told).double()
    for other in (0.8, 1.2):
        gain = losses[other] - losses[1.0]
        assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5


def test_told_levels_are_those_that_were_drawn_and_present_ones_lie_below():
    log_raise = np.linspace(-1, 2.5, len(POSITIONS))
    overstated = is_overstated(7, POSITIONS, 0.3)
    assert 0.2 < overstated.mean() < 0.4
    part = np.where(overstated, part_of_raise(7, POSITIONS), 1.0)
    sigma_a = raised(np.full(len(POSITIONS), 0.1), part * log_raise)
    excess = excesses(sigma_a, log_raise, overstated)
    log_present = 0.5 * np.log1p(sigma_a**2)
    assert (
        (excess[~overstated] == 1).all() and (excess >= 1).all() and (excess[overstated & (log_raise > 0.5)] > 1).all()
    )
    told = log_present + np.log(excess)
    np.testing.assert_allclose(told, np.maximum(log_raise, 0.5 * np.log1p(0.01)), atol=1e-12)


def test_where_there_is_no_noise_nothing_is_added_and_any_estimate_of_noise_costs():
    w, u = torch.rand(2, 2, 1, 8, 8)
    noiseless = torch.zeros(w.shape, dtype=torch.bool)
    noiseless[:, :, :4] = True
    seen = []

    def score(v: Tensor, sigma_a: Tensor) -> Tensor:
        seen.append(v)
        return torch.full_like(v, 0.25)

    loss = ardae_loss(score, w, u, filled(2.0, 2), noiseless=noiseless)
    assert torch.equal(seen[0][:, :, :4], w[:, :, :4]) and torch.equal(seen[0][:, :, 4:], (w + 2 * u)[:, :, 4:])
    by_hand = (5 * 0.25**2 + (u[:, :, 4:] + 0.5).square().flatten(1).mean(1)) / 2
    torch.testing.assert_close(loss, by_hand)


def test_areas_become_constant_where_the_mask_says_and_nowhere_else():
    noisy = torch.rand(len(POSITIONS), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    crops, mask = make_constant(noisy, 5, POSITIONS, 0.5)
    touched = mask.flatten(1).any(1)
    assert 0.4 < touched.double().mean() < 0.6
    assert torch.equal(crops[~mask], noisy[~mask]) and not torch.equal(crops, noisy)
    values = [crop[0][area[0]].unique().numel() for crop, area in zip(crops, mask, strict=True) if area[0].any()]
    assert sum(count == 1 for count in values) > len(values) / 2  # one color, or clipped
    assert sum(count > 1 for count in values) > len(values) / 10  # mosaics
    again, _ = make_constant(noisy[40:60], 5, POSITIONS[40:60], 0.5)
    assert torch.equal(again, crops[40:60])
    assert torch.equal(make_constant(noisy, 5, POSITIONS, 0.0)[0], noisy)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ardae.overstated=0.3"], r"ardae\.overstated is 0\.3: it takes ardae\.whole_range true"),
        (["--ardae.constant=2"], r"ardae\.constant is 2\.0: it must be a share"),
        (["--ardae.constant=0.2", "--method=sure"], r"ardae\.constant is 0\.2: it takes method ardae"),
    ],
)
def test_shares_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        read_config(options)
