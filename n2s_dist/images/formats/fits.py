"""FITS: the image of the first unit that has one. Headers, tables and all other units stay as they are, to the byte.

NAXIS1 counts columns, NAXIS2 rows, all others images, unless CTYPE3 says RGB. Scaled values (BSCALE, BZERO) are read as
what they stand for and written in the same way; BLANK and NaN are pixels that hold nothing.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from n2s_dist.images.axes import Axes, counting, find_axes
from n2s_dist.images.decoded import Contents, DecodedImage, check_holds
from n2s_dist.images.npy_layout import ArrayLayout, ArrayReader
from n2s_dist.images.optional import needed
from n2s_dist.utils.errors import UserError

suffixes = (".fits", ".fit", ".fts")
is_lossless = True
takes_axes = True
precedence = 1

_BLOCK = 2880
_COPIED = 2**20  # bytes at a time
_RAW = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_OFFSETS = {(8, -128.0): "i1", (16, 32768.0): "u2", (32, 2147483648.0): "u4"}  # how FITS stores other integers
_NUMBERS = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")


@dataclass(frozen=True)
class Scaling:
    """How values are stored: raw * slope + offset, in a type of raw values. blank: the raw value of missing ones."""

    raw: np.dtype
    dtype: np.dtype
    slope: float = 1.0
    offset: float = 0.0
    blank: int | None = None

    @property
    def is_plain(self) -> bool:
        return self.slope == 1 and self.offset == 0

    def decode(self, raw: np.ndarray) -> np.ndarray:
        if self.is_plain:
            return raw
        if self.dtype.kind in "ui":
            return (raw.astype(np.int64) + int(self.offset)).astype(self.dtype)
        values = (raw * np.float64(self.slope) + self.offset).astype(self.dtype)
        return values if self.blank is None else np.where(raw == self.blank, np.array(np.nan, self.dtype), values)

    def encode(self, values: np.ndarray) -> np.ndarray:
        if self.is_plain:
            return values.astype(self.raw)
        if self.dtype.kind in "ui":
            return (values.astype(np.int64) - int(self.offset)).astype(self.raw)
        raw = (values.astype(np.float64) - self.offset) / self.slope
        if self.raw.kind == "f":
            return raw.astype(self.raw)
        limits = np.iinfo(self.raw)
        whole = np.clip(np.round(np.nan_to_num(raw)), limits.min, limits.max)
        if self.blank is not None:  # which no value may become
            whole[whole == self.blank] += 1 if self.blank < limits.max else -1
        return np.where(np.isnan(raw), self.blank or 0, whole).astype(self.raw)


@dataclass(frozen=True)
class _Form:
    """stream: the file, of which all but the image is copied. header: of the image's unit. ends: of that unit."""

    stream: BinaryIO
    header: bytes
    begin: int
    end: int
    layout: ArrayLayout
    axes: Axes
    scaling: Scaling


def probe(stream: BinaryIO, path: Path, axes: str | None = None) -> Contents | None:
    if stream.read(9) != b"SIMPLE  =":
        return None
    fits = needed("astropy.io.fits", path)
    stream.seek(0)
    with warnings.catch_warnings(action="ignore"):  # what is wrong with a file is said in one line
        units = fits.open(stream, mode="readonly", memmap=False)
        images = [unit for unit in units if unit.is_image and unit.header.get("NAXIS", 0) >= 2]
    if not images:
        raise UserError(f"{path} holds no image: its units have tables, or no data")
    unit = images[0]
    if isinstance(unit, fits.CompImageHDU):
        raise UserError(f"{path} is tile-compressed: decompress it first, as funpack does")
    header, places = unit.header, unit.fileinfo()
    shape = tuple(header[f"NAXIS{place}"] for place in range(header["NAXIS"], 0, -1))
    scaling = _scaling(header)
    found = find_axes(path, shape, axes, _word(header, shape))
    layout = ArrayLayout(shape, scaling.raw, offset=places["datLoc"])
    others = len(images) - 1
    notes = (f"its other {others} image(s) are kept as they are",) if others else ()
    whole = scaling.dtype.kind in "ui" and scaling.blank is not None
    stream.seek(places["hdrLoc"])
    words = _header_bytes(header, stream.read(places["datLoc"] - places["hdrLoc"]))
    end = places["datLoc"] + places["datSpan"]
    return found.contents(
        "fits", "FITS", scaling.dtype, path, notes=notes,
        nodata=scaling.blank + scaling.offset if whole and scaling.blank is not None else None,
        form=_Form(stream, words, places["hdrLoc"], end, layout, found, scaling),
    )  # fmt: skip


