"""Arrays of every type, scale and byte order, with values missing, gray in color: in and out of the Python API."""

import functools
import io
import math

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from support.deep_png import write_16_bit_png

from n2s_dist import load_denoiser
from n2s_dist.inference import arrays
from n2s_dist.inference.network_choice import ShippedDenoiser
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

CAMERA = skimage.data.camera()[60:124, 120:184] / 255.0
SMALL = CAMERA[:48, :48]  # where noise is estimated several times
SCENE = skimage.data.astronaut()[20:116, 140:236] / 255.0
# To find the level of a named family takes a third of the time of finding the family too.
FAMILY = "gaussian"


def noisy(clean: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    return clean + np.random.default_rng(seed).normal(0, sigma / 255, clean.shape)


@pytest.fixture(scope="module")
def denoise():
    return ShippedDenoiser("cpu")


@pytest.fixture(scope="module")
def gray():
    return load_denoiser("universal-gray")


def test_data_of_a_part_of_16_bits_are_refused_and_settled_by_white_and_black(denoise):
    """An sCMOS camera: 20 photons at white, an offset of 100, a gain that leaves 7 bits."""
    rng = np.random.default_rng(0)
    values = np.round(100 + (rng.poisson(20 * SMALL) + rng.normal(0, 1.6, SMALL.shape)) / 0.46).astype(np.uint16)
    white = 100 + 20 / 0.46
    with pytest.raises(UserError, match=r"say what white is, such as --white 4095.*black="):
        denoise(values)
    plain, _ = denoise(values, FAMILY, white=white)
    found, info = denoise(values, FAMILY, white=white, black=100)
    assert found.dtype == np.uint16 and info.estimated
    before, without, after = (psnr_db((y - 100.0) / (white - 100), SMALL) for y in (values, plain, found))
    assert after > before + 7 and after > without - 0.1
    same, _ = denoise(values.astype(np.float64), info.noise, white=white, black=100)
    assert np.abs(same - found).max() <= 0.5 + 1e-3
    images = arrays.opened(values, white, 100)
    np.testing.assert_array_equal(arrays.opened(values.astype(np.float64), white, 100).pixels, images.pixels)
    for dtype in (np.int16, np.int32, np.int64, np.uint32, ">u2"):
        other = arrays.opened(values.astype(dtype), white, 100)
        np.testing.assert_array_equal(other.pixels, images.pixels)
        restored = other.restore(other.pixels.copy())
        assert restored.dtype == dtype
        np.testing.assert_array_equal(restored, values)


def test_a_hot_pixel_stays_and_harms_no_other(denoise):
    values = np.round(300 + 3000 * noisy(CAMERA, 12)).clip(0).astype(np.uint16)
    hot = values.copy()
    hot[40, 50] = 65535
    with pytest.raises(UserError, match="say what white is"):
        denoise(hot)
    found, _ = denoise(hot, "gaussian:10", white=4095)
    expected, _ = denoise(values, "gaussian:10", white=4095)
    assert found[40, 50] == 65535
    found[40, 50] = expected[40, 50]
    assert np.abs(found.astype(int) - expected).max() < 150  # a pixel's noise; with it let in, 3,000
    (one, other) = (denoise(each, FAMILY, white=4095)[1].noise for each in (hot, values))
    assert one.level == pytest.approx(other.level, rel=0.05)


def test_signed_bytes_begin_at_minus_128(denoise):
    values = np.round(noisy(CAMERA, 20) * 255).clip(0, 255).astype(np.uint8)
    found, _ = denoise((values.astype(int) - 128).astype(np.int8), "gaussian:20")
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found.astype(int) + 128, denoise(values, "gaussian:20")[0])


@pytest.mark.parametrize("dtype", [">u2", ">f4", ">f8"])
def test_big_endian_arrays(denoise, dtype):
    values = noisy(CAMERA, 20).clip(0, 1)
    values = (values * 65535).round().astype(dtype) if dtype == ">u2" else values.astype(dtype)
    found, _ = denoise(values, "gaussian:20")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, denoise(values.astype(values.dtype.newbyteorder("=")), "gaussian:20")[0])


@pytest.mark.parametrize(
    ("noise", "message"),
    [(25, "noise=25 is not understood: write 'gaussian:25'"), (12.5, "write 'gaussian:12.5'"),
     (True, "noise=True is not understood: write 'gaussian:25'"), (["gaussian:25"], "is not understood: write"),
     ("25", "noise '25' is not understood"), ("", "noise '' is not understood")],
)  # fmt: skip
def test_noise_that_is_no_name_is_refused_in_one_line(denoise, gray, noise, message):
    for one in (denoise, gray):
        with pytest.raises(UserError, match=message):
            one(CAMERA, noise)


