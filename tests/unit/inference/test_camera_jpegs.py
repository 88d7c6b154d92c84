"""Noise in the calmest places of a camera's JPEG: held to noise whose strength at each scale is known."""

import numpy as np
import pytest
from scipy import ndimage

from n2s_dist.commands.simulate import read_instrument
from n2s_dist.inference.camera_jpegs import calm_strengths
from n2s_dist.inference.residuals import strengths
from n2s_dist.noise.blurred import blur, kernel, radius

SIDE = 256
LUMA = np.array([0.299, 0.587, 0.114])
OF_LUMA = float(np.sqrt(np.sum(LUMA**2)))  # of white noise of unit strength in three channels
OF_CHROMA = float(np.sqrt(1 + np.sum(LUMA**2) - LUMA[0] - LUMA[2]))


def white(seed: int, margin: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, SIDE + 2 * margin, SIDE + 2 * margin))


def read(noise: np.ndarray, clean: np.ndarray | float = 0.5, counted: np.ndarray | None = None):
    """What is found where a denoiser took all noise, and nothing else."""
    return calm_strengths(noise, clean + 0 * noise, np.ones(noise.shape, bool) if counted is None else counted)


def test_white_noise_has_its_strength_at_all_scales_and_went_through_no_camera():
    found = read(0.1 * white(0))
    assert found.luma[0] == pytest.approx(0.1 * OF_LUMA, rel=0.05)
    assert (found.luma[1:] > 0.065 * OF_LUMA).all()  # the calmest tenth is chosen by it
    np.testing.assert_allclose(found.chroma, 0.1 * OF_CHROMA, rtol=0.12)
    assert not found.is_smoothed and not found.is_denoised


def test_chroma_that_was_blurred_has_the_strengths_of_its_kernel():
    width = 2.0
    noise = white(0)
    luma = np.einsum("c,nchw->nhw", LUMA, noise)[:, None]
    wide = white(1, radius(width))
    smooth = blur(wide, kernel(width))
    noise = 0.05 * luma + 0.05 * (smooth - np.einsum("c,nchw->nhw", LUMA, smooth)[:, None])
    found = read(noise)
    np.testing.assert_allclose(found.chroma, 0.05 * OF_CHROMA * strengths(width), rtol=0.15)
    assert found.is_denoised and found.chroma[0] < 0.2 * found.chroma[2]
    assert not found.is_smoothed  # its luma is white


def camera_noise(name: str = "full_frame_jpeg", iso: int = 6400) -> np.ndarray:
    noisy, truth = read_instrument(name).simulate(np.full((SIDE, SIDE, 3), 0.45), iso, 0, "flat", jpeg=92)
    return np.moveaxis(noisy.astype(float) - truth, -1, 0)[None] / 255


@pytest.mark.parametrize("name", ["full_frame_jpeg", "crop_sensor_jpeg"])
def test_noise_of_cameras_that_denoise_is_told_as_stronger_than_it_is(name):
    noise = camera_noise(name)
    found = read(noise)
    assert found.is_smoothed and found.is_denoised
    assert 2 * noise.std() < found.level < 7 * noise.std()
    twice = read(2 * noise)
    assert twice.level > 1.9 * found.level


def test_texture_beside_calm_places_changes_little():
    noise = camera_noise()
    alone, texture = read(noise), 0.1 * np.random.default_rng(2).standard_normal((1, 1, SIDE, SIDE // 2))
    mixed = noise.copy()
    mixed[..., : SIDE // 2] += texture  # which the denoiser took as well
    assert read(mixed).level == pytest.approx(alone.level, rel=0.15)


def test_a_picture_that_the_denoiser_left_is_no_noise():
    rows = np.linspace(0.1, 0.9, SIDE)[:, None] + 0.2 * (np.arange(SIDE) > 100)
    noise = camera_noise()
    assert read(noise, rows[None, None]).level == pytest.approx(read(noise).level, rel=0.05)


@pytest.mark.parametrize("sigma", [1, 2, 5])
def test_texture_in_white_noise_is_not_taken_for_it(sigma):
    """Coarse texture in color everywhere, of 3 levels, which the denoiser takes with the noise."""
    texture = np.stack([ndimage.gaussian_filter(plane, 2) for plane in white(3)[0]])[None]
    texture *= 3 / 255 / texture.std()
    assert read(texture).is_smoothed
    assert not read(texture + sigma / 255 * white(4)).is_smoothed


def test_pixels_that_do_not_count_do_not():
    noise = camera_noise()
    counted = np.ones(noise.shape, bool)
    counted[..., :120] = False
    less = noise.copy()
    less[..., :120] = 0
    assert read(less, counted=counted).level == pytest.approx(read(noise).level, rel=0.2)
    assert read(less).level < 0.3 * read(noise).level
    assert read(noise, counted=np.zeros(noise.shape, bool)) is None


def test_gray_and_small_images_have_no_such_places():
    ones = np.ones((1, 1, SIDE, SIDE), bool)
    assert calm_strengths(0.1 * ones, 0.5 * ones, ones) is None
    small = np.ones((1, 3, 60, 60), bool)
    assert calm_strengths(0.1 * small, 0.5 * small, small) is None
