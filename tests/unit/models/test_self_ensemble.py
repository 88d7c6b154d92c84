"""The self-ensemble against its definition, and how it turns and shifts with its image."""

import numpy as np
import pytest
import torch
from support.models import random_model

from n2s_dist.inference.tiling import denoise_tiled, denoise_whole
from n2s_dist.models.self_ensemble import SelfEnsemble
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson

pytestmark = pytest.mark.usefixtures("cpu")

SMALL = ["--network.widths=[4,8]", "--network.blocks=1"]
SYMMETRIC = ["--network.widths=[8,16]", "--network.blocks=1", "--network.symmetric=true"]
SYMMETRIES = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


def turn(image: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    turned = np.rot90(image, turns)
    return turned[:, ::-1] if mirrored else turned


def turn_back(image: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    return np.rot90(image[:, ::-1] if mirrored else image, -turns)


def picture(*size: int) -> np.ndarray:
    return np.random.default_rng(0).random((*size, 3)).astype(np.float32)


@pytest.mark.parametrize("coordinates", ["stable", "image"])
def test_it_turns_with_its_image_to_the_last_bit(coordinates):
    """On any size, though the network's own grid begins at one corner; the network alone does not turn so."""
    model = random_model(*SMALL, f"--ardae.coordinates={coordinates}")
    ensemble, noisy = SelfEnsemble(model), picture(21, 34)
    expected, alone = (denoise_whole(one, noisy, model.noise.single) for one in (ensemble, model))
    assert np.abs(expected - noisy).max() > 0.01
    for symmetry in SYMMETRIES:
        turned = turn(noisy, *symmetry)
        np.testing.assert_array_equal(denoise_whole(ensemble, turned, model.noise.single), turn(expected, *symmetry))
        if symmetry != (0, False):
            assert np.abs(denoise_whole(model, turned, model.noise.single) - turn(alone, *symmetry)).max() > 1e-3


def test_for_gaussian_noise_it_is_the_mean_of_eight_denoised_images():
    model, noisy = random_model(*SMALL), picture(21, 34)
    eight = [turn_back(denoise_whole(model, turn(noisy, *s), model.noise.single), *s) for s in SYMMETRIES]
    found = denoise_whole(SelfEnsemble(model), noisy, model.noise.single)
    np.testing.assert_allclose(found, np.mean(eight, axis=0), rtol=0, atol=1e-6)


def test_of_a_symmetric_network_it_is_the_mean_of_four_shifted_images():
    model, noisy = random_model(*SYMMETRIC), picture(21, 34)
    four = []
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        shifted = np.pad(noisy, ((down, 0), (right, 0), (0, 0)), mode="reflect")
        four.append(denoise_whole(model, shifted, model.noise.single)[down:, right:])
    assert np.std(four, axis=0).mean() > 1e-3
    found = denoise_whole(SelfEnsemble(model), noisy, model.noise.single)
    np.testing.assert_allclose(found, np.mean(four, axis=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", [SMALL, SYMMETRIC], ids=["flips", "shifts"])
@pytest.mark.parametrize("size", [(16, 1), (1, 1)], ids=str)
def test_a_line_and_a_point(network, size):
    model, noisy = random_model(*network), picture(*size)
    found = denoise_whole(SelfEnsemble(model), noisy, model.noise.single)
    assert found.shape == noisy.shape and np.isfinite(found).all()


def test_of_a_symmetric_network_without_coarser_levels_it_shifts_with_its_image():
    """By single pixels, away from borders; the network alone shifts by two."""
    model = random_model("--network.widths=[8]", "--network.blocks=1", "--network.symmetric=true")
    noisy, margin = picture(48, 64), model.network.receptive_radius + 2
    inner = (slice(margin, -margin), slice(margin, -margin))
    for one, within in ((SelfEnsemble(model), True), (model, False)):
        whole = denoise_whole(one, noisy, model.noise.single)[1:, 1:]
        shifted = denoise_whole(one, noisy[1:, 1:], model.noise.single)
        assert bool(np.abs(shifted - whole)[inner].max() < 1e-5) is within


@pytest.mark.parametrize("noise", [Poisson(0.05), Gamma(50)], ids=str)
def test_every_family_goes_through_the_mean_score(noise):
    model, y = random_model("--noise=gaussian:5-55,poisson:0.005-0.1,gamma:20-200", *SMALL), picture(16, 24)
    batch = torch.from_numpy(y).permute(2, 0, 1)[None]
    with torch.no_grad():
        scores = []
        for symmetry in SYMMETRIES:
            w, condition = model.given(torch.from_numpy(turn(y, *symmetry).copy()).permute(2, 0, 1)[None], noise)
            score = model.unperturbed(w, condition)[0].permute(1, 2, 0).numpy()
            scores.append(turn_back(score, *symmetry))
        mean = torch.from_numpy(np.mean(scores, axis=0)).permute(2, 0, 1)[None]
        expected = noise.posterior_mean(batch, mean)[0].permute(1, 2, 0)
    np.testing.assert_allclose(denoise_whole(SelfEnsemble(model), y, noise), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", [SMALL, SYMMETRIC], ids=["flips", "shifts"])
@pytest.mark.parametrize("size", [(138, 145), (131, 7)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_tiles_equal_the_whole(size, network):
    """Seen from its other end, or shifted, an image's grid begins elsewhere: tiles must keep all."""
    model = SelfEnsemble(random_model(*network))
    noisy = picture(*size)
    whole = denoise_whole(model, noisy, Gaussian(0.1))
    np.testing.assert_allclose(denoise_tiled(model, noisy, Gaussian(0.1), tile=32), whole, rtol=0, atol=1e-5)
