"""Level functions and correlations found with a score: held to images whose score is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from n2s_dist.inference import instrument_estimation
from n2s_dist.inference.indirect_inference import fit_noise
from n2s_dist.inference.instrument_estimation import find_level_function, find_noise, noise_of_all
from n2s_dist.inference.noise_estimation import checked_noise, estimate_noise
from n2s_dist.inference.pieces import Pieces
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.specification import parse_noise, parse_training_noise
from n2s_dist.utils.errors import UserError

TEXT = "gaussian:1-75,gaussian:2-60+blur:0-1.5,poisson-gaussian:0.0025-0.1:1-25,gamma:15-400"
SIDE = 32
TOLD = 1.05  # times what was found: what a network is told on purpose


class Blocks(ScoreModel):
    """The score of images made of flat blocks: what a pixel differs from its block's mean. It ignores what it is told.

    `strength` is 1 for the true score of white noise.
    """

    def __init__(self, strength: float = 1.0, noise: str = TEXT) -> None:
        super().__init__(torch.nn.Linear(1, 1), parse_training_noise(noise), "stable", "map")
        self.strength = strength

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor) -> Tensor:
        return self.strength * (F.interpolate(F.avg_pool2d(w, SIDE), scale_factor=SIDE) - w)


def noisy_blocks(text: str, channels: int = 1, seed: int = 1, side: int = 192) -> np.ndarray:
    values = np.random.default_rng(0).uniform(0.05, 0.95, (side // SIDE, side // SIDE, channels))
    clean = values.repeat(SIDE, axis=0).repeat(SIDE, axis=1)
    return parse_noise(text).corrupt(clean, np.random.default_rng(seed)).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "strength"),
    [
        ("gaussian:25", 0.9),
        ("gaussian:15+blur:1.2", 0.9),
        *(("poisson-gaussian:0.02:8", strength) for strength in (0.9, 1.0)),
        ("gamma:60", 0.9),
    ],
)
def test_strength_at_each_brightness_and_width_of_flat_blocks(text, strength):
    """Also where the score has the wrong strength, which is the harder."""
    truth = parse_noise(text)
    found = noise_of(Blocks(strength), noisy_blocks(text, side=320))
    assert found.width == pytest.approx(truth.width, abs=0.1)
    for x in (0.2, 0.5, 0.8):  # a block's mean takes some of coarse noise
        assert float(np.max(found.std(x))) == pytest.approx(float(truth.std(x)), rel=0.07)


def noise_of(model: ScoreModel, image: np.ndarray) -> NoiseModel:
    return noise_of_all(model, [find_level_function(model, _pieces(image))])


def test_channels_have_curves_of_their_own():
    text = "curve:0=0.02:0.04:0.03_1=0.08:0.04:0.06"
    found = noise_of(Blocks(), noisy_blocks(text, channels=3, side=256))
    x = np.full((1, 1, 3), 0.5)
    np.testing.assert_allclose(found.std(x), parse_noise(text).std(x), rtol=0.08)


def test_several_images_of_one_instrument_have_one_noise():
    pieces = [_pieces(noisy_blocks("poisson-gaussian:0.02:8", seed=seed, side=192)) for seed in (1, 2)]
    found = noise_of_all(Blocks(), [find_level_function(Blocks(), each) for each in pieces])
    assert found.family == "poisson-gaussian"
    x = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(found.std(x), parse_noise("poisson-gaussian:0.02:8").std(x), rtol=0.06)


def _pieces(image: np.ndarray) -> Pieces:
    return Pieces(torch.from_numpy(np.moveaxis(image, -1, 0).copy())[None], None)


def test_what_no_curve_of_a_sensor_fits_is_no_noise():
    """It is strong and weak by turns over brightness, as texture may be."""
    pieces = _pieces(noisy_blocks("curve:0=0.02_0.2=0.12_0.4=0.02_0.6=0.12_0.8=0.02_1=0.12"))
    assert fit_noise(Blocks(), pieces) is None
    found = find_noise(Blocks(), pieces)
    assert not found.is_by_score and found.function == found.flat


def test_flat_areas_that_are_sure_have_the_say_unless_no_noise_fits(monkeypatch):
    pieces = _pieces(noisy_blocks("gaussian:15+blur:0.8"))
    found = find_noise(Blocks(), pieces)
    assert found.is_correlated and not found.is_by_score and found.function == found.flat
    monkeypatch.setattr(instrument_estimation, "fit_noise", lambda model, pieces: None)
    found = find_noise(Blocks(), pieces)
    assert not (found.is_correlated or found.is_even or found.is_worth_a_test)


def test_widths_stay_within_what_the_network_knows():
    narrow = Blocks(noise="gaussian:1-75,gaussian:2-60+blur:0-0.6")
    assert estimate_noise(narrow, noisy_blocks("gaussian:15+blur:1.2")).width <= 0.6


def test_the_same_image_gives_the_same_estimate():
    image = noisy_blocks("poisson-gaussian:0.02:8", side=96)
    assert estimate_noise(Blocks(), image) == estimate_noise(Blocks(), image.copy())


def test_a_level_of_one_named_family_is_found_as_before():
    found = estimate_noise(Blocks(), noisy_blocks("gaussian:25"), "gaussian")
    assert found.family == "gaussian" and found.level == pytest.approx(25 / 255, rel=0.025)


def test_a_network_of_correlated_noise_alone_estimates_no_family():
    with pytest.raises(UserError, match="correlated noise can't be estimated"):
        estimate_noise(Blocks(noise="gaussian:2-60+blur:0.5-1.5"), noisy_blocks("gaussian:25"), "gaussian")


@pytest.mark.parametrize("width", [0.5, 0.8])
def test_correlated_noise_replaces_what_formulas_say(width):
    text, plain = f"gaussian:15+blur:{width}", parse_noise("gaussian:10")
    found = checked_noise(Blocks(), noisy_blocks(text), plain, True)
    assert float(np.max(found.std(0.5))) == pytest.approx(TOLD * 15 / 255, rel=0.05)
    assert found.width == pytest.approx(width, abs=0.05)
    assert checked_noise(Blocks(), noisy_blocks(text, side=64), plain, True) is plain  # too small to tell


@pytest.mark.parametrize("text", ["gaussian:25", "gamma:60"])
def test_white_noise_that_formulas_know_is_left_to_them(text):
    plain = parse_noise(text)
    assert checked_noise(Blocks(), noisy_blocks(text), plain, True) is plain


@pytest.mark.parametrize(
    ("text", "plain"), [("poisson-gaussian:0.02:8", "gaussian:28"), ("poisson-gaussian:0.005:12", "gaussian:17")]
)
def test_white_noise_that_formulas_do_not_know_is_the_likelier(text, plain):
    found, truth = checked_noise(Blocks(), noisy_blocks(text), parse_noise(plain), True), parse_noise(text)
    assert found.family == "poisson-gaussian" and found.width == 0
    for x in (0.2, 0.5, 0.8):
        assert float(np.max(found.std(x))) == pytest.approx(float(truth.std(x)), rel=0.05)


@pytest.mark.parametrize("text", ["gaussian:25", "poisson-gaussian:0.02:8"])
def test_white_noise_is_what_both_ways_agree_on(text):
    """With four squares whose sides are whole blocks: of 96 pixels at 32 and 96."""
    found = checked_noise(Blocks(), noisy_blocks(text, side=224), parse_noise("gaussian:5"), False)
    truth = parse_noise(text)
    assert found.width == 0
    for x in (0.2, 0.5, 0.8):
        assert float(np.max(found.std(x))) == pytest.approx(TOLD * float(truth.std(x)), rel=0.15)


class Texture(Blocks):
    """A score that takes everything but each block's mean, also where it is told weak noise."""


def test_texture_everywhere_is_not_taken_for_strong_noise():
    """Half of the image is covered with stripes of 40 levels, in noise of 2: what is taken away is not even."""
    rng = np.random.default_rng(0)
    clean = np.full((192, 192, 1), 0.5)
    clean[:, ::4] += 20 / 255 * (rng.uniform(size=(192, 48, 1)) < np.linspace(0, 1, 192)[:, None, None])
    noisy = parse_noise("gaussian:2").corrupt(clean, rng).astype(np.float32)
    assert not find_level_function(Texture(), _pieces(noisy)).is_even
    assert checked_noise(Texture(), noisy, parse_noise("gaussian:5"), True) == parse_noise("gaussian:5")
    assert find_level_function(Blocks(), _pieces(noisy_blocks("gaussian:25"))).is_even