# --- missing values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["masked uint8", "masked float", "nan", "nan tensor"])
def test_missing_values_stay_and_do_not_spread(denoise, kind):
    gaps = np.zeros(CAMERA.shape, bool)
    gaps[30:50, 20:60], gaps[5, 5] = True, True
    values = noisy(CAMERA, 20).clip(0, 1).astype(np.float32)
    if kind == "masked uint8":
        values = np.round(values * 255).astype(np.uint8)

    def given(under: float):
        under_gaps = np.where(gaps, values.dtype.type(under), values)
        if kind.startswith("masked"):
            return np.ma.masked_array(under_gaps, gaps, fill_value=7)
        lost = np.where(gaps, np.float32(np.nan), values)
        return torch.from_numpy(lost)[None] if kind.endswith("tensor") else lost

    estimated = kind in ("masked uint8", "nan")  # the others are the latter in other clothes
    named = {"masked uint8": None, "nan": FAMILY}.get(kind, "gaussian:20")
    one, info = denoise(given(0), named, uncertainty=True)
    assert info.estimated == estimated
    other, _ = denoise(given(1 if kind == "masked float" else 200), info.noise)
    there = np.ma.getdata(one).squeeze()[~gaps] if kind != "nan tensor" else one[0].numpy()[~gaps]
    np.testing.assert_array_equal(there, np.asarray(np.ma.getdata(other)).squeeze()[~gaps])
    assert np.isfinite(there).all() and np.isnan(np.asarray(info.std).squeeze()[gaps]).all()
    assert info.noise.level * 255 == pytest.approx(20, rel=0.15)
    if kind.startswith("masked"):
        np.testing.assert_array_equal(one.mask, gaps)
        assert one.fill_value == 7 and (one.data[gaps] == 0).all()
    else:
        assert np.isnan(np.asarray(one).squeeze()[gaps]).all()
    scale = 255 if kind == "masked uint8" else 1
    assert psnr_db(there / scale, CAMERA[~gaps]) > psnr_db(values[~gaps] / scale, CAMERA[~gaps]) + 4


def test_a_mask_of_one_channel_and_images_without_any_value(denoise):
    values = noisy(SCENE, 20).clip(0, 1).astype(np.float32)
    gaps = np.zeros(values.shape, bool)
    gaps[10:20, 10:20, 1] = True
    found, _ = denoise(np.ma.masked_array(values, gaps), "gaussian:20")
    np.testing.assert_array_equal(found.data[gaps], values[gaps])
    assert (found.data[10:20, 10:20, 0] != values[10:20, 10:20, 0]).any()
    gaps[..., 1] = True
    assert np.isfinite(denoise(np.ma.masked_array(values, gaps), "gaussian:20")[0].data).all()
    with pytest.raises(UserError, match="not finite or masked: there is no image"):
        denoise(np.ma.masked_array(values, True), "gaussian:20")
    batch = np.stack([values, np.full_like(values, np.nan)])
    with pytest.raises(UserError, match="there is no image"):
        denoise(batch, "gaussian:20")
    values[0, 0, 0] = np.inf
    with pytest.raises(UserError, match="1 of 27648 values are not finite"):
        denoise(values, "gaussian:20")
    assert np.isinf(denoise(np.ma.masked_invalid(values), "gaussian:20")[0].data[0, 0, 0])


# --- gray in color ------------------------------------------------------------------------------------------

GRAY = np.round(noisy(0.2 + 0.6 * SMALL[:40, :40], 25) * 255).clip(0, 255).astype(np.uint8)
COLORS = {"gray": [1, 1, 1], "green": [0, 1, 0], "magenta": [1, 0, 1]}


@pytest.fixture(scope="module")
def denoised_gray(denoise):
    """GRAY denoised as it is, as floats or not."""
    return functools.cache(lambda as_float: denoise(GRAY / np.float32(255) if as_float else GRAY, FAMILY))


@pytest.mark.parametrize(
    ("kind", "color"), [("float", "gray"), ("uint8", "green"), ("PIL", "gray"), ("tensor", "magenta")]
)
def test_gray_stored_as_color_is_denoised_as_gray(denoise, denoised_gray, kind, color):
    stored = GRAY[:, :, None] * np.array(COLORS[color], np.uint8)
    given = {
        "float": stored / np.float32(255), "uint8": stored, "PIL": Image.fromarray(stored),
        "tensor": torch.from_numpy(stored).permute(2, 0, 1),
    }[kind]  # fmt: skip
    expected, about = denoised_gray(kind == "float")
    estimated = kind in ("float", "uint8")  # the others are the latter in other clothes
    found, info = denoise(given, FAMILY if estimated else about.noise, uncertainty=kind == "float")
    assert info.estimated == estimated
    assert info.one_plane and info.network.channels == 1
    assert info.noise == about.noise and info.noise.level * 255 == pytest.approx(25, rel=0.1)
    found = found.permute(1, 2, 0).numpy() if kind == "tensor" else np.asarray(found)
    np.testing.assert_array_equal(found, expected[:, :, None] * np.array(COLORS[color], expected.dtype))
    if kind == "float":
        assert (info.std[..., np.array(COLORS[color]) == 0] == 0).all()


