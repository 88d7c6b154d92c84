"""Noise level functions of a few points: exact transforms, an unbiased inverse, draws, text, what networks hear."""

import numpy as np
import pytest
import torch
from scipy import stats

from n2s_dist.inference.denoiser import Denoiser, choose_noise
from n2s_dist.inference.uncertainty import slope
from n2s_dist.models import checkpoint
from n2s_dist.models.conditioning import make_conditioning
from n2s_dist.models.score_model import build_score_model
from n2s_dist.noise.correlated import blurred
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.frozen import corrupt_tile
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import format_noise, noise_title, parse_noise, parse_training_noise
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import UserError

CPU = torch.device("cpu")
TEXT = "curve:0=0.02_0.3=0.05_0.6=0.05_1=0.03"
COLOR = "curve:0=0.01:0.02:0.03_1=0.05:0.06:0.02"
CURVES = [parse_noise(TEXT), parse_noise("curve:0=0.01_1=0.08"), parse_noise("curve:0.1=0.05_0.9=0.05")]
Y = torch.linspace(-0.2, 1.3, 301, dtype=torch.float64)


@pytest.mark.parametrize("noise", CURVES, ids=format_noise)
def test_the_transform_is_the_integral_of_one_over_the_deviation(noise):
    y = Y.clone().requires_grad_()
    z = noise.stabilize(y)
    (speed,) = torch.autograd.grad(z.sum(), y)
    std = torch.from_numpy(noise.std(Y.numpy()))
    torch.testing.assert_close(speed, 1 / std, rtol=1e-9, atol=0)
    numeric = torch.cumulative_trapezoid(1 / std, Y)
    torch.testing.assert_close((z - z[0])[1:].detach(), numeric, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(noise.std_at(z.detach()), std, rtol=1e-9, atol=0)
    torch.testing.assert_close(slope(noise, Y)[60:], std[60:], rtol=1e-9, atol=0)


@pytest.mark.parametrize("noise", CURVES, ids=format_noise)
def test_stable_noise_has_unit_deviation_and_the_inverse_is_unbiased(noise):
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x = np.linspace(0, 1, 41)
    z = noise.stabilize(torch.from_numpy(x[:, None] + noise.std(x)[:, None] * nodes)).numpy()
    mean = z @ weights / weights.sum()
    deviation = np.sqrt(z**2 @ weights / weights.sum() - mean**2)
    np.testing.assert_allclose(deviation, 1, atol=0.06)
    back = noise.unbiased_inverse(torch.from_numpy(mean)).numpy()
    np.testing.assert_allclose(back, x, atol=2e-4)
    y = torch.from_numpy(x)
    np.testing.assert_allclose(noise.posterior_mean(y, torch.from_numpy(mean) - noise.stabilize(y)), x, atol=2e-4)


def test_draws_have_its_law_and_channels_their_own():
    tile = np.full((256, 256, 3), 128, np.uint8)
    one = corrupt_tile(CURVES[0], tile, 1, 0, 0, 0) - 128 / 255
    assert stats.kstest(one.ravel(), stats.norm(0, CURVES[0].std(128 / 255)).cdf).pvalue > 1e-4
    noise = parse_noise(COLOR)
    found = corrupt_tile(noise, tile, 1, 0, 0, 0) - 128 / 255
    expected = noise.std(np.full((1, 3), 128 / 255))[0]
    np.testing.assert_allclose(found.std((0, 1)), expected, rtol=0.02)
    again = noise.corrupt(tile / 255, np.random.default_rng(0)) - 128 / 255
    np.testing.assert_allclose(again.std((0, 1)), expected, rtol=0.02)
    wide = corrupt_tile(blurred(noise, 0.7), tile, 1, 0, 0, 0) - 128 / 255
    np.testing.assert_allclose(wide.std((0, 1)), expected, rtol=0.03)
    assert noise.is_stored_only and not CURVES[0].is_stored_only
    wide = corrupt_tile(blurred(CURVES[0], 0.7), tile, 1, 0, 0, 0) - 128 / 255
    assert wide.std() == pytest.approx(CURVES[0].std(128 / 255), rel=0.02)


def test_channels_are_transformed_by_their_own_curves():
    noise, y = parse_noise(COLOR), torch.rand(2, 3, 5, 4)
    for channel in range(3):
        alone = Curve(tuple((point[0], point[1 + channel]) for point in noise.points))
        for ask in ("stabilize", "std_at", "unbiased_inverse", "variance_around"):
            torch.testing.assert_close(getattr(noise, ask)(y)[:, channel], getattr(alone, ask)(y[:, channel]))


def test_text_and_files(tmp_path):
    for text in (TEXT, COLOR, f"{TEXT}+blur:0.7"):
        assert format_noise(parse_noise(text)) == text
        assert parse_training_noise(text).holds(parse_noise(text))
    assert not parse_training_noise(TEXT).holds(CURVES[1])
    path = tmp_path / "my_curve.yaml"
    path.write_text("values: [0, 0.3, 0.6, 1]\nstd: [0.02, 0.05, 0.05, 0.03]\n")
    assert parse_noise(f"curve:{path}") == CURVES[0] and noise_title(TEXT) == "Curve"
    assert read_config([f"--noise=curve:{path}"]).noise == TEXT
    assert BuildOptions(noise=f"curve:{path}").noise == TEXT
    path.write_text("values: [0, 1]\nstd: [[0.01, 0.02, 0.03], [0.05, 0.06, 0.02]]\n")
    assert parse_noise(f"curve:{path}") == parse_noise(COLOR)
    path.write_text("values: [0, 1]\nstd: [0.01, 0.02]\nstd: [0.03, 0.04]\n")
    with pytest.raises(UserError, match=r"my_curve\.yaml: the key 'std' comes twice"):
        parse_noise(f"curve:{path}")
    path.write_bytes(b"values: [0, 1] # gr\xf6\xdfer\nstd: [0.01, 0.02]\n")
    with pytest.raises(UserError, match=r"my_curve\.yaml is not readable as YAML"):
        parse_noise(f"curve:{path}")
    path.write_text("values: [0, 1]\n")
    with pytest.raises(UserError, match="holds no curve"):
        parse_noise(f"curve:{path}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0=0.1", "2 to 64 points"),
        ("1=0.1_0=0.1", "growing values"),
        ("0=0.1_1=0", r"\(0, 1\]"),
        ("0=0.1:0.2_1=0.1:0.2", "three channels"),
        ("x", "write curve:VALUE=STD"),
        ("", "write curve:VALUE=STD"),
    ],
)
def test_other_text_is_refused(text, words):
    with pytest.raises(UserError, match=f"is not understood.*{words}"):
        parse_noise(f"curve:{text}")


