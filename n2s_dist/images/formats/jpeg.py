"""JPEG: gray or color, 8 bits. What is denoised is written in at least quality 99, color at full resolution."""

import io
import struct
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from n2s_dist.images.decoded import Contents, DecodedImage, check_holds, to_eight_bits
from n2s_dist.images.pillow import about_pillow, decode_pillow, is_gray, subsamples_chroma, to_pillow, upright_size

suffixes = (".jpg", ".jpeg")
is_lossless = False

_QUALITY = 99  # 95 costs up to 1.2 dB where there was little noise; 100 is no better and a third larger
_XMP, _IPTC = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    if stream.read(3) != b"\xff\xd8\xff":
        return None
    opened = _opened(stream)
    frames = getattr(opened, "n_frames", 1)
    notes: tuple[str, ...] = (f"its first picture of {frames}: the others are previews of it",) if frames > 1 else ()
    notes += ("its CMYK colors become RGB",) if opened.mode == "CMYK" else ()
    return Contents(
        format="jpeg",
        kind="JPEG",
        size=upright_size(opened),
        channels=1 if is_gray(opened) else 3,
        dtype=np.dtype(np.uint8),
        is_lossy=True,
        chroma_subsampled=subsamples_chroma(opened),
        about=about_pillow(opened),
        form=(opened.quantization, _segments(opened)),  # type: ignore[attr-defined]
        notes=notes,
    )


def read(stream: BinaryIO, path: Path, contents: Contents) -> Iterator[DecodedImage]:
    yield decode_pillow(_opened(stream))


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    check_holds(path, contents, "JPEG", ("uint8", "uint16"), alpha=False)
    (image,) = images
    tables, segments = contents.form if contents.format == "jpeg" else ({}, [])
    about = contents.about
    options: dict[str, Any] = {}
    if about.exif:
        options["exif"] = about.exif
    if about.dpi:
        options["dpi"] = tuple(round(dpi) for dpi in about.dpi)
    if about.xmp:
        segments = [(0xE1, _XMP + about.xmp), *segments]
    stream = io.BytesIO()
    to_pillow(to_eight_bits(image.shown(), contents.scale)).save(
        stream, "JPEG", qtables=_finest(tables), subsampling=0, icc_profile=about.icc, **options
    )
    written = stream.getvalue()
    at = 4 + struct.unpack(">H", written[4:6])[0] if written[2:4] == b"\xff\xe0" else 2  # JFIF comes first
    extra = b"".join(b"\xff" + bytes([kind]) + struct.pack(">H", len(data) + 2) + data for kind, data in segments)
    path.write_bytes(written[:at] + extra + written[at:])


def _opened(stream: BinaryIO) -> Any:
    stream.seek(0)
    return Image.open(stream, formats=("JPEG", "MPO"))


def _segments(opened: Any) -> list[tuple[int, bytes]]:
    """What else a JPEG says of itself: captions and comments."""
    kinds = {"APP13": 0xED, "COM": 0xFE}
    return [
        (kinds[name], data)
        for name, data in opened.applist
        if name in kinds and (name == "COM" or data.startswith(_IPTC))
    ]


@cache
def _tables() -> list[list[int]]:
    """The quantization of luma and chroma at that quality."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", quality=_QUALITY)
    found = Image.open(stream).quantization  # type: ignore[attr-defined]
    return [list(found[0]), list(found[1])]


def _finest(tables: dict[int, list[int]]) -> list[list[int]]:
    """The finer steps of the noisy image's own quantization and of that quality's."""
    usual = _tables()
    own = [tables.get(number, tables.get(0, usual[number])) for number in range(2)]
    return [[min(pair) for pair in zip(*both, strict=True)] for both in zip(own, usual, strict=True)]
