"""Images with less noise than the network is told: what training makes of them, against closed forms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from n2s_dist.losses.ardae import Ardae, ardae_loss, excesses, is_overstated, part_of_raise, raised
from n2s_dist.losses.constant_areas import make_constant
from n2s_dist.models.conditioning import make_conditioning
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.batch import NoiseBatch
from n2s_dist.noise.blurred import coarse_strength
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.specification import parse_training_noise
from n2s_dist.training.batches import told_noise
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import UserError

POSITIONS = np.arange(400)
BOTH = "gaussian:2-60,poisson-gaussian:0.005-0.1:1-30+blur:0.2-3"


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


def told(share: float) -> tuple[NoiseBatch, np.ndarray, Tensor, Tensor]:
    """What told_noise says of POSITIONS, each an image of its own, and the widths that their noise has."""
    options = [f"--ardae.hidden_width={share}"] if share else []
    config = read_config(
        [f"--noise={BOTH}", "--ardae.whole_range=true", "--ardae.overstated=0.3", "--network.condition=map", *options]
    )
    noise, keys, device = parse_training_noise(BOTH), POSITIONS.astype(np.uint64), torch.device("cpu")
    run = SimpleNamespace(
        config=config,
        loss=Ardae(),
        model=SimpleNamespace(noise=noise),
        ranks=SimpleNamespace(device=device),
        shards=SimpleNamespace(manifest=SimpleNamespace(seed=3)),
        noise_of=lambda keys: NoiseBatch.of_images(noise, keys, 3, device),
    )
    kernels = noise.kernels(keys, 3)
    batch, sigma_a, excess = told_noise(run, POSITIONS, keys, kernels)
    return batch, kernels.widths, sigma_a, excess


def test_correlated_noise_whose_width_is_hidden_is_told_as_white_and_as_strong_over_many_pixels():
    plain, widths, sigma_a, excess = told(0.0)
    hiding, _, same_sigma_a, told_excess = told(0.5)
    assert torch.equal(sigma_a, same_sigma_a)
    conditioning = make_conditioning("map", parse_training_noise(BOTH))
    device, image = torch.device("cpu"), torch.full((len(POSITIONS), 1, 1, 1), 3.0)

    def planes(batch: NoiseBatch, excess: Tensor) -> np.ndarray:
        shown = conditioning.planes(image, conditioning.encode(batch, device), torch.log(excess))
        return shown.flatten(1).double().numpy().T

    (_, level, width), (_, told_level, told_width) = planes(plain, excess), planes(hiding, told_excess)
    np.testing.assert_allclose(width, widths, rtol=1e-6)
    hidden = told_width != width
    assert (told_width[hidden] == 0).all() and 0.4 < hidden[widths > 0].mean() < 0.6
    strength = np.array(
        [coarse_strength(each) if is_hidden else 1.0 for each, is_hidden in zip(widths, hidden, strict=True)]
    )
    assert strength.max() > 5
    np.testing.assert_allclose(told_level, level + np.log(strength), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--ardae.hidden_width=0.2", "--noise=gaussian:5-55,poisson:0.01-0.1", "--network.condition=map"],
            r"ardae\.hidden_width is 0\.2: it takes network\.condition map and correlated noise",
        ),
        (["--ardae.overstated=0.3"], r"ardae\.overstated is 0\.3: it takes ardae\.whole_range true"),
        (["--ardae.constant=2"], r"ardae\.constant is 2\.0: it must be a share"),
        (["--ardae.constant=0.2", "--method=sure"], r"ardae\.constant is 0\.2: it takes method ardae"),
    ],
)
def test_shares_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        read_config(options)
