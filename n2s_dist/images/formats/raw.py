"""Raw photographs: the colors of a Bayer mosaic, each a gray image of half the sides, in the sensor's own values.

    R G R G       R R     G G     G G     B B
    G B G B  ──►  R R     G G     G G     B B     R, G1 (in the rows of R), G2 (in the rows of B), B
    R G R G
    G B G B

Nothing is demosaiced, balanced or turned, so noise stays what it was: of photons and of reading, on top of the black
level. Black and white are what the file says, as LibRaw finds it. Files are read and not written.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from n2s_dist.images.decoded import Contents, DecodedImage, Series
from n2s_dist.images.native_messages import damage_printed
from n2s_dist.images.optional import needed
from n2s_dist.images.scale import Scale
from n2s_dist.utils.errors import UserError

suffixes = (
    ".dng", ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
)  # fmt: skip
is_lossless = True
precedence = 1
written_as = ".ome.tif"

# Most are TIFFs of a kind, so the name has to say that a file is none of the usual ones.
_MAGICS = (b"II*\0", b"MM\0*", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"II\x1a\0", b"FUJIFILM", b"\0MRM")
_DNG_VERSION = 50706  # a tag
_CR3 = b"ftypcrx "  # behind a length
_DAMAGE = ("Unexpected end of file", "data corrupted")  # LibRaw goes on after these
_ORDER = (0, 1, 3, 2)  # of LibRaw's numbers of colors: the second green comes before blue


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    head = stream.read(12)
    if not path.name.lower().endswith(suffixes) or not (head.startswith(_MAGICS) or head[4:] == _CR3):
        return None
    if path.suffix.lower() == ".dng" and not _says_dng(stream):
        return None
    opened = _opened(needed("rawpy", path, "raw"), stream, path)
    mosaic = opened.raw_image_visible
    places = _places(opened, path)
    rows, columns = mosaic.shape
    sizes = [((rows - row + 1) // 2, (columns - column + 1) // 2) for row, column in places.values()]
    if places == {"gray": (0, 0)}:
        sizes = [mosaic.shape]
    black, white = _levels(opened)
    series = Series((("C", len(places)),) if len(places) > 1 else (), channels=tuple(places))
    return Contents(
        format="raw",
        kind="raw photograph",
        size=tuple(np.max(sizes, axis=0).tolist()),
        channels=1,
        dtype=mosaic.dtype,
        images=len(places),
        scale=Scale(black, white) if black < white else None,
        form=(opened, list(places.values())),
        notes=(f"its {len(places)} images are {', '.join(places)}; black is {black:g} and white {white:g}",),
        sizes=tuple(sizes) if len(set(sizes)) > 1 else (),
        series=(series,),
    )


def _says_dng(stream: BinaryIO) -> bool:
    """Whether a TIFF is more than one by its name: LibRaw takes any for a mosaic."""
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        return _DNG_VERSION in file.pages.first.tags


def _opened(rawpy: Any, stream: BinaryIO, path: Path) -> Any:
    """The file, its pixels decoded, as what it says of them is known then. Raises UserError for what LibRaw can't."""
    opened = rawpy.RawPy()
    stream.seek(0)
    try:
        with damage_printed(*_DAMAGE):
            opened.open_buffer(stream)
            opened.unpack()
    except rawpy.LibRawFileUnsupportedError:
        raise UserError(f"{path} is no raw photograph that LibRaw reads: convert it to DNG first") from None
    except rawpy.LibRawError as error:
        raise ValueError(f"LibRaw says: {error.args[0].decode()}") from None
    if opened.raw_type != rawpy.RawType.Flat or opened.raw_image_visible.ndim != 2:
        raise UserError(f"{path} has all colors at each pixel, and no mosaic: develop it first")
    return opened


def _places(opened: Any, path: Path) -> dict[str, tuple[int, int]]:
    """The colors of the mosaic, and where in its first two rows and columns each of them is."""
    side = len(opened.raw_pattern)
    if side == 1:
        return {"gray": (0, 0)}
    if side != 2:
        raise UserError(
            f"{path} has a mosaic of {side} x {side} pixels, of which only 2 x 2 are read: develop it first"
        )
    top, left = opened.sizes.top_margin, opened.sizes.left_margin
    found = {int(opened.raw_color(top + row, left + column)): (row, column) for row in (0, 1) for column in (0, 1)}
    if len(found) < 4:
        raise UserError(f"{path} has a mosaic of {len(found)} colors, of which only 4 are read: develop it first")
    letters = [chr(opened.color_desc[number]) for number in _ORDER]
    numbered = [
        f"{letter}{letters[:place].count(letter) + 1}" if letters.count(letter) > 1 else letter
        for place, letter in enumerate(letters)
    ]
    return {name: found[number] for name, number in zip(numbered, _ORDER, strict=True)}


def _levels(opened: Any) -> tuple[float, float]:
    """Black and white. Black is the mean over the colors, whose levels differ by little."""
    blacks = opened.black_level_per_channel[: 4 if len(opened.raw_pattern) > 1 else 1]
    return float(np.mean(blacks)), float(opened.white_level)


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    opened, places = contents.form

    def image(number: int) -> DecodedImage:
        row, column = places[number]
        step = 1 if len(places) == 1 else 2
        return DecodedImage(opened.raw_image_visible[row::step, column::step, None].copy())

    return image
