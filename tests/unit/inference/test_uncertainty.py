"""Posterior standard deviations: closed forms for Gaussian fields and conjugate priors, tiles, and real photographs."""

import numpy as np
import pytest
import torch
from support.denoisers import calibration
from support.models import random_model
from torch import Tensor, nn

from n2s_dist.inference.tiling import Box
from n2s_dist.inference.uncertainty import (
    Posterior,
    posterior_tiled,
    random_signs,
    remaining_share,
    slope,
    std_picture,
)
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.utils.hashing import frozen_rng

pytestmark = pytest.mark.usefixtures("cpu")


class Toy(nn.Module):
    """A network whose F is a function of the first channel; a score of -F then, as sigma_a is 0."""

    multiple, receptive_radius = 1, 10_000

    def __init__(self, function, sign: float = 1.0) -> None:
        super().__init__()
        self.function, self.sign, self.anchor = function, sign, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * self.function(x[:, :1])


def toy(function, noise, coordinates="stable") -> ScoreModel:
    return ScoreModel(Toy(function, 1 if coordinates == "stable" else -1), NoiseDistribution.of(noise), coordinates)


def signs(*shape: int, probes: int) -> list[Tensor]:
    box = Box.of(shape[1:])
    return [torch.from_numpy(random_signs(box, shape[0], probe)).permute(2, 0, 1)[None] for probe in range(probes)]


# --- Gaussian fields: the posterior is known ----------------------------------------------------------------


@pytest.mark.parametrize("coordinates", ["stable", "image"])
def test_shares_of_a_gaussian_field_that_changes_over_space(coordinates):
    """x ~ N(0, C): the score is linear and Cov[x | y] = (C^-1 + I / sigma^2)^-1. To 2 % at each of 256 pixels."""
    sigma, side = 0.1, 16
    rows, columns = np.mgrid[:side, :side].reshape(2, -1)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    deviation = 0.05 + 0.3 * rows / side
    prior = deviation[:, None] * deviation * np.exp(-distance / 4)
    truth = np.diag(np.linalg.inv(np.linalg.inv(prior) + np.eye(side**2) / sigma**2)).reshape(side, side)
    assert truth.max() > 2 * truth.min()
    of_y = torch.from_numpy(np.linalg.inv(prior + sigma**2 * np.eye(side**2))).float()  # minus the score, times y
    scale = sigma**2 if coordinates == "stable" else 1

    def function(w: Tensor) -> Tensor:
        return scale * (w.reshape(len(w), -1) @ of_y).reshape(w.shape)

    model, noise = toy(function, Gaussian(sigma), coordinates), Gaussian(sigma)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1, 1, side, side, generator=generator) * 0.3
    many = torch.randint(0, 2, (100, 100, 1, side, side), generator=generator) * 2.0 - 1
    estimate, share = remaining_share(model, y.expand(100, -1, -1, -1), noise, [*many])
    expected = y.reshape(-1) - sigma**2 * of_y @ y.reshape(-1)
    torch.testing.assert_close(estimate[0].reshape(-1), expected, rtol=1e-4, atol=1e-5)
    variance = (slope(noise, estimate[:1]) ** 2 * share.mean(0))[0, 0].numpy()
    np.testing.assert_allclose(np.sqrt(variance), np.sqrt(truth), rtol=0.02)


def test_a_stationary_field_end_to_end():
    """As users get it, calibrated by Stein's risk: within 2 % of the closed form."""
    sigma, side = 25 / 255, 512
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    prior = 0.1 / (0.02 + frequency) ** 2 / 5  # spectrum of z's clean part, the noise's being 1
    gain = torch.from_numpy(1 / (1 + prior)).float()

    def filtered(w: Tensor) -> Tensor:
        return torch.fft.ifft2(gain * torch.fft.fft2(w)).real

    spectrum = np.fft.fft2(frozen_rng(1).standard_normal((side, side)))
    clean = sigma * np.fft.ifft2(np.sqrt(prior) * spectrum).real[:, :, None]
    noise = Gaussian(sigma)
    noisy = noise.corrupt(clean, frozen_rng(2))
    found = posterior_tiled(toy(filtered, noise), noisy, noise)
    closed_form = sigma * np.sqrt(1 - gain.mean().item())
    assert closed_form < 0.9 * sigma
    np.testing.assert_allclose(found.std.mean(), closed_form, rtol=0.02)
    assert found.std.std() < 0.05 * closed_form  # that four probes leave
    figures = calibration(clean, found)
    assert abs(figures["mse_ratio"] - 1) < 0.03 and abs(figures["within_one_std"] - 0.683) < 0.01


def test_a_score_that_falls_short_is_calibrated():
    """Three per cent of the score's length are missing: its variances are far too large; Stein's risk mends them."""
    sigma, side = 0.1, 192
    noise, length = Gaussian(sigma), 0.97
    clean = 0.1 * sigma * frozen_rng(1).standard_normal((side, side, 1))
    noisy = noise.corrupt(clean, frozen_rng(2))
    model = toy(lambda w: length * w / 1.01, noise)
    y = torch.from_numpy(noisy.astype(np.float32)).permute(2, 0, 1)[None]
    _, share = remaining_share(model, y, noise, signs(1, side, side, probes=2))
    error = np.square((1 - length / 1.01) * noisy - clean).mean()
    assert sigma**2 * share.mean().item() > 3 * error
    assert abs(calibration(clean, posterior_tiled(model, noisy, noise))["mse_ratio"] - 1) < 0.35
    # On a picture of 8 x 8 pixels chance rules, and the network's own figure stands.
    few = posterior_tiled(model, noisy[:8, :8], noise)
    np.testing.assert_allclose(few.std, sigma * np.sqrt(share.mean().item()), rtol=0.2)


