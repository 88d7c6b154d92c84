"""Tiles that no one can tell from the whole."""

import numpy as np
import pytest
from support.models import random_model

from n2s_dist.inference.tiling import denoise_tiled, denoise_whole

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.mark.parametrize("coordinates", ["stable", "image"])
@pytest.mark.parametrize("size", [(150, 203), (203, 150), (131, 7), (40, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_tiles_equal_the_whole_resunet(size, coordinates):
    """Margins of 40 pixels around tiles of 32: the tiles in the middle see none of the image's borders."""
    options = ["--network.widths=[4,8]", "--network.blocks=1", f"--ardae.coordinates={coordinates}"]
    model = random_model(*options)
    assert model.network.receptive_radius <= 40
    noisy = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    whole = denoise_whole(model, noisy, model.noise.single)
    assert np.abs(whole - noisy).max() > 0.01  # the network does something
    np.testing.assert_allclose(denoise_tiled(model, noisy, model.noise.single, tile=32), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(600, 21), (21, 600)], ids=["600x21", "21x600"])
def test_tiles_equal_the_whole_unet_n2n(size):
    """A strip, since this network looks 189 pixels far: in one of its five tiles both borders are out of sight."""
    model = random_model("--network.name=unet_n2n")
    noisy = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    whole = denoise_whole(model, noisy, model.noise.single)
    assert np.abs(whole - noisy).max() > 0.01
    np.testing.assert_allclose(denoise_tiled(model, noisy, model.noise.single, tile=128), whole, rtol=0, atol=1e-5)


def test_images_of_one_size_go_through_together():
    model = random_model("--network.widths=[4,8]", "--network.blocks=1")
    noisy = np.random.default_rng(0).random((3, 70, 45, 3)).astype(np.float32)
    together = denoise_tiled(model, noisy, model.noise.single, tile=32)
    for image, expected in zip(noisy, together, strict=True):
        np.testing.assert_allclose(denoise_whole(model, image, model.noise.single), expected, rtol=1e-5, atol=1e-5)
