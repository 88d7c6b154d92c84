"""What is seen of noise without a network, against noise of known strength and correlation on photographs."""

import numpy as np
import pytest
import skimage.data

from n2s_dist.noise.inspection import REACH, view_noise
from n2s_dist.noise.specification import parse_noise

GRAY, COLOR = skimage.data.camera()[..., None] / 255, skimage.data.astronaut() / 255
FLAT = np.full((256, 256, 1), 0.5)


def seen(image: np.ndarray, text: str):
    view = view_noise(parse_noise(text).corrupt(image, np.random.default_rng(0)))
    assert view is not None
    return view


@pytest.mark.parametrize("text", ["gaussian:10", "gaussian:25", "poisson:0.01"])
@pytest.mark.parametrize("image", [GRAY, COLOR, FLAT], ids=["gray", "color", "flat"])
def test_the_strength_of_white_noise_is_seen_at_every_brightness(image, text):
    view, noise = seen(image, text), parse_noise(text)
    assert view.is_white and len(view.levels) == image.shape[2]
    for levels, stds in zip(view.levels, view.stds, strict=True):
        ratio = stds / noise.std(np.clip(levels, 1e-3, 1))
        assert np.median(ratio) == pytest.approx(1, abs=0.06) and (np.abs(np.log(ratio)) < 0.15).mean() > 0.8


@pytest.mark.parametrize("image", [GRAY, COLOR, FLAT], ids=["gray", "color", "flat"])
def test_correlated_noise_is_told_from_white(image):
    view, noise = seen(image, "gaussian:15+blur:0.5"), parse_noise("gaussian:15")
    expected = 0.2612  # of neighbors, by the kernel's taps
    assert not view.is_white and np.allclose(view.neighbors, expected, atol=0.07)
    ratio = np.concatenate(view.stds) / noise.sigma
    assert np.median(ratio) == pytest.approx(1, abs=0.08)


def test_maps_are_symmetric_and_scaled():
    for text in ("gaussian:15", "gaussian:15+blur:0.7"):
        view = seen(GRAY, text)
        middle = view.autocorrelation
        assert middle.shape == (2 * REACH + 1, 2 * REACH + 1) and middle[REACH, REACH] == 1
        np.testing.assert_allclose(middle, middle[::-1, ::-1], atol=1e-12)
        assert view.spectrum.mean() == pytest.approx(1)
    half = len(view.spectrum) // 2
    assert view.spectrum[half, half + 2] > 5 * view.spectrum[half, 0]  # blurred noise has little of high frequencies


def test_noise_that_channels_share_is_seen():
    shared = COLOR + 0.1 * np.random.default_rng(0).standard_normal((*COLOR.shape[:2], 1))
    assert min(view_noise(shared).channel_correlation) > 0.9
    assert max(seen(COLOR, "gaussian:25").channel_correlation) < 0.1


def test_clipped_places_do_not_count():
    noisy = parse_noise("gaussian:20").corrupt(GRAY, np.random.default_rng(0))
    clipped = np.clip(noisy, 0.02, 0.8)
    view = view_noise(clipped)
    assert view.clipped == (pytest.approx((noisy <= 0.02).mean()), pytest.approx((noisy >= 0.8).mean()))
    assert np.median(view.stds[0]) == pytest.approx(20 / 255, rel=0.1)


def test_images_without_noise_or_too_small_say_nothing():
    assert view_noise(FLAT) is None
    assert view_noise(np.random.default_rng(0).random((20, 20, 1))) is None
