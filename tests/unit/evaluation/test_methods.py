"""Networks as methods of the evaluator."""

import numpy as np
import pytest
from support.denoisers import save_network

from n2s_dist.evaluation import methods
from n2s_dist.evaluation.methods import of_network
from n2s_dist.inference.tiling import Box, denoise_box
from n2s_dist.models import checkpoint
from n2s_dist.noise.gaussian import Gaussian

pytestmark = pytest.mark.usefixtures("cpu")


def test_how_much_to_take_of_weak_noise_is_asked_once_an_image_and_is_what_each_tile_would_have_asked(
    tmp_path, monkeypatch
):
    loaded = checkpoint.load(checkpoint.locate(save_network(tmp_path, "gaussian:1-75", condition="map")))
    rng, asked = np.random.default_rng(0), []
    images = [rng.random((64, 80, 3), np.float32) for _ in range(2)]
    noises = [Gaussian(2 / 255), Gaussian(4 / 255)]
    pairs = [(number, noise) for number in range(2) for noise in noises]
    shares = {pair: 0.2 + 0.1 * place for place, pair in enumerate(pairs)}

    def ask(model, noisy, noise):
        key = next(n for n, image in enumerate(images) if image is noisy), noise
        asked.append(key)
        return shares[key]

    monkeypatch.setattr(methods, "share_to_take", ask)
    denoise = of_network(loaded).denoise
    tiles = Box.of((64, 80)).tiles(32, 40)
    for key, share in shares.items():
        noisy, noise = images[key[0]], key[1]
        for box in tiles:
            own, mean = box.of_array(noisy), denoise_box(loaded.model, noisy, noise, box)
            np.testing.assert_array_equal(denoise(noisy, noise, box), own + np.float32(share) * (mean - own))
    assert asked == pairs
    for box in (tiles[0], Box.of((64, 80))):  # the first image again: nothing is kept of it
        denoise(images[0], noises[0], box)
    assert asked[len(pairs) :] == [(0, noises[0])] * 2