def test_a_network_hears_the_curve_itself():
    distribution = parse_training_noise("poisson-gaussian:0.002-0.05:1-20")
    conditioning = make_conditioning("map", distribution)
    for text in (TEXT, COLOR):
        noise = parse_noise(text)
        w = noise.stabilize(torch.rand(2, 3, 16, 16) * 1.2 - 0.1)
        planes = conditioning.planes(w, conditioning.encode(noise, CPU), torch.full((1, 1, 1, 1), 0.2))
        expected = torch.log(noise.std_at(w) / 0.1) + 0.2
        torch.testing.assert_close(planes[:, 1:4], expected, rtol=0, atol=0.02)
    mixed = PoissonGaussian(0.01, 0.04)
    w = mixed.stabilize(torch.rand(1, 3, 4, 4))
    planes = conditioning.planes(w, conditioning.encode(mixed, CPU), torch.zeros(1, 1, 1, 1))
    torch.testing.assert_close(planes[:, 1:4], torch.log(mixed.std_at(w) / 0.1))


def loaded(noise: str, condition: str, tmp_path) -> checkpoint.Loaded:
    config = read_config([f"--noise={noise}", f"--network.condition={condition}", "--network.widths=[4,8]"])
    return checkpoint.Loaded(tmp_path, config, 3, "", 0, build_score_model(config, 3))


def test_networks_that_hear_a_map_of_signal_dependent_noise_serve_it(tmp_path):
    knows = loaded("poisson:0.005-0.1", "map", tmp_path)
    noisy = np.random.default_rng(0).random((32, 40, 3)).astype(np.float32)
    for text in (TEXT, COLOR):
        estimate, info = Denoiser(knows)(noisy, noise=text, uncertainty=True)
        assert np.isfinite(estimate).all() and np.isfinite(info.std).all() and info.noise == parse_noise(text)
    for noise, condition in (("gaussian:5-55", "map"), ("poisson:0.005-0.1", "families")):
        with pytest.raises(UserError, match="was trained on"):
            choose_noise(loaded(noise, condition, tmp_path), TEXT)