# --- Poisson and Gamma: constant images under conjugate priors ----------------------------------------------


@pytest.mark.parametrize(("noise", "level"), [(Poisson(0.01), 0.5), (Poisson(0.05), 0.8), (Gamma(100), 0.5)], ids=str)
def test_conjugate_priors(noise, level):
    """Each pixel alone, under a prior whose posterior has a known variance; to 5 %, as the transform is approximate.

    Poisson: x ~ Gamma(a, b), x | y ~ Gamma(a + y/zeta, b + 1/zeta). Gamma: 1/x ~ Gamma, so x | y is inverse gamma.
    """
    rng = np.random.default_rng(0)
    size, a = (200, 200), 40.0
    if isinstance(noise, Poisson):
        b = a / level
        clean = rng.gamma(a, 1 / b, size)
        noisy = noise.corrupt(clean, rng)
        truth = np.sqrt(a + noisy / noise.zeta) / (b + 1 / noise.zeta)
        mean = (a + noisy / noise.zeta) / (b + 1 / noise.zeta)
    else:
        b = (a - 1) * level  # x ~ InverseGamma(a, b); x | y ~ InverseGamma(a + k, b + k y)
        clean = 1 / rng.gamma(a, 1 / b, size)
        noisy = noise.corrupt(clean, rng)
        mean = (b + noise.k * noisy) / (a + noise.k - 1)
        truth = mean / np.sqrt(a + noise.k - 2)
    target = torch.from_numpy(mean).float()

    # The score in z that gives this mean, as a table: z is a function of y, pixel by pixel.
    y = torch.from_numpy(noisy).float()
    z, wanted = noise.stabilize(y).flatten(), noise.stabilize(target).flatten()
    places = torch.argsort(z)
    polynomial = np.polynomial.Polynomial.fit(z[places].numpy(), (wanted - z)[places].numpy(), 5)

    def function(w: Tensor) -> Tensor:
        return -torch.from_numpy(polynomial(w.double().numpy())).float()

    posterior = posterior_tiled(toy(function, noise), noisy[:, :, None].astype(np.float32), noise, probes=64)
    assert np.abs(posterior.estimate[:, :, 0] / mean - 1).mean() < 0.02
    np.testing.assert_allclose(posterior.std.mean(), truth.mean(), rtol=0.05)
    figures = calibration(clean[:, :, None], posterior)
    assert abs(figures["mse_ratio"] - 1) < 0.05 and abs(figures["within_one_std"] - 0.683) < 0.02


@pytest.mark.parametrize("noise", [Gaussian(0.1), Poisson(0.05), Gamma(50)], ids=str)
def test_slope_and_noise_variance(noise):
    """The slope is the noise's deviation, for Poisson but at the darkest; the variance estimate has the right mean."""
    x = torch.linspace(0.3, 1, 5)
    deviation = torch.tensor([noise.std(float(value)) for value in x])
    torch.testing.assert_close(slope(noise, x), deviation, rtol=0.04, atol=0)
    noisy = torch.from_numpy(noise.corrupt(np.full(400_000, 0.5), np.random.default_rng(0)))
    assert abs(noise.variance_around(noisy).mean().item() / noise.std(0.5) ** 2 - 1) < 0.01
    dark = slope(noise, torch.tensor([-0.1, 0.0, 1e-4]))
    assert torch.isfinite(dark).all() and (dark > 0).all()


# --- tiles, and what people get ---------------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", ["stable", "image"])
def test_tiles_equal_the_whole(coordinates):
    model = random_model("--network.widths=[4,8]", "--network.blocks=1", f"--ardae.coordinates={coordinates}")
    noisy = np.random.default_rng(0).random((137, 143, 3)).astype(np.float32)
    whole, tiled = (posterior_tiled(model, noisy, model.noise.single, tile=tile) for tile in (1024, 32))
    assert whole.std.dtype == np.float32 and whole.std.std() > 0.003 * whole.std.mean() > 0
    np.testing.assert_allclose(tiled.estimate, whole.estimate, rtol=0, atol=1e-5)
    np.testing.assert_allclose(tiled.std, whole.std, rtol=0.01)


def test_pictures_and_figures():
    std = np.array([[[0.0], [0.0625], [0.125], [0.3]]])
    assert std_picture(std).tolist() == [[[0], [32768], [65535], [65535]]]
    posterior = Posterior(np.array([[[0.1], [0.5]]]), np.array([[[0.2], [0.2]]]))
    figures = calibration(np.array([[[0.2], [0.9]]]), posterior)
    assert figures["mse_ratio"] == pytest.approx(0.04 / 0.085) and figures["within_one_std"] == 0.5
