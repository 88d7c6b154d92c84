"""Of weak noise a network takes as much as does an image good."""

import numpy as np
import pytest
import torch
from torch import Tensor

from n2s_dist.inference.network_choice import load_denoiser
from n2s_dist.inference.restraint import share_to_take
from n2s_dist.noise.gaussian import Gaussian


class Overeager:
    """Takes `times` as much as does the posterior mean of images of independent pixels, of variance `prior`."""

    condition_kind = "map"

    def __init__(self, times: float, prior: float) -> None:
        self.times, self.prior = times, prior

    def parameters(self):
        return iter([torch.zeros(1)])

    def denoise(self, noisy: Tensor, noise: Gaussian) -> Tensor:
        return noisy - self.times * noise.sigma**2 / (noise.sigma**2 + self.prior) * (noisy - 0.5)


@pytest.mark.parametrize(("times", "share"), [(1.0, 1.0), (2.0, 0.5), (5.0, 0.2), (0.5, 1.0)])
def test_what_is_left_is_the_posterior_mean(times, share):
    """Of Gaussian images it takes sigma^2 / (sigma^2 + prior) of what differs from their mean."""
    sigma, prior, rng = 3 / 255, 0.05**2, np.random.default_rng(0)
    noisy = (0.5 + rng.normal(0, np.hypot(sigma, prior**0.5), (320, 300, 1))).astype(np.float32)
    assert share_to_take(Overeager(times, prior), noisy, Gaussian(sigma)) == pytest.approx(share, abs=0.03)


def test_strong_noise_and_other_networks_are_left_as_they_are():
    noisy = np.full((64, 64, 1), 0.5, np.float32)
    network = Overeager(5, 0.01)
    assert share_to_take(network, noisy, Gaussian(5 / 255)) == 1
    network.condition_kind = "families"
    assert share_to_take(network, noisy, Gaussian(1 / 255)) == 1


def test_missing_pixels_have_no_say():
    rng = np.random.default_rng(0)
    noisy = (0.5 + rng.normal(0, np.hypot(0.02, 4 / 255), (160, 160, 1))).astype(np.float32)
    missing = np.zeros(noisy.shape, bool)
    missing[:, :60] = True
    spoilt = np.where(missing, rng.random(noisy.shape, np.float32), noisy)
    share = share_to_take(Overeager(3, 0.02**2), spoilt, Gaussian(4 / 255), missing)
    assert share == pytest.approx(1 / 3, abs=0.05)
    assert share_to_take(Overeager(3, 0.02**2), spoilt, Gaussian(4 / 255)) < share / 2


def test_images_of_a_batch_are_restrained_one_by_one(monkeypatch):
    denoise, noise = load_denoiser("instrument-gray"), Gaussian(20 / 255)
    batch = np.random.default_rng(0).random((2, 24, 24, 1)).astype(np.float32)
    whole = denoise(batch, noise)[0]
    shares = iter([0.0, 1.0])
    monkeypatch.setattr("n2s_dist.inference.denoiser.share_to_take", lambda *_: next(shares))
    found = denoise(batch, noise)[0]
    np.testing.assert_array_equal(found[0], batch[0])
    np.testing.assert_array_equal(found[1], whole[1])
