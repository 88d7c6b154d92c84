"""What a TIFF page's tags say: those that another file like it keeps, its scale, and what other formats are told."""

import re
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from n2s_dist.images.decoded import About
from n2s_dist.images.pillow import ORIENTATION
from n2s_dist.images.scale import Scale
from n2s_dist.images.tiff_directories import EXIF, GPS, Directories, new_directory, read_directory

NEGATIVE, GRAY, RGB, PALETTE = 0, 1, 2, 3  # photometric interpretations that tifffile decodes
DESCRIPTION = 270
_INCH, _CENTIMETER = 2, 3
# Tags that the writer makes anew, or that speak of pixels as they were stored, or of other parts of the file.
_OWN_TAGS = {
    254, 255, 256, 257, 258, 259, 262, 266, 269, 273, 277, 278, 279, 282, 283, 284, 288, 289, 296, 317, 320, 322, 323,
    324, 325, 330, 338, 339, 347, 400, 512, 513, 514, 515, 529, 530, 531, 532, 32997, 32998, 40965, EXIF, GPS,
    ORIENTATION,
}  # fmt: skip
_POINTERS = (13, 18)  # types of tags that point to other parts of a file
_CAPTIONS = (270, 271, 272, 305, 306, 315, 33432)  # also of EXIF's first directory, in other formats
_ICC, _XMP, _NODATA = 34675, 700, 42113
_MAXIMA = (281, 341)  # MaxSampleValue and SMaxSampleValue
_MICROMETERS = {
    "inch": 25.4e3, "in": 25.4e3, "m": 1e6, "cm": 1e4, "mm": 1e3, "nm": 1e-3,
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "\\u00B5m"), 1.0),
}  # fmt: skip


def raw(file: tifffile.TiffFile, tag: Any) -> bytes:
    """A tag's bytes, as they are in the file."""
    if tag is None:
        return b""
    is_big = file.is_bigtiff
    is_here = tag.valuebytecount <= (8 if is_big else 4)  # in the directory itself
    file.filehandle.seek(tag.offset + (12 if is_big else 8) if is_here else tag.valueoffset)
    return file.filehandle.read(tag.valuebytecount)


def tags_of(file: tifffile.TiffFile, stored: Any, is_one_of_many: bool) -> list[tuple]:
    """All tags that another file like this one is to have. is_one_of_many: whether other images get their own pages."""
    kept = [tag for tag in stored.tags if tag.code not in _OWN_TAGS and int(tag.dtype) not in _POINTERS]
    if int(stored.photometric) not in (NEGATIVE, GRAY, RGB, PALETTE):
        kept = [tag for tag in kept if tag.code != _ICC]  # of colors that become RGB
    found = [(tag.code, int(tag.dtype), tag.count, raw(file, tag), True) for tag in kept if tag.count]
    if 8 < stored.bitspersample < 16 and _MAXIMA[0] not in stored.tags:  # written in 16
        found.append((_MAXIMA[0], 3, 1, 2**stored.bitspersample - 1, True))
    if not is_one_of_many:
        return found
    # tifffile's word for images without pages, which they will have.
    return [(*tag[:3], tag[3].replace(b', "truncated": true', b""), True) for tag in found]


def below_of(stored: Any, stream: BinaryIO) -> Directories:
    """EXIF and GPS of a page."""
    # tifffile takes what such a tag points to for its value, so that is where the directory begins.
    return {code: read_directory(stream, stored.tags[code].valueoffset) for code in (EXIF, GPS) if code in stored.tags}


def orientation_of(stored: Any) -> int:
    tag = stored.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None and 1 <= int(tag.value) <= 8 else 1


def resolution_of(stored: Any) -> dict[str, Any]:
    """A page's resolution as it is stored, upright, for TiffWriter.write."""
    found = [stored.tags.get(code) for code in (282, 283)]
    if any(tag is None for tag in found):
        return {}
    across, down = (tuple(map(int, tag.value)) for tag in found)
    turned = orientation_of(stored) in (5, 6, 7, 8)
    unit = int(stored.tags[296].value) if 296 in stored.tags else _INCH
    return {"resolution": (down, across) if turned else (across, down), "resolutionunit": unit}


