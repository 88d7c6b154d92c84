"""Pillow's images to arrays, and what they say of themselves; what the formats that Pillow reads share."""

import math
import re
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from n2s_dist.images.decoded import About, DecodedImage

_EXIF = b"Exif\0\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>')
# Two of a channel's bytes, as Pillow unpacks them to 8 bits: the high one, and the low one by the other byte order.
_OTHER_ORDER = {"16B": "16L", "16L": "16B", "16N": "16B"}
ORIENTATION = 0x0112  # of EXIF and TIFF: how a viewer turns what the file holds
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296  # of both
_EXIF_IFD, _WIDTH, _HEIGHT = 0x8769, 0xA002, 0xA003
_STEEPEST, _LEAST_USED = 24, 32  # of a palette that colors measured values: its steps, of 255, and its colors in use


def is_turned(opened: Image.Image) -> bool:
    """Whether a viewer turns or flips what the file holds; TIFFs are turned by Pillow as they are read."""
    exif = opened.getexif() if opened.format == "TIFF" else Image.Image.getexif(opened)
    return exif.get(ORIENTATION, 1) != 1


def upright_size(opened: Image.Image) -> tuple[int, int]:
    """(height, width) as a viewer shows it, without decoding."""
    width, height = opened.size
    return (width, height) if _is_on_its_side(opened) else (height, width)


def _is_on_its_side(opened: Image.Image) -> bool:
    # PngImageFile's own getexif would decode the whole image.
    return opened.format != "TIFF" and Image.Image.getexif(opened).get(ORIENTATION) in (5, 6, 7, 8)


def upright(opened: Image.Image) -> Image.Image:
    """As a viewer shows it."""
    return ImageOps.exif_transpose(opened) if is_turned(opened) else opened  # which copies, turned or not


def is_gray(opened: Image.Image) -> bool:
    """Whether a viewer shows it without color; a palette counts as color."""
    return opened.mode in ("1", "L", "LA", "I", "F") or opened.mode.startswith("I;16")


def sees_through(opened: Image.Image) -> bool:
    """Whether it may be transparent."""
    return "A" in opened.getbands() or "transparency" in opened.info


def decode_pillow(opened: Image.Image) -> DecodedImage:
    """An image of 8 bits in any of Pillow's modes, or gray of 16: upright, gray or color.

    A palette that colors measured values, as microscopes' do, is set aside; other colors become RGB.
    """
    image = upright(opened)
    if image.mode.startswith("I;16"):
        return DecodedImage(np.asarray(image).astype(np.uint16)[:, :, None])
    if image.mode == "P" and not sees_through(image):
        return of_palette(np.asarray(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3))
    wanted = "L" if is_gray(image) else "RGB"
    if sees_through(image):
        wanted = "LA" if wanted == "L" else "RGBA"
    pixels = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return DecodedImage.of(pixels[:, :, None] if pixels.ndim == 2 else pixels)


def of_palette(indices: np.ndarray, palette: np.ndarray) -> DecodedImage:
    """From places [H, W] in a palette, uint8 [N, 3]: measured values where it is a ramp, else gray or color."""
    if is_ramp(palette, indices):
        return DecodedImage(indices[:, :, None], None, palette)
    shown = palette[np.minimum(indices, len(palette) - 1)]
    used = palette[np.unique(indices).clip(max=len(palette) - 1)]
    return DecodedImage(shown[:, :, :1] if (used == used[:, :1]).all() else shown)


def is_ramp(palette: np.ndarray, indices: np.ndarray) -> bool:
    """Whether neighbors in a palette, uint8 [N, 3], have neighboring colors, as far as it is used."""
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=len(palette)))
    if len(used) < _LEAST_USED or used[-1] >= len(palette):
        return False
    steps = np.abs(np.diff(palette[used[0] : used[-1] + 1].astype(int), axis=0))
    return int(steps.max()) <= _STEEPEST


