"""BM3D through its authors' package: what it gains, and the same bits each time."""

import numpy as np
import pytest
import skimage.data

from n2s_dist.evaluation.bm3d import bm3d
from n2s_dist.inference.tiling import Box
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.utils.hashing import frozen_rng


@pytest.fixture(scope="module")
def method():
    return bm3d()


@pytest.fixture(scope="module")
def denoised(method) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A clean image, with noise, and denoised: each call of the package takes half a second, however small it is."""
    clean = skimage.data.camera()[100:132, 200:232, None] / 255
    noisy = Gaussian(25 / 255).corrupt(clean, frozen_rng(0)).astype(np.float32)
    return clean, noisy, method.denoise(noisy, Gaussian(25 / 255), Box.of((32, 32)))


def test_it_is_the_packages_own_on_gaussian_noise_and_repeats_to_the_last_bit(method, denoised):
    """On several threads it would not: their sums come in another order each time."""
    import bm3d as package

    clean, noisy, first = denoised
    np.testing.assert_allclose(first[:, :, 0], package.bm3d(noisy[:, :, 0].astype(np.float64), 25 / 255), atol=1e-3)
    assert psnr_db(clean, first) > psnr_db(clean, noisy) + 5
    part = Box(8, 16, 30, 32)
    np.testing.assert_array_equal(method.denoise(noisy, Gaussian(25 / 255), part), part.of_array(first))


def test_colors_are_denoised_together(method, denoised):
    """At equal sigma three colors that agree gain more than gray alone."""
    gray, _, alone = denoised
    clean = np.repeat(gray, 3, axis=2)
    noisy = Gaussian(25 / 255).corrupt(clean, frozen_rng(0)).astype(np.float32)
    estimate = method.denoise(noisy, Gaussian(25 / 255), Box.of((32, 32)))
    assert psnr_db(clean, estimate) > psnr_db(gray, alone) + 1


def test_another_family_gains_through_the_stable_transform(method):
    """The unit tests have the transforms of all families."""
    noise = Poisson(0.05)
    clean = skimage.data.camera()[100:132, 200:232, None] / 255
    noisy = noise.corrupt(clean, frozen_rng(0)).astype(np.float32)
    estimate = method.denoise(noisy, noise, Box.of((32, 32)))
    assert estimate.shape == clean.shape and psnr_db(clean, estimate) > psnr_db(clean, noisy) + 2