def _scaling(header: Any) -> Scaling:
    bits, slope, offset = header["BITPIX"], float(header.get("BSCALE", 1)), float(header.get("BZERO", 0))
    raw, blank = np.dtype(_RAW[bits]), header.get("BLANK") if bits > 0 else None
    if slope == 1 and offset == 0:
        return Scaling(raw, raw.newbyteorder("="), blank=blank)
    if slope == 1 and (bits, offset) in _OFFSETS:
        return Scaling(raw, np.dtype(_OFFSETS[bits, offset]), slope, offset, blank)
    dtype = raw.newbyteorder("=") if bits < 0 else np.dtype(np.float64 if bits > 16 else np.float32)
    return Scaling(raw, dtype, slope, offset, blank)


def _word(header: Any, shape: tuple[int, ...]) -> str | None:
    """The axes by the header; None where three or four planes may be a color's."""
    counting = "QPONMLKJIHGFEDBA"[: len(shape) - 2]
    kind = str(header.get("CTYPE3", "")).strip().upper()
    if kind in ("RGB", "RGBA"):
        return counting[:-1] + "SYX"
    return None if len(shape) > 2 and shape[-3] in (3, 4) and not kind else counting + "YX"


def _header_bytes(header: Any, raw: bytes) -> bytes:
    """A unit's header as it is, but without checksums, which would be wrong."""
    if "CHECKSUM" not in header and "DATASUM" not in header:
        return raw
    other = header.copy()
    for name in ("CHECKSUM", "DATASUM"):
        other.remove(name, ignore_missing=True)
    return other.tostring().encode("ascii")


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    form: _Form = contents.form
    array = ArrayReader(stream, form.layout, form.axes)

    def image(number: int) -> DecodedImage:
        found = array(number)
        alpha = None if found.alpha is None else form.scaling.decode(found.alpha)
        return DecodedImage(form.scaling.decode(found.pixels), alpha)

    return image


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    check_holds(path, contents, "FITS", _NUMBERS, images=contents.images)
    form = contents.form if contents.format == "fits" else _plain_form(path, contents)
    planes = (form.scaling.encode(form.axes.to_plane(image)) for image in images)
    with path.open("wb") as out:
        _copy(form.stream, 0, form.begin, out)
        out.write(form.header)
        if form.axes.is_contiguous:
            for plane in planes:
                out.write(np.ascontiguousarray(plane).data)
        else:
            whole = np.empty(form.axes.shape, form.scaling.raw)
            for number, plane in enumerate(planes):
                whole[form.axes.place(number)] = plane
            out.write(whole.data)
        out.write(bytes(-out.tell() % _BLOCK))
        _copy(form.stream, form.end, None, out)


def _copy(source: BinaryIO, begin: int, end: int | None, out: BinaryIO) -> None:
    source.seek(begin)
    left = math.inf if end is None else end - begin
    while left and (data := source.read(int(min(left, _COPIED)))):
        out.write(data)
        left -= len(data)


def _plain_form(path: Path, contents: Contents) -> _Form:
    """For images from a file of another format: pages, then the planes of a color."""
    if contents.sizes:
        raise UserError(f"{path} can't hold images of several sizes, as a FITS has one: end it in .tif")
    fits = needed("astropy.io.fits", path)
    samples = contents.channels + contents.has_alpha
    plane = (*((("S", samples),) if samples > 1 else ()), ("Y", contents.size[0]), ("X", contents.size[1]))
    names, lengths = zip(*counting(contents), *plane, strict=True)
    axes = Axes("".join(names), lengths)
    stored = {np.dtype(name): key for key, name in _OFFSETS.items()}
    stored |= {np.dtype(name).newbyteorder("="): (bits, 0.0) for bits, name in _RAW.items()}
    bits, offset = stored[contents.dtype]
    cards: list[tuple[str, Any]] = [("SIMPLE", True), ("BITPIX", bits), ("NAXIS", len(names))]
    cards += [(f"NAXIS{place}", length) for place, length in enumerate(axes.shape[::-1], 1)]
    cards += [("BSCALE", 1), ("BZERO", int(offset))] if offset else []
    cards += [("CTYPE3", "RGB" if samples == 3 else "RGBA")] if samples > 2 else []
    header = fits.Header(cards).tostring().encode("ascii")
    raw = np.dtype(_RAW[bits])
    return _Form(
        io.BytesIO(), header, 0, 0, ArrayLayout(axes.shape, raw), axes, Scaling(raw, contents.dtype, 1.0, offset)
    )