def test_color_stays_color(denoise, gray):
    almost = np.repeat(CAMERA[:, :, None], 3, axis=2).astype(np.float32)
    almost[3, 4, 1] += 0.01
    assert denoise(almost, "gaussian:25")[1].network.channels == 3
    assert not denoise(np.full((40, 40, 3), 0.5, np.float32), "gaussian:25")[1].one_plane
    mixed = np.stack([almost, np.repeat(CAMERA[:, :, None], 3, axis=2)]).astype(np.float32)
    assert denoise(mixed, "gaussian:25")[1].network.channels == 3
    with pytest.raises(UserError, match="trained on gray images"):
        gray(almost, "gaussian:25")
    assert gray(mixed[1], "gaussian:25")[1].one_plane
    assert load_denoiser("universal-color")(mixed[1], "gaussian:25")[1].one_plane


def test_the_noise_of_a_jpeg_with_half_the_chroma_is_estimated_from_luma(denoise):
    """Its color, blurred, hides the noise: as color, it comes out at the weak end and hardly denoised."""
    stream, sigma, scene = io.BytesIO(), 25, SCENE[:48, :48]
    Image.fromarray(np.round(noisy(scene, sigma) * 255).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    with Image.open(stream) as picture:
        seen, decoded = arrays.opened(picture), np.asarray(picture)
    assert seen.chroma_subsampled and not arrays.opened(decoded).chroma_subsampled
    np.testing.assert_array_equal(seen.pixels, arrays.opened(decoded).pixels)
    found, info = denoise(decoded, FAMILY, chroma_subsampled=True)
    as_color, _ = denoise(decoded, FAMILY)
    assert info.noise.level * 255 > 0.9 * sigma
    before, blind, after = (psnr_db(np.asarray(y) / 255, scene) for y in (decoded, as_color, found))
    assert after > before + 4 and after > blind + 3


def test_a_clean_jpeg_is_told_of_the_weakest_noise(denoise):
    stream = io.BytesIO()
    Image.fromarray(np.round(SCENE[:48, :48] * 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    assert denoise(Image.open(stream), "gaussian")[1].noise == Gaussian(pytest.approx(5 / 255))


# --- progress, PIL ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "uncertainty"), [((40, 36), False), ((2, 20, 36, 1), True)])
def test_progress_counts_every_pixel_once(shape, uncertainty):
    done: list[int] = []
    denoise = load_denoiser("universal-gray", tile=32)
    denoise(np.full(shape, 0.5, np.float32), "gaussian:20", uncertainty=uncertainty, progress=done.append)
    assert sum(done) == math.prod(shape) and len(done) >= 4


def test_what_a_pil_image_says_of_itself_stays(denoise):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    Image.fromarray((CAMERA * 255).astype(np.uint8)[:, :48]).save(
        stream, "PNG", exif=exif, dpi=(300, 300), icc_profile=b"profile"
    )
    found, _ = denoise(Image.open(stream), "gaussian:20")
    assert found.size == (64, 48) and found.info["icc_profile"] == b"profile"
    assert round(found.info["dpi"][0]) == 300
    assert found.getexif()[0x010F] == "a camera" and found.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("transparent", [(77,), (5, 6, 7), (70, 2000, 9)])
def test_transparency_that_pillow_gets_wrong_is_refused(denoise, tmp_path, transparent):
    """A color of 16 bits, which Pillow compares with 8 of each channel's, or drops."""
    pixels = np.full((40, 40, len(transparent)), 30_000, np.uint16)
    write_16_bit_png(tmp_path / "a.png", pixels, transparent)
    with Image.open(tmp_path / "a.png") as image, pytest.raises(UserError, match="denoise the file itself"):
        denoise(image, noise="gaussian:20")


@pytest.mark.parametrize("kind", ["array", "PIL"])
def test_an_image_beyond_memory_is_refused_before_it_is_made_larger(denoise, monkeypatch, kind):
    monkeypatch.setattr(arrays, "available_bytes", lambda: 2**28)
    image = np.zeros((5000, 4000), np.uint8)
    with pytest.raises(UserError, match=r"an image of 20,000,000 values takes 0\.3 GiB of memory, and 0\.2 are free"):
        denoise(image if kind == "array" else Image.fromarray(image), noise="gaussian:20")


def test_floats_of_another_scale_are_named_with_what_settles_them():
    for values, white in ((CAMERA * 255, 255), (CAMERA * 65535, 65535)):
        with pytest.raises(UserError, match=f"divide them by {white}, or say --white {white}"):
            arrays.opened(values)
        images = arrays.opened(values, white=white)
        np.testing.assert_allclose(images.pixels[0, :, :, 0], CAMERA, atol=1e-6)
        np.testing.assert_allclose(images.restore(images.pixels), values, rtol=1e-5)
