"""What a file says of itself: profile, resolution, EXIF and XMP go from every format into every other, upright."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from n2s_dist.images.decoded import DecodedImage
from n2s_dist.images.files import ImageFile
from n2s_dist.images.pillow import exif_dpi
from n2s_dist.images.user_files import open_file, write_file

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" tiff:Make="M"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
MAKE, ORIENTATION, EXIF, GPS, EXPOSURE, WIDTH, HEIGHT = 271, 274, 34665, 34853, 33434, 40962, 40963
DPI = 300, 150
SUFFIXES = ("png", "jpg", "webp", "tif", "bmp")


@pytest.fixture
def pixels() -> np.ndarray:
    """Smooth, for JPEG."""
    return skimage.data.astronaut()[100:140, 100:160]


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "Maker", orientation
    exif.get_ifd(EXIF).update({EXPOSURE: (1, 125), WIDTH: 60, HEIGHT: 40})
    exif.get_ifd(GPS).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return exif


def write_source(path: Path, pixels: np.ndarray, orientation: int) -> None:
    """By Pillow, which writes no EXIF into TIFF; that is written through PNG."""
    exif = exif_of(orientation)
    options: dict[str, Any] = {"icc_profile": ICC, "exif": exif, "dpi": DPI}
    if path.suffix == ".tif":
        write_source(path.with_suffix(".png"), pixels, orientation)
        rewrite(path.with_suffix(".png"), path)
        return
    if path.suffix == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    elif path.suffix == ".bmp":
        options = {"dpi": DPI}
    else:
        options |= {"xmp": XMP, "quality": 95}
    if path.suffix == ".webp":  # it has no resolution of its own
        exif[282], exif[283], exif[296] = *map(float, DPI), 2
    Image.fromarray(pixels).save(path, **options)


def rewrite(source: Path, target: Path) -> None:
    with open_file(ImageFile(source.parent, source.name, 0)) as file:
        write_file(target, file.images(), file.contents)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("after", SUFFIXES)
@pytest.mark.parametrize("before", SUFFIXES)
def test_every_format_tells_every_other(tmp_path, pixels, before, after, orientation):
    source, target = tmp_path / f"in.{before}", tmp_path / f"out.{after}"
    write_source(source, pixels, orientation)
    rewrite(source, target)
    is_turned = orientation == 6 and before != "bmp"
    with Image.open(target) as found:
        exif = found.getexif()
        assert found.size == ((40, 60) if is_turned else (60, 40))
        assert exif.get(ORIENTATION, 1) == 1
        dpi = exif_dpi(exif) if after == "webp" else found.info["dpi"]
        np.testing.assert_allclose(np.array(dpi, float), DPI[::-1] if is_turned else DPI, atol=0.02)
        if "bmp" in (before, after):
            return
        assert found.info["icc_profile"] == ICC
        assert exif[MAKE] == "Maker" and exif.get_ifd(GPS) == {1: "N", 2: (1.0, 2.0, 3.0)}
        of_exif = exif.get_ifd(EXIF)
        assert of_exif[EXPOSURE] == (1, 125)
        assert (of_exif[WIDTH], of_exif[HEIGHT]) == found.size
        xmp = found.info["xmp"]
        assert b'tiff:Make="M"' in xmp and b"Orientation" not in xmp


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_once(tmp_path, pixels, orientation, suffix):
    """As Pillow turns them; denoising what was denoised turns nothing."""
    Image.fromarray(pixels).save(tmp_path / "in.png", exif=exif_of(orientation))
    with Image.open(tmp_path / "in.png") as opened:
        upright = np.asarray(opened if orientation == 1 else turned(opened, orientation))
    rewrite(tmp_path / "in.png", tmp_path / f"once.{suffix}")
    rewrite(tmp_path / f"once.{suffix}", tmp_path / f"twice.{suffix}")
    for name in ("once", "twice"):
        with Image.open(tmp_path / f"{name}.{suffix}") as found:
            np.testing.assert_array_equal(np.asarray(found), upright)


def turned(opened: Image.Image, orientation: int) -> Image.Image:
    ways = Image.Transpose
    way = {
        2: ways.FLIP_LEFT_RIGHT, 3: ways.ROTATE_180, 4: ways.FLIP_TOP_BOTTOM, 5: ways.TRANSPOSE, 6: ways.ROTATE_270,
        7: ways.TRANSVERSE, 8: ways.ROTATE_90,
    }[orientation]  # fmt: skip
    return opened.transpose(way)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_keeps_its_text_and_its_gamma(tmp_path, pixels, dtype):
    """Also one of 16 bits, which Pillow does not write."""
    Image.fromarray(pixels).save(tmp_path / "in.png", dpi=DPI, icc_profile=ICC)
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "of a user")
    info.add(b"gAMA", (45455).to_bytes(4, "big"))
    Image.fromarray(pixels[:, :, 0].astype(dtype)).save(tmp_path / "in.png", dpi=DPI, icc_profile=ICC, pnginfo=info)
    rewrite(tmp_path / "in.png", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as found:
        assert found.info["Comment"] == "of a user" and found.info["gamma"] == 0.45455
        assert found.info["icc_profile"] == ICC and np.allclose(found.info["dpi"], DPI, atol=0.02)


UNITS = {
    "um": ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "um"}}, (4 * 25.4e3, 2 * 25.4e3)),
    "nm": ({"imagej": True, "resolution": (0.5, 0.5), "metadata": {"unit": "nm"}}, (0.5 * 25.4e6, 0.5 * 25.4e6)),
    "pixel": ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "pixel"}}, None),
    "centimeters": ({"resolution": (100, 50), "resolutionunit": "centimeter"}, (254, 127)),
    "OME": ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}}, (50.8e3, 101.6e3)),
    "OME, nm": (
        {
            "ome": True,
            "metadata": {
                "axes": "YX", "PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 500,
                "PhysicalSizeYUnit": "nm",
            },
        },
        (50.8e3, 50.8e3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_pixel_sizes_stay_and_go_into_other_formats(tmp_path, pixels, unit):
    options, dpi = UNITS[unit]
    tifffile.imwrite(tmp_path / "in.tif", pixels[:, :, 0], **options)
    for name in ("out.tif", "out.png"):
        rewrite(tmp_path / "in.tif", tmp_path / name)
    with tifffile.TiffFile(tmp_path / "in.tif") as before, tifffile.TiffFile(tmp_path / "out.tif") as after:
        for tag in ("XResolution", "YResolution", "ResolutionUnit"):
            assert [page.tags[tag].value for page in before.pages] == [page.tags[tag].value for page in after.pages]
        assert before.imagej_metadata == after.imagej_metadata
        sizes = [file.ome_metadata and file.ome_metadata.partition("PhysicalSize")[2][:60] for file in (before, after)]
        assert sizes[0] == sizes[1]
    with Image.open(tmp_path / "out.png") as found:
        if dpi is None:
            assert "dpi" not in found.info
        else:
            np.testing.assert_allclose(found.info["dpi"], dpi, rtol=1e-3)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_compression_costs_next_to_nothing(tmp_path, suffix):
    """Beside what is left of weak noise, 39 dB, losses of 47 dB are a sixth; 43 dB, of quality 95, would be two."""
    image = skimage.data.coffee()[50:306, 100:356]
    Image.fromarray(image).save(tmp_path / f"in.{suffix}", quality=60)
    with open_file(ImageFile(tmp_path, f"in.{suffix}", 0)) as file:
        write_file(tmp_path / f"out.{suffix}", [DecodedImage(image)], file.contents)
    found = np.asarray(Image.open(tmp_path / f"out.{suffix}")).astype(float)
    assert suffix == "jpg" or (found == image).all()
    assert np.mean((found - image) ** 2) <= 255**2 * 10**-4.7