def scale_of(stored: Any) -> Scale | None:
    """What the file says of white: by its bits, OME's, or the largest value that it says there may be."""
    bits = stored.bitspersample
    if 8 < bits < 16:
        return Scale(0, 2**bits - 1)
    if found := re.search(r'SignificantBits="(\d+)"', stored.description if stored.is_ome else ""):
        return Scale.of_bits(int(found[1]), bits)
    for code in _MAXIMA:
        if code in stored.tags:
            highest = int(np.max(stored.tags[code].value))
            if 255 <= highest < 2**bits - 1 and highest & (highest + 1) == 0:
                return Scale(0, highest)
    return None


def nodata_of(stored: Any) -> float | None:
    """GDAL's word on pixels that hold nothing."""
    try:
        value = float(str(stored.tags[_NODATA].value).strip(" \0")) if _NODATA in stored.tags else None
    except ValueError:
        return None
    return None if value is None or not np.isfinite(value) else value


# --- what other formats say, and are told -------------------------------------------------------------------


def plain_tags(about: About) -> tuple[list[tuple], Directories, dict[str, Any]]:
    """Of an image from a file of another format: tags, EXIF and GPS, and its resolution."""
    tags: list[tuple] = [(_ICC, 7, len(about.icc), about.icc, True)] if about.icc else []
    tags += [(_XMP, 1, len(about.xmp), about.xmp, True)] if about.xmp else []
    below: Directories = {}
    if about.exif:
        exif = Image.Exif()
        exif.load(about.exif)
        tags += [(tag, 2, 0, str(exif[tag]).encode(), True) for tag in _CAPTIONS if tag in exif]
        below = {tag: new_directory(found) for tag in (EXIF, GPS) if (found := exif.get_ifd(tag))}
    return tags, below, {"resolution": about.dpi, "resolutionunit": _INCH} if about.dpi else {}


def about_tiff(file: tifffile.TiffFile, stored: Any, tags: list[tuple], below: Directories) -> About:
    """What a page says of itself. tags, below: those that it keeps."""
    known = {tag[0]: tag[3] for tag in tags}
    exif = Image.Exif()
    machine_written = file.is_imagej or file.is_ome or file.is_shaped
    for code in _CAPTIONS:
        if code in known and not (code == DESCRIPTION and machine_written):
            exif[code] = known[code].rstrip(b"\0").decode("utf-8", "replace")
    for code, directory in below.items():
        exif[code] = dict(directory)
    return About(known.get(_ICC), exif.tobytes() if len(exif) else None, _dpi(file, stored), known.get(_XMP))


def _dpi(file: tifffile.TiffFile, stored: Any) -> tuple[float, float] | None:
    """Pixels an inch, also where ImageJ or OME say how large a pixel is."""
    if file.is_ome and (found := _ome_pixels(stored.description)):
        return found
    if not all(code in stored.tags for code in (282, 283)):
        return None
    across, down = (float(stored.tags[code].value[0]) / max(stored.tags[code].value[1], 1) for code in (282, 283))
    unit = int(stored.tags[296].value) if 296 in stored.tags else _INCH
    if file.is_imagej:
        name = str((file.imagej_metadata or {}).get("unit", ""))
        per_inch = 25.4e3 / length if (length := _MICROMETERS.get(name)) else 0.0
    else:
        per_inch = {_INCH: 1.0, _CENTIMETER: 2.54}.get(unit, 0.0)
    dpi = across * per_inch, down * per_inch
    if min(dpi) <= 0:
        return None
    return dpi[::-1] if orientation_of(stored) in (5, 6, 7, 8) else dpi


def _ome_pixels(description: str) -> tuple[float, float] | None:
    sizes = []
    for axis in "XY":
        size = re.search(rf'PhysicalSize{axis}="([0-9.eE+-]+)"', description)
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]*)"', description)
        length = float(size[1]) * _MICROMETERS.get(unit[1] if unit else "µm", 0.0) if size else 0.0
        sizes.append(25.4e3 / length if length > 0 else 0.0)
    return (sizes[0], sizes[1]) if min(sizes) > 0 else None
