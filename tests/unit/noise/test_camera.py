"""The simulated camera: the law of its noise, a chain that is its own inverse, exact repeats."""

import dataclasses
import hashlib

import numpy as np
import pytest
import skimage.data
from scipy.ndimage import gaussian_filter
from support.paths import ROOT

from n2s_dist.commands.simulate import read_instrument
from n2s_dist.noise.camera import Camera, from_srgb, through_jpeg, to_srgb
from n2s_dist.noise.camera_processing import LUMA
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
            raw = camera.expose(np.full((200, 250), signal), iso, rng)
            variance = row["gain"] * (signal - camera.black_level) + row["read_noise"] ** 2 + 1 / 12  # of rounding
            assert raw.var() == pytest.approx(variance, rel=0.03)  # 0.6 % is one standard error
            assert raw.mean() == pytest.approx(signal, abs=5 * (variance / raw.size) ** 0.5)


@by_camera
@pytest.mark.parametrize("method", ["bilinear", "malvar"])
def test_without_noise_colors_come_back_within_rounding(camera, method):
    colors = np.random.default_rng(1).integers(90, 180, (40, 3)) / 255  # which lie in every camera's gamut
    for color in colors:
        flat = np.broadcast_to(color, (8, 8, 3))
        developed = camera.develop(mosaic(camera.unprocess(flat), camera.bayer), next(iter(camera.iso)), method)
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
    edge = 8 if camera.luma_denoising else 2  # a border's mirror image, which denoising carries inwards
    inner = slice(edge, -edge)
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
    assert errors == sorted(errors) and errors[-1] > (2 if camera.luma_denoising else 4) * errors[0]
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


def test_without_own_processing_an_image_is_as_it_was_before_there_was_any():
    """SHA-256 of the output of the version before."""
    pair = read_instrument("full_frame").simulate(PHOTOGRAPH, 3200, 0, "a")
    sums = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in pair]
    assert sums == ["75df3a230d1d80ce", "8af315c834c1c167"]


def flat_noise(camera: Camera, iso: int) -> np.ndarray:
    """Float64 [H, W, 3], in 8-bit levels, in a flat gray area."""
    noisy, truth = camera.simulate(np.full((256, 256, 3), 0.45), iso, 0, "flat")
    return noisy.astype(float) - truth


def density(noise: np.ndarray, scale: int) -> float:
    """The standard deviation of means over squares, times their side: of white noise the same at all scales."""
    side = len(noise) // scale
    return scale * noise[: side * scale, : side * scale].reshape(side, scale, side, scale).mean(axis=(1, 3)).std()


def test_own_denoising_takes_noise_from_pixel_to_pixel_and_leaves_it_at_coarse_scales():
    plain = read_instrument("full_frame")
    for change in ({"luma_denoising": 2.0}, {"chroma_smoothing": 2.0}):
        before, after = (flat_noise(each, 6400) for each in (plain, dataclasses.replace(plain, **change)))
        luma = [noise @ LUMA for noise in (before, after)]
        chroma = [noise[..., 0] - each for noise, each in zip((before, after), luma, strict=True)]
        fields = luma if "luma_denoising" in change else chroma
        assert fields[1].std() < 0.65 * fields[0].std()
        assert density(fields[1], 16) == pytest.approx(density(fields[0], 16), rel=0.15)
        others = chroma if "luma_denoising" in change else luma
        assert others[1].std() == pytest.approx(others[0].std(), rel=0.05)  # but for the tone curve and rounding


def test_own_denoising_spares_edges():
    camera = dataclasses.replace(read_instrument("full_frame"), luma_denoising=2.0, luma_radius=2)
    edge = np.full((64, 64, 3), 0.2)
    edge[:, 32:] = 0.7
    _, truth = camera.simulate(edge, 1600, 0, "edge")
    _, plain = dataclasses.replace(camera, luma_denoising=0.0).simulate(edge, 1600, 0, "edge")
    assert np.abs(truth.astype(int) - plain).max() <= 3  # of a step of 128


def test_sharpening_is_an_unsharp_mask_of_luma():
    camera = dataclasses.replace(read_instrument("full_frame"), sharpening=1.0, sharpening_radius=1.5)
    _, plain = read_instrument("full_frame").simulate(PHOTOGRAPH, 1600, 0, "a")
    _, sharp = camera.simulate(PHOTOGRAPH, 1600, 0, "a")
    luma = plain.astype(float) @ LUMA
    expected = plain + (luma - gaussian_filter(luma, 1.5, mode="mirror"))[..., None]
    inside = (expected > 1) & (expected < 254)
    assert np.abs(sharp - expected)[inside].max() <= 1.6  # rounded twice


@pytest.mark.parametrize(
    ("name", "iso", "least_std", "most_std", "least_correlation"),
    [("full_frame_jpeg", 6400, 4, 6, 0.5), ("crop_sensor_jpeg", 6400, 3, 5.5, 0.65)],
)
def test_noise_of_cameras_with_denoising_is_what_their_files_say(name, iso, least_std, most_std, least_correlation):
    noise = flat_noise(read_instrument(name), iso)
    for channel in range(3):
        plane = noise[..., channel] - noise[..., channel].mean()
        assert least_std < plane.std() < most_std
        assert (plane[:, 1:] * plane[:, :-1]).mean() > least_correlation * plane.var()
        assert density(plane, 8) > 1.8 * density(plane, 1)


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
        ({"luma_denoising": -1}, "luma_denoising lies from 0 to 10"),
        ({"luma_radius": 0}, "luma_radius lies from 1 to 16"),
        ({"chroma_smoothing": 17}, "chroma_smoothing lies from 0 to 16"),
        ({"sharpening": 11}, "sharpening lies from 0 to 10"),
        ({"sharpening_radius": 0}, "sharpening_radius is above 0"),
    ],
)
def test_figures_that_can_t_be_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(CAMERAS[0], **change)


def test_an_iso_or_size_that_it_has_not_is_refused():
    with pytest.raises(UserError, match="--iso is 123: the camera has 100, 400"):
        read_instrument("full_frame").simulate(PHOTOGRAPH, 123, 0, "a")
    with pytest.raises(UserError, match="less than 4 pixels a side"):
        read_instrument("full_frame").simulate(PHOTOGRAPH[:3], 100, 0, "a")
