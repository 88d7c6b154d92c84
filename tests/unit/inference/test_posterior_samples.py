"""Samples of posteriors that are known: Gaussian fields, mode by mode, and pixels under priors whose means are sums."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from support.models import random_model
from torch import Tensor, nn

from n2s_dist.inference import arrays, posterior_samples
from n2s_dist.inference.denoiser import Denoiser
from n2s_dist.inference.posterior_samples import draw_samples, factors, weakest_known
from n2s_dist.inference.tiling import denoise_whole
from n2s_dist.models import checkpoint
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.poisson import poisson_quantiles
from n2s_dist.noise.specification import parse_noise, parse_training_noise
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.hashing import frozen_rng

pytestmark = pytest.mark.usefixtures("cpu")

SIDE, SIGMA, COUNT = 128, 25 / 255, 9
RANGES = "gaussian:5-55,poisson:0.005-0.1,gamma:20-200"
SCORES = [f"--noise={RANGES}", "--network.widths=[4,8]", "--network.blocks=1"]


def flatness(truth: np.ndarray, samples: np.ndarray) -> float:
    """Chi-squared's p of the ranks of values among samples [S, ...], which are uniform for a true posterior."""
    ranks = (samples < truth).sum(0)
    return float(stats.chisquare(np.bincount(ranks.ravel(), minlength=len(samples) + 1)).pvalue)


# --- Gaussian fields ----------------------------------------------------------------------------------------


class Wiener(nn.Module):
    """The noise's posterior mean under a stationary Gaussian prior of a known power spectrum, at the level it is told.

    conditioning.py tells its logarithm over 0.1.
    """

    multiple, receptive_radius = 1, None

    def __init__(self, power: np.ndarray) -> None:
        super().__init__()
        self.power, self.anchor = torch.from_numpy(power), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        variance = torch.exp(2 * x[:, -1:].double()) * 0.1**2
        noise = torch.fft.ifft2(variance / (self.power + variance) * torch.fft.fft2(x[:, :1].double()))
        return noise.real.float()


