"""Correlated noise: its law, its draws in tiles, perturbations with its correlation, and why they must have it."""

import numpy as np
import pytest
import torch
from support.exact_training import train_to_the_least
from torch import nn

from n2s_dist.inference.denoiser import choose_noise
from n2s_dist.inference.tiling import Box
from n2s_dist.inference.uncertainty import random_signs
from n2s_dist.losses.draws import perturbations
from n2s_dist.models import checkpoint
from n2s_dist.models.score_model import ScoreModel, build_score_model
from n2s_dist.noise.blurred import coarse_strength, kernel, radius
from n2s_dist.noise.correlated import blurred
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.field import Field, Kernels
from n2s_dist.noise.frozen import corrupt_tile
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import format_noise, format_training_noise, parse_noise, parse_training_noise
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.hashing import name_key

CPU = torch.device("cpu")
KEY = name_key("a.png")
BASES = [Gaussian(0.1), Poisson(0.02), Gamma(60.0), PoissonGaussian(0.01, 0.05)]


def law(width: float, lag: int) -> float:
    """Correlation of pixels `lag` apart along one axis."""
    taps = kernel(width)
    return float(np.sum(taps[lag:] * taps[: len(taps) - lag]))


def correlation(noise: np.ndarray, down: int, across: int) -> float:
    """Of a field [..., H, W] with itself moved."""
    height, width = noise.shape[-2:]
    one, two = noise[..., : height - down, : width - across], noise[..., down:, across:]
    return float((one * two).mean() / (noise**2).mean())


@pytest.mark.parametrize("width", [0.0, 0.3, 0.7, 1.2, 8.0])
def test_kernels_have_unit_energy_and_a_gaussian_shape(width):
    taps = kernel(width)
    assert len(taps) == 2 * radius(width) + 1 and np.sum(taps**2) == pytest.approx(1)
    at = np.arange(len(taps)) - radius(width)
    expected = np.exp(-0.5 * (at / max(width, 1e-9)) ** 2)
    np.testing.assert_allclose(taps, expected / np.sqrt(np.sum(expected**2)), atol=1e-12)
    np.testing.assert_array_equal(kernel(width, radius(width) + 2)[2:-2], taps)


@pytest.mark.parametrize("width", [0.4, 0.7, 1.2])
@pytest.mark.parametrize("base", BASES, ids=format_noise)
def test_frozen_noise_has_the_familys_strength_and_the_kernels_correlation(base, width):
    tile = np.full((400, 400, 1), 128, np.uint8)
    noise = corrupt_tile(blurred(base, width), tile, KEY, 0, 0, 0)[:, :, 0].astype(np.float64) - 128 / 255
    assert noise.std() == pytest.approx(base.std(128 / 255), rel=0.02)
    for down, across in ((0, 1), (1, 0), (1, 1), (0, 2)):
        assert correlation(noise, down, across) == pytest.approx(law(width, down) * law(width, across), abs=0.02)


@pytest.mark.parametrize("width", [0.0, 0.3, 0.7, 1.5])
def test_over_many_pixels_it_is_as_strong_as_said(width):
    """A mean of white noise over k x k pixels has the deviation over k."""
    side = 32
    field = blurred(Gaussian(0.1), width) if width else Gaussian(0.1)
    noise = field.corrupt(np.full((40 * side, 40 * side, 1), 0.5), np.random.default_rng(0))[..., 0] - 0.5
    means = noise.reshape(40, side, 40, side).mean(axis=(1, 3))
    edge = 1 - autocorrelation_reach(width) / side  # what is blurred over a square's border is lost to it
    assert means.std() * side / 0.1 == pytest.approx(coarse_strength(width) * edge, rel=0.06)


def autocorrelation_reach(width: float) -> float:
    """The mean distance of pixels that are alike, in pixels along one axis, times their correlation's sum."""
    lags = range(1, 2 * radius(width) + 1)
    laws = np.array([law(width, lag) for lag in lags])
    return float((laws * lags).sum() / (0.5 + laws.sum())) if width else 0.0


def test_channels_and_images_are_independent():
    tile = np.full((200, 200, 3), 128, np.uint8)
    noise = corrupt_tile(blurred(Gaussian(0.1), 0.7), tile, KEY, 0, 0, 0) - 128 / 255
    other = corrupt_tile(blurred(Gaussian(0.1), 0.7), tile, KEY + 1, 0, 0, 0) - 128 / 255
    for one, two in ((noise[..., 0], noise[..., 1]), (noise[..., 0], other[..., 0])):
        assert abs((one * two).mean()) / 0.01 < 0.03


@pytest.mark.parametrize("base", BASES, ids=format_noise)
def test_overlapping_tiles_agree_to_the_last_bit(base):
    noise, image = blurred(base, 0.9), np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    whole = corrupt_tile(noise, image, KEY, 0, 0, 7)
    for row, column in ((0, 0), (13, 29), (30, 37)):
        part = image[row : row + 60, column : column + 63]
        found = corrupt_tile(noise, part, KEY, row, column, 7)
        np.testing.assert_array_equal(found, whole[row : row + 60, column : column + 63])


