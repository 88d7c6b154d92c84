"""Images that are trained on and measured: uint8 [H, W, C], opaque, in the orientation that a viewer shows."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from n2s_dist.images.decoded import Contents, DecodedImage, to_eight_bits
from n2s_dist.images.files import ImageFile
from n2s_dist.images.scale import Scale, find_scale
from n2s_dist.images.user_files import OpenFile, check_opaque, check_single, probe
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write


def image_size(image: ImageFile) -> tuple[int, int]:
    """(height, width) as `read_image` will return them, from the header alone; see `measure_image`."""
    with image.open() as stream:
        return measure_image(stream, image.path)[:2]


def measure_image(stream: BinaryIO, path: Path) -> tuple[int, int, int]:
    """(height, width, channels) as `decode_image` will return them, from the header alone.

    Raises UserError by name for what that refuses, as far as the header tells.
    """
    _, contents = probe(stream, path)
    check_single(contents, path)
    check_type(contents, path)
    return *contents.size, contents.channels


def read_image(image: ImageFile, channels: int | None = None) -> np.ndarray:
    """Decode a file; see `decode_image`."""
    with image.open() as stream:
        return decode_image(stream, image.path, channels, image.axes)


def decode_image(stream: BinaryIO, path: Path, channels: int | None = None, axes: str | None = None) -> np.ndarray:
    """Decode to uint8 [H, W, C], C = 1 or 3, to be read only. path: what errors call the image. axes: of an array.

    channels: 1 converts color to gray (ITU-R 601 luma), 3 repeats gray, None keeps what the file has.
    16-bit gray is scaled to 8 bits (v / 257, rounded). 16-bit color, floating point, files of several images, data that
    fill a part of 16 bits, and transparent images raise UserError by name: their conversion is the user's to choose.
    """
    format_, contents = probe(stream, path, axes)
    check_single(contents, path)
    check_type(contents, path)
    (picture,) = OpenFile(stream, path, format_, contents).images()
    return as_eight_bits(picture, contents.scale, path, channels)


def as_eight_bits(picture: DecodedImage, word: Scale | None, path: Path, channels: int | None) -> np.ndarray:
    """What decode_image makes of a decoded image. word: on its black and white, where there is one."""
    check_opaque(picture, path)
    pixels = picture.shown()
    if pixels.dtype != np.uint8:
        with _white_named(path):
            scale = find_scale(pixels, word=word)
        pixels = to_eight_bits(pixels, scale)
    if channels is None or channels == pixels.shape[2]:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def scale_of_stack(file: OpenFile) -> Scale | None:
    """The scale by which all images of a file become 8 bits. Raises UserError by name where it is not known."""
    check_type(file.contents, file.path)
    with _white_named(file.path):
        return file.find_scale(None, None)


@contextlib.contextmanager
def _white_named(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ").partition(":")[0]
        raise UserError(f"{path} does not say what white is ({reason}): convert it to 8 bits first") from None


def check_type(contents: Contents, path: Path) -> None:
    """UserError for values that are the user's to convert to 8 bits."""
    kind = contents.dtype.name
    if kind == "uint16" and (contents.channels == 3 or contents.has_alpha):
        raise UserError(f"{path} has 16 bits a channel: convert it to 8 bits first")
    if kind not in ("uint8", "uint16", "int8"):
        raise UserError(f"{path} has values of type {kind}: convert it to 8-bit gray or color first")


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Floats on the 0-1 scale to 8 bits: clamped, then rounded to nearest."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, C], C = 1 or 3, so that the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(partial)
