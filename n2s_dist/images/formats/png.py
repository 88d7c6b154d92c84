"""PNG: gray or color, with or without transparency, 8 or 16 bits a channel."""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from n2s_dist.images.decoded import Contents, DecodedImage, check_holds
from n2s_dist.images.fast_png import decode_png
from n2s_dist.images.pillow import (
    ORIENTATION,
    about_pillow,
    decode_deep,
    decode_pillow,
    is_gray,
    raw_mode,
    sees_through,
    to_pillow,
    turned,
    upright_size,
)
from n2s_dist.utils.errors import UserError

suffixes = (".png",)
is_lossless = True

Image.MAX_IMAGE_PIXELS = None  # scientific images are large; Pillow's limits guard web servers
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28  # some programs' own data are longer than 1 MiB

_MAGIC = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt", b"zTXt", b"iTXt", b"tIME", b"sCAL", b"pCAL")
_XMP = b"XML:com.adobe.xmp\0"


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    head = stream.read(26)
    if head[:8] != _MAGIC:
        return None
    opened = _opened(stream)
    if (frames := getattr(opened, "n_frames", 1)) > 1:
        raise UserError(f"{path} is an animated PNG of {frames} frames: save each of them as a file of its own")
    deep = len(head) > 24 and head[24] == 16
    return Contents(
        format="png",
        kind="PNG",
        size=upright_size(opened),
        channels=1 if is_gray(opened) or _is_gray_alpha(opened, deep) else 3,
        dtype=np.dtype(np.uint16 if deep else np.uint8),
        has_alpha=sees_through(opened),
        about=about_pillow(opened),
        form=_chunks(stream),
    )


def read(stream: BinaryIO, path: Path, contents: Contents) -> Iterator[DecodedImage]:
    opened = _opened(stream)
    if (pixels := decode_png(stream, opened)) is not None:
        yield DecodedImage.of(turned(pixels, Image.Image.getexif(opened).get(ORIENTATION, 1)))
    else:
        yield _decode_deep(stream, opened) if contents.dtype == np.uint16 else decode_pillow(opened)


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    check_holds(path, contents, "PNG", ("uint8", "uint16"))
    (image,) = images
    channels, about = image.joined(), contents.about
    chunks = list(contents.form) if contents.format == "png" else []
    if about.icc:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(about.icc)))
    if about.dpi:
        meters = [round(dpi / 0.0254) for dpi in about.dpi]
        chunks.append((b"pHYs", struct.pack(">IIB", *meters, 1)))
    if about.exif:
        chunks.append((b"eXIf", about.exif[6:]))
    if about.xmp:
        chunks.append((b"iTXt", _XMP + b"\0\0\0\0" + about.xmp))
    with path.open("wb") as out:
        if channels.dtype == np.uint16:
            out.write(_deep_png(channels, chunks))
        else:
            stream = io.BytesIO()
            to_pillow(channels, image.palette).save(stream, "PNG")
            written = stream.getvalue()
            out.write(written[:33] + b"".join(_chunk(*each) for each in chunks) + written[33:])


def _opened(stream: BinaryIO) -> Any:
    stream.seek(0)
    return Image.open(stream, formats=("PNG",))


def _is_gray_alpha(opened: Any, deep: bool) -> bool:
    """Whether Pillow takes gray and alpha of 16 bits for color."""
    return deep and raw_mode(opened.tile[0]) == "LA;16B"  # type: ignore[attr-defined]


def _decode_deep(stream: BinaryIO, opened: Any) -> DecodedImage:
    """16 bits a channel, of which Pillow reads 8 unless there is one channel; with the color that is transparent."""
    raw, clear = raw_mode(opened.tile[0]), opened.info.get("transparency")  # type: ignore[attr-defined]
    orientation = Image.Image.getexif(opened).get(ORIENTATION, 1)
    if raw.startswith("I;16"):
        channels = np.asarray(opened).astype(np.uint16)[:, :, None]
    elif raw == "LA;16B":  # four bytes a pixel, as of RGBA with 8 bits
        opened.tile = [tile._replace(args="RGBA") for tile in opened.tile]
        channels = np.ascontiguousarray(np.asarray(opened)).view(">u2").astype(np.uint16)
    else:
        channels = decode_deep(opened, _opened(stream))
    if clear is not None:
        opaque = (channels != np.array(clear, np.uint16).reshape(-1)).any(axis=-1, keepdims=True)
        channels = np.concatenate([channels, np.where(opaque, np.uint16(65535), np.uint16(0))], axis=-1)
    return DecodedImage.of(turned(channels, orientation))


def _chunks(stream: BinaryIO) -> list[tuple[bytes, bytes]]:
    """What a file says besides its pixels, in words that stay true of denoised ones."""
    stream.seek(len(_MAGIC))
    found = []
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in _KEPT:
            data = stream.read(length)
            stream.seek(4, io.SEEK_CUR)
            if not data.startswith(_XMP):
                found.append((kind, data))
        else:
            stream.seek(length + 4, io.SEEK_CUR)
    return found


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _deep_png(channels: np.ndarray, chunks: list[tuple[bytes, bytes]]) -> bytes:
    """uint16 [H, W, 1 to 4] as PNG, each row as its difference from the last; Pillow writes one channel alone."""
    height, width, count = channels.shape
    rows = np.ascontiguousarray(channels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    head = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[count - 1], 0, 0, 0)
    data = zlib.compress(filtered.tobytes(), 6)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return _MAGIC + b"".join(_chunk(*each) for each in parts)