@pytest.fixture(scope="module")
def field() -> dict[str, np.ndarray]:
    """A field, its noisy image, and its posterior: Fourier coefficients are independent, [SIDE, SIDE] each."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    power = SIGMA**2 * 0.003 / (0.02 + frequency) ** 2  # from far above the noise to a hundredth of it
    white = frozen_rng(1).standard_normal((SIDE, SIDE))
    clean = np.fft.ifft2(np.sqrt(power) * np.fft.fft2(white)).real
    noisy = Gaussian(SIGMA).corrupt(clean, frozen_rng(2))
    share = power / (power + SIGMA**2)
    mean = np.fft.ifft2(share * np.fft.fft2(noisy)).real
    model = ScoreModel(Wiener(power), parse_training_noise("gaussian:0.01-200"), "stable").eval()
    samples = draw_samples(model, noisy[..., None], Gaussian(SIGMA), mean[..., None], COUNT)[..., 0]
    found = {"clean": clean, "mean": mean, "samples": samples, "variance": SIGMA**2 * share, "frequency": frequency}
    return found | {"noisy": noisy, "power": power}


def coefficients(images: np.ndarray) -> np.ndarray:
    """Orthonormal Fourier coefficients, cosines and sines, each once: [..., 2, SIDE / 2 - 1, SIDE]."""
    values = np.fft.fft2(images, norm="ortho")[..., 1 : SIDE // 2, :] * np.sqrt(2)
    return np.stack([values.real, values.imag], axis=-3)


def test_samples_of_a_gaussian_field_have_the_posteriors_mean_and_covariance(field):
    """The deviation to 2 % at every scale, and the mean of nine as near the posterior's as that of nine true ones."""
    off = coefficients(field["samples"] - field["mean"])
    truth = field["variance"][1 : SIDE // 2]
    for low, high in [(0, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.75)]:
        band = (field["frequency"][1 : SIDE // 2] >= low) & (field["frequency"][1 : SIDE // 2] < high)
        found = (np.square(off) / truth)[..., band].mean()
        draws = 2 * COUNT * band.sum()
        assert abs(np.sqrt(found) - 1) < 0.03 + 2 / np.sqrt(draws), (low, found)
    spread = np.sqrt(np.square(field["samples"] - field["mean"]).mean())
    np.testing.assert_allclose(spread, np.sqrt(field["variance"].mean()), rtol=0.02)
    of_means = np.square(off.mean(0)).mean() / (truth.mean() / COUNT)
    assert abs(of_means - 1) < 0.05
    between = np.corrcoef(off.reshape(COUNT, -1))
    assert np.abs(between - np.eye(COUNT)).max() < 5 / SIDE  # samples are independent of each other


def test_the_truth_has_any_rank_among_samples(field):
    """Of 16,000 coefficients; pixels are no independent ones. Half or twice the noise in a step fails by far."""
    assert flatness(coefficients(field["clean"]), coefficients(field["samples"])) > 0.01
    thinned = np.s_[..., ::8, ::8]
    assert flatness(field["clean"][thinned], field["samples"][thinned]) > 0.01


def test_spectra_of_samples_are_those_of_clean_images(field):
    """The posterior mean has lost what the noise hides: nine tenths of the power at high frequencies."""
    high = field["frequency"] > 0.2
    clean, mean, *samples = (
        np.square(np.abs(np.fft.fft2(image)))[high].sum()
        for image in (field["clean"], field["mean"], *field["samples"])
    )
    assert mean < 0.3 * clean
    np.testing.assert_allclose(samples, clean, rtol=0.05)


# --- other noise: pixels by themselves ----------------------------------------------------------------------

GRID = np.linspace(0.02, 1, 99)
PRIOR = (
    stats.norm.pdf(GRID, 0.3, 0.05) + 0.7 * stats.norm.pdf(GRID, 0.42, 0.02) + 0.1 * stats.norm.pdf(GRID, 0.06, 0.01)
)
PRIOR /= PRIOR.sum()


def posterior(y: np.ndarray, noise: NoiseModel) -> np.ndarray:
    """Of each pixel, on GRID: [..., 99]."""
    y = y[..., None].astype(float)
    if noise.family == "poisson":
        log = y / noise.zeta * np.log(GRID) - GRID / noise.zeta
    elif noise.family == "gamma":
        log = -noise.k * (np.log(GRID) + y / GRID)
    else:  # near enough for Poisson-Gaussian noise
        variance = np.broadcast_to(np.square(noise.std(GRID)), GRID.shape)
        log = -np.square(y - GRID) / (2 * variance) - np.log(variance) / 2
    share = np.exp(log - log.max(-1, keepdims=True)) * PRIOR
    return share / share.sum(-1, keepdims=True)


def posterior_mean(model: object, y: np.ndarray, noise: NoiseModel, *_: object) -> np.ndarray:
    """What Tweedie's formula gives, for Gamma noise the harmonic mean; from a table, as it is a function of a value."""
    values = np.linspace(y.min(), y.max(), 1000)
    share = posterior(values, noise)
    means = 1 / (share @ (1 / GRID)) if noise.family == "gamma" else share @ GRID
    return np.interp(y, values, means).astype(np.float32)


def pixels_and_samples(noise: NoiseModel, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, ...]:
    """Clean pixels, their posteriors' means and variances, and samples."""
    rng = frozen_rng(3)
    clean = np.interp(rng.random((60, 80, 1)), PRIOR.cumsum() - PRIOR / 2, GRID)
    noisy = noise.corrupt(clean, rng)
    monkeypatch.setattr(posterior_samples, "denoise_tiled", posterior_mean)
    model = random_model(*SCORES, channels=1)  # not asked
    monkeypatch.setattr(posterior_samples, "factors", lambda *_: np.geomspace(1, 0.5 / 255 / noise.std(0.5), 21))
    samples = draw_samples(model, noisy, noise, posterior_mean(None, noisy, noise), COUNT)
    share = posterior(noisy, noise)
    return clean, share @ GRID, share @ GRID**2 - (share @ GRID) ** 2, samples


@pytest.mark.parametrize(
    "text", ["poisson:0.05", "poisson:0.01", "poisson-gaussian:0.03:10", "curve:0=0.01_1=0.1", "gaussian:25+blur:0.7"]
)
def test_other_noise(text, monkeypatch):
    """Poisson noise down to a photon; the rest, of which the posterior is told a little less than there is to know."""
    clean, mean, variance, samples = pixels_and_samples(parse_noise(text), monkeypatch)
    np.testing.assert_allclose(np.sqrt(samples.var(0, ddof=1).mean()), np.sqrt(variance.mean()), rtol=0.03)
    assert abs((samples.mean(0) - mean).mean()) < 0.03 * np.sqrt(variance.mean())
    assert flatness(clean, samples) > 0.01


@pytest.mark.parametrize("text", ["gamma:100", "gamma:20"])
def test_samples_of_gamma_noise_have_the_harmonic_mean(text, monkeypatch):
    """By which they are too low: by the relative variance, a part of the deviation."""
    noise = parse_noise(text)
    _, mean, variance, samples = pixels_and_samples(noise, monkeypatch)
    deviation = np.sqrt(variance.mean())
    np.testing.assert_allclose(np.sqrt(samples.var(0, ddof=1).mean()), deviation, rtol=0.03)
    assert -0.2 * deviation < (samples.mean(0) - mean).mean() < 0.02 * deviation


def test_quantiles_of_counts():
    share, mean = frozen_rng(1).random((2, 4000)) * [[1], [60]]
    found, true = poisson_quantiles(share, mean), stats.poisson.ppf(share, mean)
    assert (found == true)[mean <= 20].all() and np.abs(found - true).max() == 1 and (found != true).mean() < 0.01
    assert poisson_quantiles(np.array([0.0, 0.5, 1 - 1e-16]), np.array([0.0, 0.0, 15.0])).tolist()[:2] == [0, 0]


# --- networks -----------------------------------------------------------------------------------------------


def test_weaker_noise_is_told_as_the_weakest_that_was_learned(monkeypatch):
    model, noise, told = random_model(*SCORES, channels=1), parse_noise("poisson:0.01"), []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda x: told.append(x[:, -1].mean().item()) or forward(x))
    noisy = noise.corrupt(np.full((16, 16, 1), 0.5), frozen_rng(1))
    draw_samples(model, noisy, noise, noisy, 1)
    levels = 0.1 * np.exp(told)
    weakest = np.sqrt(0.5 * 0.005)
    assert weakest_known(model, noise) == pytest.approx(weakest)
    np.testing.assert_allclose(levels, np.maximum(factors(model, noise)[1:] * np.sqrt(0.5 * 0.01), weakest), rtol=1e-5)
    assert levels[0] > weakest and levels[-1] == pytest.approx(weakest)
    assert factors(model, noise)[-1] * noise.std(0.5) == pytest.approx(5 / 255)  # the weakest Gaussian noise
    for text, last in [("gaussian:25", 0.2), ("gaussian:50", 0.1), ("gaussian:6", 0.3), ("gaussian:2", 0.3)]:
        assert factors(model, parse_noise(text))[-1] == pytest.approx(last)
    assert factors(high_pass("gaussian:0.01-100"), parse_noise("gaussian:25"))[-1] == pytest.approx(0.02)


class HighPass(nn.Module):
    """What a pixel has more than those within three of it; a random network would blow up what it sees twenty times."""

    multiple, receptive_radius = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        around = nn.functional.avg_pool2d(x[:, :3], 7, 1, 3, count_include_pad=False)
        return 0.9 * (x[:, :3] - around)


def high_pass(noise: str = RANGES) -> ScoreModel:
    return ScoreModel(HighPass(), parse_training_noise(noise), "stable").eval()


@pytest.mark.parametrize("text", ["gaussian:25", "gamma:50", "poisson-gaussian:0.05:5"])
def test_samples_are_a_function_of_image_seed_and_number(text):
    """Tiles, and how many samples there are, change rounding alone; seeds and images change all."""
    model, noise = high_pass(), parse_noise(text)
    noisy = noise.corrupt(np.full((28, 22, 3), 0.5), frozen_rng(1))
    mean = denoise_whole(model, noisy, noise)
    whole = draw_samples(model, noisy, noise, mean, 3)
    assert whole.dtype == np.float32 and whole.shape == (3, 28, 22, 3)
    for other in (draw_samples(model, noisy, noise, mean, 2, tile=16), draw_samples(model, noisy, noise, mean, 1)):
        apart = np.abs(other - whole[: len(other)])
        assert (apart > 1e-4).mean() < 0.01 and apart.max() < 0.02  # a photon more, where rounding decides it
    np.testing.assert_array_equal(draw_samples(model, noisy, noise, mean, 3), whole)
    spread = np.abs(whole[0] - whole[1]).mean()
    assert np.abs(draw_samples(model, noisy, noise, mean, 1, seed=1) - whole[:1]).mean() > spread / 2
    turned = draw_samples(model, noisy[::-1].copy(), noise, mean[::-1], 1)[0, ::-1]
    assert np.abs(turned - whole[0]).mean() > spread / 2


# --- what people get ----------------------------------------------------------------------------------------


def denoiser(noise: str = RANGES, *options: str, tile: int = 768) -> Denoiser:
    config = read_config([f"--noise={noise}", *options])
    return Denoiser(checkpoint.Loaded(Path("some"), config, 3, "", 0, high_pass(noise)), tile)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(posterior_samples, "STEPS", 2)


def test_samples_are_of_the_images_kind(few_steps):
    denoise, noisy = denoiser(), frozen_rng(1).random((2, 20, 33, 3)).astype(np.float32)
    found, info = denoise(noisy[0], noise="gaussian:25", samples=3)
    assert info.samples.shape == (3, 20, 33, 3) and info.samples.dtype == np.float32
    assert denoise(noisy[0], noise="gaussian:25")[1].samples is None
    expected = draw_samples(denoise.loaded.model, noisy[0], Gaussian(25 / 255), found, 3)
    np.testing.assert_array_equal(info.samples, expected)
    both = denoise(noisy, noise="gaussian:25", samples=3)[1].samples
    assert both.shape == (3, 2, 20, 33, 3)
    np.testing.assert_allclose(both[:, 0], expected, atol=1e-5)
    tensor = torch.from_numpy(noisy).movedim(-1, -3)
    of_tensor = denoise(tensor, noise="gaussian:25", samples=3)[1].samples
    np.testing.assert_allclose(of_tensor.movedim(-3, -1), both, atol=1e-5)
    eight = np.round(noisy[0] * 255).astype(np.uint8)
    of_bytes = denoise(eight, noise="gaussian:25", samples=2)[1].samples
    assert of_bytes.dtype == np.uint8 and of_bytes.std(0).max() > 1
    pictures = denoise(Image.fromarray(eight), noise="gaussian:25", samples=2)[1].samples
    np.testing.assert_array_equal(np.stack(pictures), of_bytes)
    masked = np.ma.masked_greater(noisy[0], 0.9)
    of_masked = denoise(masked, noise="gaussian:25", samples=2)[1].samples
    np.testing.assert_array_equal(np.ma.getmaskarray(of_masked), np.stack([masked.mask] * 2))


def test_what_is_refused(monkeypatch):
    noisy = np.full((20, 33, 3), 0.5, np.float32)
    for given, said in [({"samples": -1}, "-1 samples"), ({"samples": 300}, "1 to 256"), ({"seed": -1}, "seed of the")]:
        with pytest.raises(UserError, match=said):
            denoiser()(noisy, noise="gaussian:25", **given)
    for noise, options in [
        ("gaussian:25", ()),
        ("gaussian:5-55", ("--ardae.focus=gaussian:22-28", "--ardae.whole_range=true")),
    ]:
        with pytest.raises(UserError, match="samples take a network of many levels, and some is for gaussian:2"):
            denoiser(noise, *options)(noisy, noise="gaussian:25", samples=2)
    monkeypatch.setattr(Gaussian, "is_divisible", False)
    with pytest.raises(UserError, match="samples can't be drawn for gaussian:25: the mean of several"):
        denoiser()(noisy, noise="gaussian:25", samples=2)
    monkeypatch.setattr(arrays, "available_bytes", lambda: 2**20)
    monkeypatch.setattr(arrays, "_FEW", 10**6)
    with pytest.raises(UserError, match="GiB of memory"):
        denoiser()(np.full((100, 100, 3), 0.5, np.float32), noise="poisson:0.05", samples=100)


def test_of_the_shipped_networks_one_of_all_levels_is_taken(few_steps, shipped):
    """gaussian25-gray is the narrowest, and knows no weaker noise."""
    noisy = frozen_rng(1).random((16, 16)).astype(np.float32)
    assert shipped(noisy, noise="gaussian:25")[1].network.path.name == "gaussian25-gray"
    assert shipped(noisy, noise="gaussian:25", samples=1)[1].network.path.name == "gaussian-gray"
    assert shipped(noisy, noise="gaussian:20+blur:0.7", samples=1)[1].network.path.name == "instrument-gray"
