"""Users' image files: read and written at the depth and with the transparency that they have."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.damage import cut_in_the_middle
from support.deep_png import write_16_bit_png

from n2s_dist.images.decoded import Contents, DecodedImage
from n2s_dist.images.files import list_images
from n2s_dist.images.user_files import read_picture, write_file, write_picture
from n2s_dist.utils.errors import UserError

HEIGHT, WIDTH = 21, 34


def channels(count: int, dtype=np.uint16) -> np.ndarray:
    return np.random.default_rng(count).integers(0, np.iinfo(dtype).max + 1, (HEIGHT, WIDTH, count)).astype(dtype)


def read(path: Path) -> DecodedImage:
    (image,) = list_images(path.parent)
    return read_picture(image)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_16_bit_png_is_read_to_the_last_bit(tmp_path, count):
    wide = channels(count)
    write_16_bit_png(tmp_path / "a.png", wide)
    picture = read(tmp_path / "a.png")
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.joined(), wide)
    assert (picture.channels, picture.alpha is None) == ((3, False) if count == 4 else (count, True))


TIFFS = {"plain": {}, "big-endian": {"byteorder": ">"}, "deflated": {"compression": "zlib"}}
TIFFS["predicted"] = {"compression": "zlib", "predictor": True}


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("options", TIFFS.values(), ids=TIFFS)
def test_16_bit_tiff_is_read_to_the_last_bit(tmp_path, count, options):
    wide = channels(count)
    about = {"photometric": "minisblack" if count == 1 else "rgb"}
    about |= {"extrasamples": ["unassalpha"]} if count == 4 else {}
    tifffile.imwrite(tmp_path / "a.tif", wide[:, :, 0] if count == 1 else wide, **about, **options)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").joined(), wide)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_written_is_read_again(tmp_path, suffix, count, dtype):
    """And by others: tifffile reads the TIFFs, and Pillow the high bytes of the PNGs."""
    values = channels(count, dtype)
    path = tmp_path / "new" / f"a{suffix}"
    write_picture(path, DecodedImage.of(values))
    np.testing.assert_array_equal(read(path).joined(), values)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    if suffix != ".png":
        np.testing.assert_array_equal(tifffile.imread(path).reshape(values.shape), values)
    elif count > 1:
        high = values >> 8 if dtype == np.uint16 else values
        np.testing.assert_array_equal(np.asarray(Image.open(path)), high)


def test_gray_with_transparency(tmp_path):
    values = channels(2, np.uint8)
    write_picture(tmp_path / "a.png", DecodedImage.of(values))
    np.testing.assert_array_equal(read(tmp_path / "a.png").joined(), values)
    write_16_bit_png(tmp_path / "a.png", channels(2))
    np.testing.assert_array_equal(read(tmp_path / "a.png").joined(), channels(2))


def test_other_formats_get_8_bits_and_no_transparency(tmp_path):
    wide = np.full((16, 16, 3), 129 * 257 + 100, np.uint16)
    write_picture(tmp_path / "a.bmp", DecodedImage(wide, None))
    assert (read(tmp_path / "a.bmp").joined() == 129).all()
    with pytest.raises(UserError, match=r"b\.jpg can't hold.*\.png"):
        write_picture(tmp_path / "b.jpg", DecodedImage.of(channels(4, np.uint8)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.bmp"]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK", "YCbCr", "L"])
def test_every_mode_becomes_gray_or_color(tmp_path, mode):
    image = Image.fromarray(channels(3, np.uint8)).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    picture = read(path)
    gray, alpha = mode in ("LA", "1", "L"), mode in ("RGBA", "LA")
    assert (picture.channels, picture.alpha is not None, picture.pixels.dtype) == (1 if gray else 3, alpha, np.uint8)
    expected = np.asarray(image.convert("L" if gray else "RGB"))
    np.testing.assert_array_equal(picture.pixels, expected.reshape(HEIGHT, WIDTH, -1))


def test_a_transparent_palette(tmp_path):
    image = Image.fromarray(channels(3, np.uint8)).quantize(16)
    image.save(tmp_path / "a.png", transparency=3)
    alpha = read(tmp_path / "a.png").alpha
    assert alpha is not None
    np.testing.assert_array_equal(alpha[:, :, 0] == 0, np.asarray(image) == 3)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_orientation_is_applied_at_every_depth(tmp_path, orientation, dtype):
    values = channels(3, dtype)
    if dtype == np.uint8:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    else:
        tag = (274, "H", 1, orientation, True)
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=[tag])
    turned = np.rot90(values, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(read(next(tmp_path.iterdir())).pixels, turned)


@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
def test_other_pixel_types_are_read_as_they_are(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "strange.tif", np.ones((HEIGHT, WIDTH), dtype))
    found = read(tmp_path / "strange.tif").pixels
    assert found.dtype == dtype and (found == 1).all()


@pytest.mark.parametrize("deep", [False, True])
def test_broken_files_are_refused_by_name(tmp_path, deep):
    write_picture(tmp_path / "a.png", DecodedImage(channels(3, np.uint16 if deep else np.uint8), None))
    cut_in_the_middle(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png can't be decoded"):
        read(tmp_path / "a.png")


def test_several_images_of_no_file_become_pages_each(tmp_path):
    images = [DecodedImage(np.full((4, 6, 1), value, np.uint16)) for value in (1, 2, 3)]
    contents = Contents("", "array", (4, 6), 1, np.dtype(np.uint16), images=3)
    write_file(tmp_path / "a.tif", images, contents)
    assert tifffile.imread(tmp_path / "a.tif")[:, 0, 0].tolist() == [1, 2, 3]
