"""TIFF files of every layout: their images are those that were written, and go back into a file of the same layout."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.tiff_layouts import LAYOUTS, REFUSED

from n2s_dist.images.decoded import DecodedImage
from n2s_dist.images.files import ImageFile
from n2s_dist.images.user_files import open_file, write_file
from n2s_dist.utils.errors import UserError

# Denoised images have more than two levels, and other colors than a palette; thumbnails are left out.
CHANGED = ("bits", "LZW bits", "fax", "4 bits", "12 bits", "CMYK", "palette of colors")
CHANGED += ("MINISWHITE bits", "thumbnail, picture below", "thumbnail, picture behind")
BY_PILLOW = ("LZW", "JPEG", "packbits", "zstd", "LZMA", "fax", "CMYK")  # what tifffile alone does not read


def halve(pixels: np.ndarray) -> np.ndarray:
    """Darker by half: no layout's black may be white."""
    return pixels / pixels.dtype.type(2) if pixels.dtype.kind == "f" else pixels // 2


def rewrite(path: Path, target: Path) -> list[DecodedImage]:
    """Halve all images of a file into another. Returns what was read."""
    with open_file(ImageFile(path.parent, path.name, path.stat().st_size)) as file:
        found = list(file.images())
        assert file.contents.images == len(found)
        halved = (DecodedImage(halve(image.pixels), image.alpha, image.palette) for image in found)
        write_file(target, halved, file.contents)
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_and_written_again(tmp_path, name):
    """tifffile reads from the new file what became of the images, in the same layout, and Pillow what it can."""
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    written = LAYOUTS[name](source)
    found = rewrite(source, target)
    assert len(found) == len(written.images)
    for image, truth in zip(found, written.images, strict=True):
        assert image.pixels.dtype == truth.dtype
        np.testing.assert_allclose(image.pixels, truth, rtol=0, atol=1e-7 if truth.dtype.kind == "f" else 0)
        np.testing.assert_array_equal(image.alpha, written.alpha)
    wanted = written.stored([halve(truth) for truth in written.images])
    if name.startswith(BY_PILLOW):
        assert_same_by_pillow(target, wanted)
    else:
        stored = tifffile.imread(target)
        assert stored.dtype == wanted.dtype
        np.testing.assert_allclose(stored, wanted, rtol=0, atol=1e-7 if wanted.dtype.kind == "f" else 0)
    if name not in CHANGED:
        assert_same_layout(source, target)


def assert_same_by_pillow(target: Path, wanted: np.ndarray) -> None:
    with Image.open(target) as opened:
        pages = wanted if opened.n_frames > 1 else wanted[None]
        for number, page in enumerate(pages):
            opened.seek(number)
            np.testing.assert_array_equal(np.asarray(opened), page)


def assert_same_layout(source: Path, target: Path) -> None:
    with tifffile.TiffFile(source) as before, tifffile.TiffFile(target) as after:
        assert [(s.axes, s.dtype.kind) for s in before.series] == [(s.axes, s.dtype.kind) for s in after.series]
        for flag in ("byteorder", "is_bigtiff", "is_imagej", "is_ome", "is_shaped"):
            assert getattr(before, flag) == getattr(after, flag), flag
        if before.is_imagej:
            assert before.imagej_metadata == after.imagej_metadata


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_denoised_is_named(tmp_path, name):
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    write, words = REFUSED[name]
    write(source)
    with pytest.raises(UserError) as refusal:
        rewrite(source, target)
    message = str(refusal.value)
    assert message.startswith(f"{source} ") and words in message and "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_values_of_12_bits_stay_so_in_files_of_16(tmp_path):
    LAYOUTS["12 bits"](tmp_path / "in.tif")
    rewrite(tmp_path / "in.tif", tmp_path / "out.tif")
    for name in ("in.tif", "out.tif"):
        with open_file(ImageFile(tmp_path, name, 0)) as file:
            assert (file.contents.scale, file.contents.dtype) == ((0, 4095), np.uint16)


def test_other_colors_become_rgb_and_it_is_said(tmp_path):
    LAYOUTS["CMYK"](tmp_path / "in.tif")
    with open_file(ImageFile(tmp_path, "in.tif", 0)) as file:
        assert file.contents.notes == ("its CMYK colors become RGB",)
