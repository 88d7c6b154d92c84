"""What is read off a residual, held to noise whose strength and correlation are known."""

import numpy as np
import pytest

from n2s_dist.inference.residuals import SCALES, measure, strengths
from n2s_dist.noise.specification import parse_noise


def read(text: str, side: int = 384, channels: int = 1):
    """A residual that is noise and nothing else, of a flat image."""
    noise = parse_noise(text)
    clean = np.full((1, channels, side, side), 0.5)
    noisy = np.moveaxis(noise.corrupt(np.moveaxis(clean, 1, -1), np.random.default_rng(0)), -1, 1)
    return measure(noisy - clean, clean, np.ones(clean.shape, bool), np.full(clean.shape, 1e-3)), noise


@pytest.mark.parametrize("width", [0.0, 0.5, 1.0, 1.5])
def test_strengths_are_those_of_noise_with_that_kernel(width):
    found, noise = read("gaussian:25" + (f"+blur:{width}" if width else ""))
    ratio = found.relative / (strengths(width) / strengths(width)[1])
    np.testing.assert_allclose(ratio, 1, atol=0.08)
    assert found.width == pytest.approx(width, abs=0.06)
    deviation = np.sqrt(np.average(found.variance, weights=found.squares)) * found.level(width)
    assert deviation == pytest.approx(noise.std(0.5), rel=0.05)


def test_white_noise_has_one_strength_and_wider_kernels_more_at_coarse_scales():
    np.testing.assert_allclose(strengths(0.0), 1)
    assert all(np.diff(strengths(width)).min() > 0 for width in (0.5, 1.0, 2.0))


def test_slopes_and_steps_along_the_axes_are_no_noise():
    y, x = np.mgrid[:128, :128] / 128
    residual = (0.3 * x + 0.2 * y + 0.2 * (y > 0.4))[None, None]
    found = measure(residual, residual, np.ones(residual.shape, bool), np.full(residual.shape, 1e-3))
    assert found.variance.max() < 1e-6


def test_noise_that_grows_with_brightness_is_read_at_each():
    clean = np.tile(np.linspace(0.1, 0.9, 384), (384, 1))[None, None]
    noise = parse_noise("poisson:0.01")
    noisy = np.moveaxis(noise.corrupt(np.moveaxis(clean, 1, -1), np.random.default_rng(0)), -1, 1)
    found = measure(noisy - clean, clean, np.ones(clean.shape, bool), np.full(clean.shape, 5e-3))
    np.testing.assert_allclose(found.variance, 0.01 * found.x, rtol=0.12)


def test_only_what_counts_is_read():
    rng = np.random.default_rng(0)
    clean, residual = np.full((1, 1, 128, 128), 0.5), 0.02 * rng.standard_normal((1, 1, 128, 128))
    residual[..., 64:] *= 10
    counted = np.ones(clean.shape, bool)
    counted[..., 64:] = False
    found = measure(residual, clean, counted, np.full(clean.shape, 4e-4))
    assert np.average(found.variance, weights=found.squares) == pytest.approx(4e-4, rel=0.15)


def test_noise_is_even_and_texture_is_not():
    assert read("gaussian:25")[0].evenness > 0.7
    rng = np.random.default_rng(0)
    clean = np.full((1, 1, 256, 256), 0.5)
    residual = 0.05 * rng.standard_normal(clean.shape) * np.kron(rng.uniform(size=(16, 16)) < 0.5, np.ones((16, 16)))
    assert measure(residual, clean, np.ones(clean.shape, bool), np.full(clean.shape, 1e-3)).evenness < 0.2


def test_images_too_small_for_a_scale_do_without_it():
    found = read("gaussian:25", side=12)[0]
    assert np.isnan(found.relative[SCALES.index(8)]) and found.level(0.0) == pytest.approx(1, rel=0.3)
