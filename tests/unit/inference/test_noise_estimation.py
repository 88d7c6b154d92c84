"""Noise estimated from noisy images alone: held to images whose score is known in closed form."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import Tensor

from n2s_dist.inference import noise_estimation, stein, total_variation
from n2s_dist.inference.noise_estimation import estimate_noise
from n2s_dist.inference.pieces import Pieces, choose_pieces
from n2s_dist.models import checkpoint
from n2s_dist.models.score_model import ScoreModel, build_score_model
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.specification import format_noise, parse_training_noise
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import UserError

TEXT = "gaussian:5-55,poisson:0.005-0.1,gamma:20-200"
NOISES = [Gaussian(15 / 255), Gaussian(50 / 255), Poisson(0.01), Poisson(0.05), Gamma(100.0), Gamma(50.0)]


class Blocks(ScoreModel):
    """The score of images made of flat 8 x 8 blocks of any brightness: what a pixel differs from its block's mean.

    `strength` is 1 for the true score.
    """

    def __init__(self, strength: float = 1.0, noise: str = TEXT) -> None:
        super().__init__(torch.nn.Linear(1, 1), parse_training_noise(noise), "stable")
        self.strength = strength

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor) -> Tensor:
        return self.strength * (F.interpolate(F.avg_pool2d(w, 8), scale_factor=8) - w)


def blocks(channels: int, side: int = 192) -> np.ndarray:
    """A clean image of such blocks, float64 [side, side, channels]."""
    values = np.random.default_rng(0).uniform(0.1, 0.95, (side // 8, side // 8, channels))
    return values.repeat(8, axis=0).repeat(8, axis=1)


def noisy_blocks(noise: NoiseModel, channels: int = 3) -> np.ndarray:
    return noise.corrupt(blocks(channels), np.random.default_rng(1)).astype(np.float32)


def error(found: NoiseModel, truth: NoiseModel) -> float:
    return abs(found.level / truth.level - 1)


@pytest.mark.parametrize(("noise", "channels"), [*((noise, 1) for noise in NOISES), (NOISES[0], 3), (NOISES[3], 3)])
def test_family_and_level_of_flat_blocks(noise, channels):
    """36,864 pixels tell a standard deviation to 0.4 %, and a variance to 0.8 %; a color has three times as many."""
    found = estimate_noise(Blocks(), noisy_blocks(noise, channels))
    assert type(found) is type(noise) and error(found, noise) < 0.025


@pytest.mark.parametrize("strength", [0.9, 1.1])
@pytest.mark.parametrize("noise", NOISES[::2], ids=format_noise)
def test_a_score_of_the_wrong_strength_is_seen_through(noise, strength):
    """Its ratio alone would be off by as much as the strength; pieces of known noise tell what to expect of it."""
    noisy = noisy_blocks(noise)
    found, _ = stein.ratio(Blocks(strength), torch.from_numpy(noisy).permute(2, 0, 1)[None], noise)
    assert found == pytest.approx(1 / strength, rel=0.03)
    assert error(estimate_noise(Blocks(strength), noisy, noise.family), noise) < 0.025


def test_ratio_of_a_true_score_grows_as_the_assumed_variance():
    y = torch.from_numpy(noisy_blocks(Gaussian(0.1))).permute(2, 0, 1)[None]
    for sigma in (0.08, 0.1, 0.13):
        assert stein.ratio(Blocks(), y, Gaussian(sigma))[0] == pytest.approx((sigma / 0.1) ** 2, rel=0.01)


class Linear(ScoreModel):
    """s_z = -slope (z - middle): the score of normal z."""

    def __init__(self, slope: float, middle: float) -> None:
        super().__init__(torch.nn.Linear(1, 1), parse_training_noise(TEXT), "stable")
        self.slope, self.middle = slope, middle

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor) -> Tensor:
        return -self.slope * (w - self.middle)


def test_the_objective_is_the_distance_to_the_true_score():
    """For y ~ N(m, s^2), objectives of two models differ as E[(s_u - truth)^2] / 2 do, whatever their noise.

    The distances are computed from s_y = s_z T' + T''/T', with derivatives of T by hand.
    """
    mean, spread = 0.5, 0.08
    quantiles = norm.ppf((np.arange(200 * 200) + 0.5) / 200**2, mean, spread)  # no draws: no error of chance
    y = torch.from_numpy(quantiles).view(1, 1, 200, 200)
    assert y.min() > 0.1
    zeta, k, sigma = 0.02, 60.0, 0.09
    photons = y / zeta + 3 / 8
    speed = (y - 0.5 / 255) / torch.sqrt(y - 0.5 / 255 + 0.1)  # dy/du
    cases: list[tuple[NoiseModel, Tensor, Tensor, Tensor]] = [
        (Gaussian(sigma), y / sigma, torch.full_like(y, 1 / sigma), torch.zeros_like(y)),
        (Poisson(zeta), 2 * photons.sqrt(), 1 / (zeta * photons.sqrt()), -0.5 / (zeta * photons)),
        (Gamma(k), math.sqrt(k) * y.log(), math.sqrt(k) / y, -1 / y),
    ]  # fmt: skip
    found, truth = [], []
    for noise, z, first, log_slope in cases:
        middle = float(z.mean())
        found.append(stein.objective(Linear(0.7, middle), Pieces(y.float(), None), noise))
        score_y = -0.7 * (z - middle) * first + log_slope
        truth.append(float((speed * (score_y + (y - mean) / spread**2)).square().mean() / 2))
    assert np.ptp(truth) > 1
    np.testing.assert_allclose(np.subtract(found, found[0]), np.subtract(truth, truth[0]), rtol=2e-3, atol=2e-3)
    # The least of all: the true score itself.
    true = Linear((sigma / spread) ** 2, mean / sigma)
    assert stein.objective(true, Pieces(y.float(), None), Gaussian(sigma)) < min(found)


def test_the_same_image_gives_the_same_estimate():
    noisy = noisy_blocks(Poisson(0.03), channels=1)
    assert estimate_noise(Blocks(), noisy) == estimate_noise(Blocks(), noisy.copy())


def test_levels_out_of_the_models_range_come_back_as_its_end():
    assert estimate_noise(Blocks(), noisy_blocks(Gaussian(90 / 255)), "gaussian").level == pytest.approx(55 / 255)
    assert estimate_noise(Blocks(), noisy_blocks(Gaussian(1 / 255)), "gaussian").level == pytest.approx(5 / 255)


def test_large_and_narrow_images_are_sampled_all_over():
    noise = Gaussian(30 / 255)
    for height, width in ((1000, 40), (32, 700), (500, 500)):
        noisy = noise.corrupt(np.full((height, width, 1), 0.5), np.random.default_rng(0))
        found = estimate_noise(Blocks(), noisy, "gaussian")
        assert error(found, noise) < 0.04


def test_a_black_image_has_a_level_of_every_family():
    """Nothing can be known of Poisson or Gamma noise on black: an end of the range, not a crash."""
    for family in ("gaussian", "poisson", "gamma", None):
        assert math.isfinite(estimate_noise(Blocks(), np.zeros((64, 64, 3), np.float32), family).level)


def test_a_model_of_one_noise_knows_its_own_family(trained, photographs):
    model = checkpoint.load(checkpoint.locate(trained)).model
    assert isinstance(estimate_noise(model, np.random.default_rng(0).random((40, 48, 3))), Gaussian)
    with pytest.raises(UserError, match=r"'gamma' can't be estimated: the model was trained on gaussian:25"):
        estimate_noise(model, np.zeros((40, 48, 3)), "gamma")


def test_what_can_not_be_estimated_is_named():
    with pytest.raises(UserError, match="31 x 100 pixels"):
        estimate_noise(Blocks(), np.zeros((100, 31, 3)))
    with pytest.raises(UserError, match="not finite"):
        estimate_noise(Blocks(), np.full((40, 40, 3), np.nan))
    image = build_score_model(read_config(["--ardae.coordinates=image", "--network.widths=[12]"]), 3)
    with pytest.raises(UserError, match="stable coordinates"):
        estimate_noise(image, np.zeros((40, 40, 3)))


# --- the paper's scan -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guess", "noise"),
    [(Gaussian(0.1), Gaussian(0.15)), (Poisson(0.03), Poisson(0.05)), (Gamma(60.0), Gamma(90.0))],
    ids=["gaussian", "poisson", "gamma"],
)
def test_the_scan_hears_the_same_score_whatever_the_level(guess, noise):
    """A score of y goes to the guess's stable coordinates by derivatives of T, and comes back in y or in counts."""
    y = torch.linspace(0.05, 1.2, 100, dtype=torch.float64, requires_grad=True)
    score = -(y - 0.5) / 0.04
    (slope,) = torch.autograd.grad(guess.stabilize(y).sum(), y, create_graph=True)
    bend = torch.autograd.grad(slope.sum(), y)[0] if slope.requires_grad else torch.zeros_like(y)
    stable = (score / slope - bend / slope**2).detach()
    expected = score * noise.zeta if isinstance(noise, Poisson) else score
    torch.testing.assert_close(total_variation._natural(stable, y.detach(), guess, noise), expected.detach())