def test_corrupt_is_of_the_same_law():
    clean = np.full((300, 300, 2), 0.5)
    noise = (blurred(Poisson(0.02), 0.8).corrupt(clean, np.random.default_rng(0)) - 0.5)[..., 1]
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert correlation(noise, 1, 0) == pytest.approx(law(0.8, 1), abs=0.02)
    assert correlation(noise, 0, 1) == pytest.approx(law(0.8, 1), abs=0.02)


def test_text_goes_there_and_back():
    assert parse_noise("gaussian:25+blur:0.7") == blurred(Gaussian(25 / 255), 0.7)
    assert parse_noise("gaussian:25+blur:0") == Gaussian(25 / 255)
    for text in ("gaussian:25+blur:0.7", "gaussian:5-55+blur:0-1.2", "gaussian:25+blur:0.5-1,poisson:0.01-0.1"):
        assert format_training_noise(parse_training_noise(text)) == text
    distribution = parse_training_noise("gaussian:5-55+blur:0-1.2")
    _, values = distribution.draw(np.arange(4000, dtype=np.uint64), 0)
    assert values[:, 1].max() < 1.2 and values[:, 1].mean() == pytest.approx(0.6, abs=0.03)
    white = parse_training_noise("gaussian:5-55").draw(np.arange(4000, dtype=np.uint64), 0)[1]
    np.testing.assert_array_equal(values[:, 0], white[:, 0])
    assert distribution.max_width == 1.2 and distribution.is_stored_only
    assert distribution.holds(Gaussian(0.1)) and distribution.holds(blurred(Gaussian(0.1), 1.0))
    assert not distribution.holds(blurred(Gaussian(0.1), 1.5)) and not parse_training_noise("gaussian:5-55").holds(
        blurred(Gaussian(0.1), 0.5)
    )


def test_a_family_may_have_a_white_and_a_blurred_range():
    both = parse_training_noise("gaussian:5-55,gaussian:5-55+blur:0.3-1.5")
    assert both.families == ("gaussian",) and both.specificity[0] == 2
    assert both.holds(Gaussian(0.1)) and both.holds(blurred(Gaussian(0.1), 0.5))
    assert not both.holds(blurred(Gaussian(0.1), 0.2)) and both.is_end(blurred(Gaussian(0.1), 1.5))
    assert both.contains(parse_training_noise("gaussian:20-30,gaussian:20-30+blur:0.3-1"))
    assert not both.contains(parse_training_noise("gaussian:20-30"))
    keys = np.arange(2000, dtype=np.uint64)
    widths = both.kernels(keys, 0).widths
    assert 850 < (widths == 0).sum() < 1150 and widths[widths > 0].min() >= 0.3
    assert np.isfinite(both.log_raise(keys, 0, np.full(2000, 0.5), both)).all()


# --- perturbations ------------------------------------------------------------------------------------------


def test_perturbations_have_the_noises_correlation_up_to_the_border():
    widths = np.array([0.0, 0.7, 1.2])
    u = perturbations(0, np.arange(3), torch.Size((3, 8, 160, 160)), CPU, Kernels(widths, radius(1.2))).double().numpy()
    for sample, width in zip(u, widths, strict=True):
        assert sample.std() == pytest.approx(1, abs=0.02)
        assert sample[:, :2].std() == pytest.approx(1, abs=0.1) and sample[:, :, -2:].std() == pytest.approx(1, abs=0.1)
        assert correlation(sample, 1, 0) == pytest.approx(law(width, 1), abs=0.02)
        assert correlation(sample, 1, 1) == pytest.approx(law(width, 1) ** 2, abs=0.02)


def test_perturbations_depend_on_seed_and_position_alone():
    shape, reach = torch.Size((4, 3, 12, 10)), radius(1.0)
    positions, widths = np.array([5, 0, 10**12, 7]), np.array([0.5, 1.0, 0.2, 0.9])
    together = perturbations(1, positions, shape, CPU, Kernels(widths, reach))
    for i in range(4):
        alone = perturbations(1, positions[i:][:1], torch.Size((1, *shape[1:])), CPU, Kernels(widths[i:][:1], reach))
        assert torch.equal(alone[0], together[i])
    white = perturbations(1, positions, shape, CPU)
    assert not torch.equal(white, together)