def decode_deep(opened: Any, again: Any) -> np.ndarray:
    """RGB or RGBA of 16 bits a channel, of which Pillow reads 8: uint16 [H, W, 3 or 4], not turned.

    opened, again: the same file, opened twice. The second is made to yield each channel's other byte.
    """
    high = np.asarray(opened).astype(np.uint16)
    again.tile = [_low_bytes(tile) for tile in again.tile]
    return high << 8 | np.asarray(again)


def raw_mode(tile: Any) -> str:
    """How Pillow is to unpack one part of a file."""
    return tile.args[0] if isinstance(tile.args, tuple) else tile.args


def _low_bytes(tile: Any) -> Any:
    """Pillow's order to decode one part of a file, changed so that it yields each channel's low byte."""
    layout, _, order = raw_mode(tile).partition(";")
    if order not in _OTHER_ORDER or layout not in ("RGB", "RGBA"):
        raise ValueError(f"16 bits a channel in an order that is not known, {raw_mode(tile)}")
    other = f"{layout};{_OTHER_ORDER[order]}"
    return tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)


def turned(channels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright, by what EXIF says of a file's first row and column. channels: [H, W, C]."""
    if orientation in (5, 6, 7, 8):
        channels = channels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        channels = channels[::-1]
    if orientation in (2, 3, 6, 7):
        channels = channels[:, ::-1]
    return channels


def about_pillow(opened: Image.Image) -> About:
    """What a PNG, JPEG, WebP or BMP says of itself, as far as it is true of the decoded image."""
    info = opened.info
    exif = info.get("exif")
    said = Image.Exif()
    if exif:
        said.load(exif)
        exif = exif if exif.startswith(_EXIF) else _EXIF + exif
    dpi = info.get("dpi") or exif_dpi(said)
    if said.get(ORIENTATION, 1) != 1:
        exif = _upright_exif(said, _is_on_its_side(opened))
    if dpi is not None:
        across, down = (float(each) for each in dpi)
        dpi = None if min(across, down) <= 0 else (down, across) if _is_on_its_side(opened) else (across, down)
    xmp = info.get("xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return About(
        icc=None if opened.mode in ("CMYK", "LAB", "YCCK") else info.get("icc_profile"),
        exif=exif or None,
        dpi=dpi,
        xmp=_XMP_ORIENTATION.sub(b"", xmp) if xmp else None,
    )


def _upright_exif(exif: Image.Exif, on_its_side: bool) -> bytes:
    """EXIF of a picture that was turned."""
    del exif[ORIENTATION]
    if on_its_side:
        for tags, across, down in ((exif, X_RESOLUTION, Y_RESOLUTION), (exif.get_ifd(_EXIF_IFD), _WIDTH, _HEIGHT)):
            if across in tags and down in tags:
                tags[across], tags[down] = tags[down], tags[across]
    return exif.tobytes()


def exif_dpi(exif: Image.Exif) -> tuple[float, float] | None:
    """Pixels an inch, by EXIF."""
    per_inch = {2: 1.0, 3: 2.54}.get(exif.get(RESOLUTION_UNIT, 2))
    found = [exif.get(tag) for tag in (X_RESOLUTION, Y_RESOLUTION)]
    if per_inch is None or None in found:
        return None
    across, down = (float(each) * per_inch for each in found)  # type: ignore[arg-type]
    return (across, down) if all(0 < each < math.inf for each in (across, down)) else None  # 0/0 is NaN


def subsamples_chroma(image: Image.Image) -> bool:
    """Whether a JPEG holds color at less than luma's resolution."""
    layers = getattr(image, "layer", [])
    return len(layers) == 3 and any(layer[1:3] != layers[0][1:3] for layer in layers)


def to_pillow(pixels: np.ndarray, palette: np.ndarray | None = None) -> Image.Image:
    """uint8 [H, W, 1 to 4] as Pillow has it. palette: uint8 [N, 3], for one channel."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if palette is not None:
        image = image.convert("P") if image.mode != "L" else image
        image.putpalette(palette.tobytes())  # turns L into P
    return image
