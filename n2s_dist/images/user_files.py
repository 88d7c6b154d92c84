"""Users' own image files, at the depth they have and with their transparency: what n2s-denoise reads and writes.

    PNG, TIFF: 8 or 16 bits a channel;  JPEG, WebP, BMP: 8

files.py reads what is trained on and measured: 8 bits, opaque.
"""

import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageOps

from n2s_dist.images.files import ImageFile, damage_named, is_turned, loses_bits, open_image, refuse_pages
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write

# Two of a channel's bytes, as Pillow unpacks them to 8 bits: the high one, and the low one by the other byte order.
_OTHER_ORDER = {"16B": "16L", "16L": "16B", "16N": "16B"}
_DEEP = (".png", ".tif", ".tiff")
_NO_ALPHA = (".jpg", ".jpeg", ".bmp")


class DecodedImage(NamedTuple):
    """What an image file shows."""

    pixels: np.ndarray  # uint8 or uint16 [H, W, C], C = 1 or 3
    alpha: np.ndarray | None  # opacity, of the same type, [H, W, 1]; None where the file has none

    @property
    def channels(self) -> int:
        return self.pixels.shape[-1]

    def white(self, named: int | None, path: Path) -> int:
        """The value that is 1 on the 0-1 scale: `named`, or the type's highest. Raises UserError where it can't be."""
        highest = int(np.iinfo(self.pixels.dtype).max)
        if named is None:
            return highest
        if not 1 <= named <= highest:
            raise UserError(f"--white is {named}, but values of {path} lie between 0 and {highest}: give one of them")
        brightest = int(self.pixels.max())
        if brightest > 2 * named:
            raise UserError(f"{path} has values up to {brightest}, more than twice --white {named}: give a higher one")
        return named

    def joined(self) -> np.ndarray:
        """All channels in one array, [H, W, C + 1] with alpha."""
        return self.pixels if self.alpha is None else np.concatenate([self.pixels, self.alpha], axis=-1)

    @staticmethod
    def of(channels: np.ndarray) -> "DecodedImage":
        """From what `joined` gives, [..., H, W, 1 to 4]."""
        return (
            DecodedImage(channels, None)
            if channels.shape[-1] % 2
            else DecodedImage(channels[..., :-1], channels[..., -1:])
        )


def read_picture(image: ImageFile) -> DecodedImage:
    """Decode a file, upright, at its own depth. CMYK and palettes become RGB, two levels become gray.

    Raises UserError by name for what is no readable image, for pixels of other types, such as floating point, and for
    files of several pages.
    """
    path = image.path
    with image.open() as stream, open_image(stream, path) as opened:
        mode = opened.mode
        if mode in ("F", "I") or (mode.startswith("I;") and mode not in ("I;16", "I;16B", "I;16L")):
            raise UserError(f"{path} has pixels of type '{mode}': convert it to 8 or 16 bits a channel first")
        with damage_named(f"{path} can't be decoded"):
            refuse_pages(opened, path)
            if loses_bits(opened, stream):
                stream.seek(0)
                with open_image(stream, path) as again:
                    again.tile = [_low_bytes(tile, path) for tile in again.tile]  # type: ignore[attr-defined]
                    low = upright(again)
                stream.seek(0)
                with open_image(stream, path) as again:
                    return DecodedImage.of(upright(again).astype(np.uint16) << 8 | low)
            return DecodedImage.of(upright(opened))


def _low_bytes(tile: Any, path: Path) -> Any:
    """Pillow's order to decode one part of a file, changed so that it yields each channel's low byte."""
    several = isinstance(tile.args, tuple)
    raw = tile.args[0] if several else tile.args
    layout, _, order = raw.partition(";")
    if order not in _OTHER_ORDER or layout not in ("RGB", "RGBA"):
        raise UserError(f"{path} has 16 bits a channel in an order that is not known: convert it to RGB first")
    other = f"{layout};{_OTHER_ORDER[order]}"
    return tile._replace(args=(other, *tile.args[1:]) if several else other)


def subsamples_chroma(image: Image.Image) -> bool:
    """Whether a JPEG holds color at less than luma's resolution."""
    layers = getattr(image, "layer", [])
    return len(layers) == 3 and any(layer[1:3] != layers[0][1:3] for layer in layers)


def upright(opened: Image.Image) -> np.ndarray:
    """Decode to [H, W, channels] as a viewer shows it: L, LA, RGB or RGBA, or uint16 gray."""
    image = ImageOps.exif_transpose(opened) if is_turned(opened) else opened
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[:, :, None]
    see_through = "A" in image.getbands() or "transparency" in image.info
    gray = image.mode in ("1", "L", "LA")
    wanted = ("LA" if gray else "RGBA") if see_through else ("L" if gray else "RGB")
    pixels = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def write_picture(path: Path, picture: DecodedImage) -> None:
    """Write a file, so that it appears whole.

    16 bits become 8 where the format has no more. Raises UserError for transparency in a JPEG or BMP.
    """
    suffix = path.suffix.lower()
    channels = picture.joined()
    if picture.alpha is not None and suffix in _NO_ALPHA:
        raise UserError(f"{path} can't hold the image's transparency: end it in .png")
    if channels.dtype == np.uint16 and suffix not in _DEEP:
        channels = np.round(channels / 257).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        if channels.dtype == np.uint16 and suffix == ".png":
            partial.write_bytes(_png(channels))
        elif channels.dtype == np.uint16:
            flat = channels[:, :, 0] if channels.shape[2] == 1 else channels
            extra = None if picture.alpha is None else ["unassalpha"]
            kind = "minisblack" if picture.channels == 1 else "rgb"
            tifffile.imwrite(partial, flat, photometric=kind, planarconfig="contig", extrasamples=extra)
        else:
            Image.fromarray(channels[:, :, 0] if channels.shape[2] == 1 else channels).save(partial)


def _png(channels: np.ndarray) -> bytes:
    """uint16 [H, W, 1 to 4] as PNG, each row as its difference from the last; Pillow writes one channel alone."""
    height, width, count = channels.shape
    rows = np.ascontiguousarray(channels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[count - 1], 0, 0, 0)
    data = zlib.compress(filtered.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