def test_a_coloured_perturbation_is_unbiased_and_a_white_one_is_not():
    """Flat images under correlated noise: x ~ N(0, S^2) is one number, noise n has correlation C, z = x + n.

    The best linear filter of the AR-DAE loss, found in closed form from second moments. With u = K w' it estimates the
    noise: E[n | z], so z - F is the posterior mean. With white u it does not, whatever the number of samples.
    """
    width, spread, size, a = 0.8, 0.3, 12, 1e-3
    lags = np.array([law(width, lag) if lag <= 2 * radius(width) else 0.0 for lag in range(size)])
    row = lags[np.abs(np.subtract.outer(np.arange(size), np.arange(size)))]
    c = np.kron(row, row)
    signal = np.full((size**2, size**2), spread**2)

    def estimate_error(u_covariance: np.ndarray) -> float:
        """E |x_hat - x|^2 a pixel of the best linear score s = R z, as sigma_a goes to 0."""
        total = signal + c + a**2 * u_covariance  # of z + a u
        r = -u_covariance @ np.linalg.inv(total)  # R minimises E |u + a R (z + a u)|^2
        x_hat = np.eye(size**2) + r  # Tweedie's formula, in z, of a score with the noise's covariance in it
        error = signal - x_hat @ signal - signal @ x_hat.T + x_hat @ (signal + c) @ x_hat.T
        return float(np.trace(error) / size**2)

    best = signal @ np.linalg.inv(signal + c)
    truth = float(np.trace(signal - best @ signal) / size**2)
    assert estimate_error(c) == pytest.approx(truth, rel=1e-3)
    assert estimate_error(np.eye(size**2)) > 10 * truth
    assert estimate_error(np.eye(size**2)) > 1  # more noise than there was


class Filter(nn.Module):
    """One linear filter for all channels, with the constant planes unseen."""

    multiple, receptive_radius = 1, 3

    def __init__(self) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.zeros(1, 1, 7, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(nn.functional.pad(x[:, :1], (3, 3, 3, 3), mode="reflect"), self.taps)


@pytest.mark.parametrize(("colored", "low", "high"), [(True, 0.0, 0.1), (False, 1.0, 1e9)])
def test_a_filter_trained_with_coloured_perturbations_denoises(colored, low, high):
    """On noise alone, of images that are black: the least loss removes it, or with white u makes it worse."""
    noise = blurred(Gaussian(0.1), 0.8)
    model = ScoreModel(Filter(), NoiseDistribution.of(noise), "stable")
    clean = np.zeros((32, 24, 24, 1))
    y = torch.from_numpy(noise.corrupt(clean, np.random.default_rng(0))).float().permute(0, 3, 1, 2)
    kernels = Kernels(np.full(32, 0.8), radius(0.8)) if colored else None
    u = perturbations(0, np.arange(32), y.shape, CPU, kernels)
    sigma_a = torch.full((32, 1, 1, 1), 0.2)
    w, condition = model.given(y, noise)
    train_to_the_least(model, w, u, sigma_a, condition, max_iter=60)
    with torch.no_grad():
        left = float(model.denoise(y, noise).square().mean() / 0.1**2)
    assert low <= left < high


def test_uncertainty_probes_have_the_noises_correlation():
    signs = random_signs(Box(0, 0, 200, 220), 3, 0, Field((0.8,))).transpose(2, 0, 1).astype(np.float64)
    assert signs.std() == pytest.approx(1, abs=0.02) and correlation(signs, 1, 1) == pytest.approx(
        law(0.8, 1) ** 2, abs=0.02
    )
    part = random_signs(Box(20, 30, 60, 90), 3, 0, Field((0.8,)))
    np.testing.assert_array_equal(part, random_signs(Box(0, 0, 200, 220), 3, 0, Field((0.8,)))[20:60, 30:90])


# --- on the way to training ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory, photographs):
    folder = tmp_path_factory.mktemp("blurred") / "shards"
    build_shards([str(photographs)], str(folder), BuildOptions(64, validation_fraction=0.2, noise=TEXT), workers=1)
    return folder


TEXT = "gaussian:15-35+blur:0-1.2"


def test_tiles_hold_their_images_own_noise(stored):
    shards = ShardSet(stored)
    assert shards.noise == TEXT and shards.split.dtype == "float16"
    widths = {
        shards[i].image: parse_training_noise(TEXT).of_image(shards[i].image_key, 0).width for i in range(len(shards))
    }
    assert len(set(widths.values())) == len(widths)


@pytest.mark.parametrize("method", ["supervised", "noise2noise", "noise2void"])
def test_methods_that_can_not_take_it_are_refused(method):
    with pytest.raises(UserError, match=f"method {method} .*gaussian:25\\+blur:0.7 is correlated"):
        read_config(["--noise=gaussian:25+blur:0.7", f"--method={method}"])
    with pytest.raises(UserError, match="families knows no correlation: give map"):
        read_config([f"--noise={TEXT}"])


def test_networks_of_white_noise_refuse_correlated_noise(tmp_path):
    config = read_config(["--noise=gaussian:5-55", "--network.widths=[4,8]"])
    loaded = checkpoint.Loaded(tmp_path, config, 3, "", 0, build_score_model(config, 3))
    with pytest.raises(UserError, match=r"--noise is gaussian:25\+blur:0.7, but .* was trained on gaussian:5-55"):
        choose_noise(loaded, "gaussian:25+blur:0.7")
