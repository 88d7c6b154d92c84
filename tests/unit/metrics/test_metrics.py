"""PSNR and SSIM against scikit-image, against the definition, and against closed forms."""

import math

import numpy as np
import pytest
import skimage.data
from scipy.ndimage import correlate1d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.metrics.ssim import ssim


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two different but related images, of another size and number of channels for each seed."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(11, 60, 2)
    top, left = rng.integers(0, 200, 2)
    clean = skimage.data.astronaut()[top : top + height, left : left + width, : (1, 3)[seed % 2]] / 255.0
    noisy = clean + rng.normal(0, rng.uniform(0.01, 0.3), clean.shape)
    return clean, np.clip(noisy, 0, 1).astype((np.float64, np.float32)[seed // 2 % 2])


@pytest.mark.parametrize("seed", range(20))
def test_both_are_scikit_images(seed):
    clean, noisy = random_pair(seed)
    wide = noisy.astype(np.float64)
    assert psnr_db(clean, noisy) == pytest.approx(peak_signal_noise_ratio(clean, wide, data_range=1), rel=1e-12)
    expected = structural_similarity(
        clean, wide, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2
    )
    assert ssim(clean, noisy) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_ssim_is_the_one_of_wang_et_al(seed):
    """Their Section III-B from scratch: an 11 x 11 Gaussian window, sigma 1.5, where it fits inside the image."""
    x, y = (image.astype(np.float64) for image in random_pair(seed))
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window /= window.sum()

    def mean(image: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(image, window, axis=0), window, axis=1)[5:-5, 5:-5]

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(x, y) == pytest.approx(similarity.mean(), abs=1e-9)


def test_gaussian_25_starts_at_20_17_db():
    """-20 log10(25 / 255), neither clipped nor quantised."""
    clean = np.random.default_rng(0).random((512, 512, 3))
    noisy = clean + 25 / 255 * np.random.default_rng(1).standard_normal(clean.shape)
    assert -20 * math.log10(25 / 255) == pytest.approx(20.17, abs=0.005)
    assert psnr_db(clean, noisy) == pytest.approx(-20 * math.log10(25 / 255), abs=0.02)


def test_equal_images():
    clean = np.random.default_rng(0).random((16, 16, 3))
    assert psnr_db(clean, clean) == math.inf and ssim(clean, clean) == pytest.approx(1)


def test_psnr_is_computed_in_float64():
    """Also of float32 images, whose own arithmetic is good for six digits of the sum."""
    clean, noisy = np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32)
    exact = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(clean.flat, noisy.flat, strict=True)) / clean.size
    assert psnr_db(clean, noisy) == pytest.approx(-10 * math.log10(exact), abs=1e-11)


@pytest.mark.parametrize("size", [(1, 1), (10, 64), (64, 10)])
def test_ssim_of_images_narrower_than_its_window_is_undefined(size):
    assert ssim(np.ones((*size, 3)), np.zeros((*size, 3))) is None


def test_ssim_of_the_smallest_image_it_is_defined_for():
    assert ssim(np.ones((11, 11, 1)), np.ones((11, 11, 1))) == pytest.approx(1)
