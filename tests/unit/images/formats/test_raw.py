"""Raw photographs, as DNGs of one page: the mosaic's colors come out as planes, with the file's black and white."""

from zipfile import ZipFile

import numpy as np
import pytest
import tifffile
from support.arrays import change, rewritten
from support.raw_files import PATTERNS, write_dng
from support.tiff_layouts import values

from n2s_dist.images.files import image_at, list_images
from n2s_dist.images.scale import Scale
from n2s_dist.images.user_files import open_file
from n2s_dist.utils.errors import UserError

rawpy = pytest.importorskip("rawpy")

MOSAIC = values(np.uint16, 64, 96) // 16  # 12 bits
BLACK = (60, 64, 62, 66)  # at each of the four places


def planes(mosaic: np.ndarray, pattern: str) -> list[np.ndarray]:
    """R, the green in R's rows, the green in B's, B."""
    letters = np.array([*pattern]).reshape(2, 2)
    (red,), (blue,) = np.argwhere(letters == "R"), np.argwhere(letters == "B")
    places = [red, (red[0], blue[1]), (blue[0], red[1]), blue]
    return [mosaic[row::2, column::2] for row, column in places]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_planes_and_levels(tmp_path, pattern):
    write_dng(tmp_path / "a.dng", MOSAIC, pattern, BLACK, 4000)
    contents, found = rewritten(tmp_path / "a.dng", tmp_path / "b.tif")
    assert (contents.images, contents.size, contents.dtype) == (4, (32, 48), np.uint16)
    assert contents.scale == Scale(63, 4000)
    assert contents.notes == ("its 4 images are R, G1, G2, B; black is 63 and white 4000",)
    for image, wanted in zip(found, planes(MOSAIC, pattern), strict=True):
        np.testing.assert_array_equal(image.pixels[:, :, 0], wanted)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.series[0].axes == "CYX" and 'SignificantBits="12"' in file.ome_metadata
        names = [f'Name="{name}"' in file.ome_metadata for name in ("R", "G1", "G2", "B")]
        assert all(names)
        np.testing.assert_array_equal(file.asarray(), change(np.stack(planes(MOSAIC, pattern))))


@pytest.mark.parametrize("top, left", [(0, 0), (2, 4), (1, 0), (0, 1), (3, 5)])
@pytest.mark.parametrize("bottom, right", [(60, 90), (61, 87)])
def test_what_the_lens_lights_alone_counts_and_keeps_its_colors(tmp_path, top, left, bottom, right):
    """A mosaic's margins are cut off, in pairs of rows and columns as LibRaw does; its colors begin behind them."""
    write_dng(tmp_path / "a.dng", MOSAIC, "RGGB", area=(top, left, bottom, right))
    _, found = rewritten(tmp_path / "a.dng", tmp_path / "b.tif")
    first, second = (top + top % 2, left + left % 2)
    letters = np.roll(np.array([*"RGGB"]).reshape(2, 2), (first - top, second - left), (0, 1))
    lit = MOSAIC[first:bottom, second:right]
    assert {image.pixels.shape[:2] for image in found} == {plane.shape for plane in planes(lit, "".join(letters.flat))}
    for image, wanted in zip(found, planes(lit, "".join(letters.flat)), strict=True):
        np.testing.assert_array_equal(image.pixels[:, :, 0], wanted)


def test_a_sensor_without_colors_is_one_image(tmp_path):
    write_dng(tmp_path / "a.dng", MOSAIC, photometric="linear_raw")
    contents, (image,) = rewritten(tmp_path / "a.dng", tmp_path / "b.tif")
    assert contents.scale == Scale(64, 4095)
    np.testing.assert_array_equal(image.pixels[:, :, 0], MOSAIC)


def test_raw_photographs_in_archives_are_read(tmp_path):
    write_dng(tmp_path / "a.dng", MOSAIC)
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.dng", "a.dng")
    (listed,) = list_images(tmp_path / "a.zip")
    with open_file(listed) as file:
        np.testing.assert_array_equal(file.image(3).pixels[:, :, 0], MOSAIC[1::2, 1::2])


def test_what_is_no_mosaic_is_refused_in_a_line(tmp_path):
    write_dng(tmp_path / "linear.dng", np.stack([MOSAIC] * 3, axis=-1), photometric="linear_raw")
    write_dng(tmp_path / "raw.nef", MOSAIC).write_bytes(b"II*\0" + bytes(500))
    (tmp_path / "text.dng").write_text("no photograph")
    words = {"linear.dng": "all colors at each pixel", "raw.nef": "LibRaw", "text.dng": "is not a readable image"}
    for name, said in words.items():
        with pytest.raises(UserError, match=rf"{name} .*{said}"), open_file(image_at(tmp_path / name)):
            pass


def test_other_files_with_such_a_name_are_what_they_are(tmp_path):
    tifffile.imwrite(tmp_path / "a.dng", MOSAIC)
    with open_file(image_at(tmp_path / "a.dng")) as file:
        assert file.contents.format == "tiff"
        np.testing.assert_array_equal(file.image(0).pixels[:, :, 0], MOSAIC)