def test_the_scan_finds_the_gaussian_level_of_flat_blocks():
    """Its 50 levels are 1.02 apart, in 8-bit steps; with the true score, variation is least at the true one."""
    found = total_variation.scan_total_variation(Blocks(), noisy_blocks(Gaussian(25 / 255)), "gaussian")
    assert abs(found.level * 255 - 25) < 1.1


# --- where there is no noise ------------------------------------------------------------------------------


def spoiled(kind: str, sigma: float = 25 / 255) -> tuple[np.ndarray, np.ndarray | None]:
    """An image [480, 480, 1] of blocks with noise that a part of it has not, and where values are missing."""
    clean = blocks(1, 480)
    noisy = clean + np.random.default_rng(1).normal(0, sigma, clean.shape)
    missing = None
    if kind == "padded":
        noisy[:300] = noisy[:, :200] = 0
    elif kind == "overexposed":
        noisy = np.clip(1.5 * clean + noisy - clean, 0, 1)
    elif kind == "underexposed":
        noisy = np.clip(clean - 0.45 + noisy - clean, 0, 1)
    elif kind == "mosaic":
        noisy[:320] = np.repeat(np.repeat(noisy[:320:16, ::16], 16, 0), 16, 1)
    elif kind == "missing":
        missing = np.zeros(clean.shape, bool)
        missing[:, 100:] = True
        noisy[missing] = clean[missing]
    return (noisy if kind == "missing" else np.round(noisy * 255) / 255).astype(np.float32), missing


