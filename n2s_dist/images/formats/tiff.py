"""TIFF: pages of every type of number, gray, color, or channels of unspecified meaning, which are gray images each.

    file ──► pages ──► of each: one image, color with transparency, or several gray ones ──► denoised ──► pages

Pages come out as they went in: type, photometric interpretation, tiles, byte order, and all tags that are not about
how pixels are stored; so ImageJ, OME and GeoTIFF files stay such files. tifffile reads and writes; what it can't decode
without the imagecodecs package, such as LZW, Pillow does, where it can.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from n2s_dist.images.decoded import NUMBERS, Contents, DecodedImage, check_holds
from n2s_dist.images.pillow import decode_deep, decode_pillow, of_palette, turned
from n2s_dist.images.tiff_directories import add_directories, check_chain
from n2s_dist.images.tiff_pages import Form, Page, main_pages, plain_form, survey
from n2s_dist.utils.errors import UserError

suffixes = (".tif", ".tiff")
is_lossless = True

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said in one line, by others

_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LARGEST = 2**32 - 2**25  # bytes of a TIFF that is no BigTIFF, less room for tags


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    if stream.read(4) not in _MAGICS:
        return None
    check_chain(stream)
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        contents = survey(file, stream, path)
    if contents.dtype.name not in NUMBERS:
        raise UserError(f"{path} has values of type {contents.dtype.name}: convert them to integers or floats first")
    return contents


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    stream.seek(0)
    file = tifffile.TiffFile(stream)
    both = list(zip(contents.form.pages, main_pages(file)[0], strict=True))
    places = [
        (page, stored, plane, place)
        for page, (stored, _) in both
        for plane in range(page.planes)
        for place in range(len(page.groups))
    ]

    @lru_cache(1)  # channels of one page follow each other
    def decoded(number: int) -> list[DecodedImage]:
        page, stored, plane, _ = places[number]
        if page.through_pillow:
            return [_through_pillow(stream, page)]
        return list(_images(_samples(file, stored, page, plane), page, contents))

    def image(number: int) -> DecodedImage:
        place = places[number][3]
        return decoded(number - place)[place]

    return image


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    check_holds(path, contents, "TIFF", NUMBERS, images=contents.images)
    form: Form = contents.form if contents.format == "tiff" else plain_form(contents)
    stack, below = iter(images), []
    size = contents.images * math.prod(contents.size) * 4 * contents.dtype.itemsize
    with tifffile.TiffWriter(
        path, bigtiff=form.is_big or size > _LARGEST, byteorder=form.byteorder, ome=False, shaped=False
    ) as writer:
        for page in form.pages:
            for plane in range(page.planes):
                own = list(islice(stack, len(page.groups)))
                options = {**page.options, **_options(own, page)}
                tags = form.tags_for(page, path) if plane == 0 else []
                writer.write(_joined(own, page, contents), extratags=tags, metadata=None, software=False, **options)
                below.append(page.below if plane == 0 else {})
    add_directories(path, below)


# --- pixels of a page to images -----------------------------------------------------------------------------


def _samples(file: tifffile.TiffFile, stored: Any, page: Page, plane: int) -> np.ndarray:
    """All channels of a page, or of one of the images that follow each other in it, [H, W, S], in this machine's order.

    Raises ValueError where the file ends early.
    """
    handle = file.filehandle
    ends = [offset + count for offset, count in zip(stored.dataoffsets, stored.databytecounts, strict=True)]
    if max(ends, default=0) > handle.size:
        raise ValueError(f"it ends at byte {handle.size}, before its pixels do")
    if page.planes == 1:
        found = stored.asarray(squeeze=False)
    else:
        dtype = np.dtype(stored.dtype).newbyteorder(file.byteorder)
        count = math.prod(stored.shaped)
        handle.seek(stored.dataoffsets[0] + plane * count * dtype.itemsize)
        found = handle.read_array(dtype, count).reshape(stored.shaped)
    found = np.moveaxis(found[:, 0, :, :, 0], 0, -1) if found.shape[0] > 1 else found[0, 0]
    if found.dtype == bool:
        return found.astype(np.uint8) * np.uint8(255)
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def _images(samples: np.ndarray, page: Page, contents: Contents) -> Iterator[DecodedImage]:
    samples = turned(samples, page.orientation)
    if page.palette is not None:
        yield of_palette(samples[:, :, 0], page.palette)
        return
    at = 0
    for group in page.groups:
        at += at == page.alpha
        pixels = samples[:, :, at : at + group]
        alpha = samples[:, :, page.alpha : page.alpha + 1] if at == 0 and page.alpha is not None else None
        yield DecodedImage(_negative(pixels, contents) if page.is_negative else pixels, alpha)
        at += group


def _negative(pixels: np.ndarray, contents: Contents) -> np.ndarray:
    """White for black, and the reverse."""
    if contents.scale is not None:
        return (contents.scale.white + contents.scale.black - pixels).astype(pixels.dtype)
    return 1 - pixels if pixels.dtype.kind == "f" else ~pixels


def _through_pillow(stream: BinaryIO, page: Page) -> DecodedImage:
    opened = _opened(stream, page)
    if opened.mode in ("F", "I"):
        return DecodedImage(np.asarray(opened)[:, :, None])
    if page.is_deep and not opened.mode.startswith("I;16"):
        return DecodedImage.of(decode_deep(opened, _opened(stream, page)))
    found = decode_pillow(opened)
    return DecodedImage(~found.pixels) if page.is_negative else found


def _opened(stream: BinaryIO, page: Page) -> Image.Image:
    stream.seek(0)
    opened = Image.open(stream, formats=("TIFF",))
    opened.seek(page.place or 0)
    return opened


# --- and back -----------------------------------------------------------------------------------------------


def _joined(own: list[DecodedImage], page: Page, contents: Contents) -> np.ndarray:
    """All channels of a page, [H, W, S], [S, H, W] or [H, W]."""
    parts = [_negative(each.pixels, contents) if page.is_negative else each.pixels for each in own]
    if (alpha := own[0].alpha) is not None:
        at = next((i for i in range(len(parts)) if sum(page.groups[:i]) == page.alpha), len(parts))
        parts.insert(at, alpha)
    samples = np.concatenate(parts, axis=-1)
    if samples.shape[-1] == 1:
        return samples[:, :, 0]
    return np.ascontiguousarray(np.moveaxis(samples, -1, 0)) if page.is_planar else samples


def _options(own: list[DecodedImage], page: Page) -> dict[str, Any]:
    """What the writer is to be told of the channels."""
    first, palette = own[0], own[0].palette
    if palette is not None:
        colors = np.zeros((2 ** (8 * first.pixels.itemsize), 3), np.uint16)
        colors[: len(palette)] = palette.astype(np.uint16) * 257
        colormap = page.options.get("colormap", colors.T)
        return {"photometric": "palette", "colormap": colormap}
    base = "rgb" if first.channels == 3 else "miniswhite" if page.is_negative else "minisblack"
    count = sum(each.channels for each in own) + (first.alpha is not None)
    if count == 1:
        return {"photometric": base, "colormap": None}
    extra = page.extra or ([2] if first.alpha is not None else [])
    planar = "separate" if page.is_planar else "contig"
    return {"photometric": base, "colormap": None, "planarconfig": planar, "extrasamples": extra or None}
