"""The simulated camera: the law of its noise, a chain that is its own inverse, exact repeats."""

import dataclasses

import numpy as np
import pytest
import skimage.data
from support.paths import ROOT

from n2s_dist.commands.simulate import read_instrument
from n2s_dist.noise.camera import Camera, from_srgb, through_jpeg, to_srgb
from n2s_dist.noise.demosaicing import PATTERNS, mosaic
from n2s_dist.utils.errors import UserError

NAMES = [path.stem for path in sorted((ROOT / "configs/cameras").glob("*.yaml"))]
CAMERAS = [each for each in map(read_instrument, NAMES) if isinstance(each, Camera)]
by_camera = pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.model)
PHOTOGRAPH = skimage.data.astronaut()[:64, 100:180] / 255


def patches(colors: np.ndarray, side: int = 12) -> np.ndarray:
    """Flat squares, one above the other: [side N, side, 3]."""
    return np.repeat(colors, side, axis=0)[:, None].repeat(side, axis=1)


@by_camera
def test_raw_noise_has_the_variance_of_the_table(camera):
    rng = np.random.default_rng(0)
    for iso, row in camera.iso.items():
        for share in (0.02, 0.2, 0.5):
            signal = camera.black_level + share * (camera.white_level - camera.black_level)
            raw = camera.expose(np.full((400, 500), signal), iso, rng)
            variance = row["gain"] * (signal - camera.black_level) + row["read_noise"] ** 2 + 1 / 12  # of rounding
            assert raw.var() == pytest.approx(variance, rel=0.02)  # 0.3 % is one standard error
            assert raw.mean() == pytest.approx(signal, abs=5 * (variance / raw.size) ** 0.5)


@by_camera
@pytest.mark.parametrize("method", ["bilinear", "malvar"])
def test_without_noise_colors_come_back_within_rounding(camera, method):
    colors = np.random.default_rng(1).integers(90, 180, (40, 3)) / 255  # which lie in every camera's gamut
    for color in colors:
        flat = np.broadcast_to(color, (8, 8, 3))
        developed = camera.develop(mosaic(camera.unprocess(flat), camera.bayer), method)
        np.testing.assert_array_equal(developed, np.rint(flat * 255))
    _, truth = camera.simulate(flat, next(iter(camera.iso)), 0, "flat", method=method)
    np.testing.assert_array_equal(truth, np.rint(flat * 255))


@by_camera
@pytest.mark.parametrize("pattern", PATTERNS)
def test_without_noise_smooth_images_come_back_within_a_level(camera, pattern):
    rows, columns = np.mgrid[:64, :64] / 64
    smooth = np.stack([0.5 + 0.1 * rows, 0.45 + 0.1 * columns, 0.55 - 0.1 * rows * columns], axis=-1)
    turned = dataclasses.replace(camera, bayer=pattern)
    _, truth = turned.simulate(smooth, next(iter(camera.iso)), 0, "smooth")
    inner = slice(2, -2)
    assert np.abs(truth[inner, inner] - 255 * smooth[inner, inner]).max() <= 1


def test_the_tone_curve_is_srgb_s():
    shown = np.linspace(0, 1, 256)
    np.testing.assert_allclose(to_srgb(from_srgb(shown)), shown, atol=1e-12)
    assert from_srgb(np.array(0.5)) == pytest.approx(0.21404, abs=1e-5)  # IEC 61966-2-1
    assert to_srgb(np.array(0.002)) == pytest.approx(0.02584)


@by_camera
def test_noise_is_a_function_of_seed_and_name(camera):
    iso = max(camera.iso)
    first, truth = camera.simulate(PHOTOGRAPH, iso, 1, "a")
    again, same = camera.simulate(PHOTOGRAPH, iso, 1, "a")
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(truth, same)
    for seed, name in ((2, "a"), (1, "b")):
        other, same = camera.simulate(PHOTOGRAPH, iso, seed, name)
        np.testing.assert_array_equal(truth, same)
        assert (other != first).mean() > 0.5
    assert first.dtype == truth.dtype == np.uint8


@by_camera
def test_a_higher_iso_is_noisier_and_jpeg_changes_the_noisy_image_alone(camera):
    errors = []
    for iso in sorted(camera.iso):
        noisy, truth = camera.simulate(PHOTOGRAPH, iso, 0, "a")
        errors.append(np.square(noisy.astype(float) - truth).mean())
    assert errors == sorted(errors) and errors[-1] > 4 * errors[0]
    compressed, same = camera.simulate(PHOTOGRAPH, iso, 0, "a", jpeg=80)
    np.testing.assert_array_equal(same, truth)
    np.testing.assert_array_equal(compressed, through_jpeg(noisy, 80))
    assert (compressed != noisy).any()


def test_demosaicing_correlates_neighbors():
    camera = CAMERAS[0]
    noisy, truth = camera.simulate(np.full((200, 200, 3), 0.5), max(camera.iso), 0, "flat")
    noise = noisy.astype(float) - truth
    for channel in range(3):
        plane = noise[..., channel] - noise[..., channel].mean()
        assert (plane[:, 1:] * plane[:, :-1]).mean() > 0.1 * plane.var()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bits": 7}, "bits lie"),
        ({"black_level": -1}, "black_level lies"),
        ({"bayer": "RGBG"}, "bayer is one of"),
        ({"iso": {}}, "iso has a table"),
        ({"iso": {100: {"gain": 0, "read_noise": 1}}}, "iso has a table"),
        ({"iso": {100: {"gain": 1}}}, "iso has a table"),
        ({"white_balance": [0.5, 1, 1]}, "white_balance has"),
        ({"color_matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 2]]}, "color_matrix has"),
        ({"color_matrix": [[1, 0, 0], [1, 0, 0], [0, 0, 1]]}, "color_matrix has"),
        ({"tone_curve": "log"}, "tone_curve is one of"),
        ({"demosaicing": "none"}, "demosaicing is one of"),
    ],
)
def test_figures_that_can_t_be_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(CAMERAS[0], **change)


def test_an_iso_or_size_that_it_has_not_is_refused():
    with pytest.raises(UserError, match="--iso is 123: the camera has 100, 400"):
        CAMERAS[0].simulate(PHOTOGRAPH, 123, 0, "a")
    with pytest.raises(UserError, match="less than 4 pixels a side"):
        CAMERAS[0].simulate(PHOTOGRAPH[:3], 100, 0, "a")