@pytest.mark.parametrize("kind", ["padded", "overexposed", "underexposed", "mosaic", "missing"])
def test_pixels_without_noise_do_not_count(kind):
    noisy, missing = spoiled(kind)
    found = estimate_noise(Blocks(), noisy, "gaussian", missing)
    assert found.level * 255 == pytest.approx(25, rel=0.08)
    assert found == estimate_noise(Blocks(), noisy.copy(), "gaussian", missing)
    fixed = noise_estimation._correct(Blocks(), fixed_squares(noisy), Gaussian(25 / 255), 3)
    assert abs(fixed.level * 255 - 25) > 4  # what the fixed squares would have said


def fixed_squares(noisy: np.ndarray) -> Pieces:
    image = torch.from_numpy(noisy).permute(2, 0, 1)
    tops = [(side - 96) // 4 for side in image.shape[1:]], [(side - 96) * 3 // 4 for side in image.shape[1:]]
    return Pieces(
        torch.stack([image[:, top[0] : top[0] + 96, left[1] : left[1] + 96] for top in tops for left in tops]), None
    )


@pytest.mark.parametrize("noise", NOISES, ids=format_noise)
@pytest.mark.parametrize("side", [100, 300])
def test_images_with_noise_everywhere_are_sampled_in_fixed_places(noise, side):
    """So estimates of them stay what they were, to the last bit."""
    noisy = noise.corrupt(np.random.default_rng(0).uniform(0.05, 1, (side, side, 3)), np.random.default_rng(1))
    pieces = choose_pieces(noisy.astype(np.float32))
    assert pieces.counted is None
    if side > 192:
        torch.testing.assert_close(pieces.pixels, fixed_squares(noisy.astype(np.float32)).pixels, rtol=0, atol=0)


def test_squares_are_apart_and_hold_data():
    noisy = np.zeros((1000, 1000, 1), np.float32)
    noisy[600:950, 500:980] = np.random.default_rng(0).random((350, 480, 1))
    pixels, counted = choose_pieces(noisy)
    assert pixels.shape == (4, 1, 96, 96) and counted is not None and counted.float().mean() > 0.9
    assert len({float(piece.mean()) for piece in pixels}) == 4
    assert choose_pieces(np.zeros((1000, 1000, 1), np.float32)).counted is None  # nothing to choose
