"""PNG files of every kind, written from the specification: Pillow writes few of them."""

import struct
import zlib
from itertools import pairwise

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
_ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
# Color type and bits: all that there are.
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16),
         (6, 8), (6, 16)]  # fmt: skip


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _packed(pixels: np.ndarray, bits: int) -> bytes:
    """One row [W, C] of whole numbers, as PNG packs them."""
    if bits == 16:
        return pixels.astype(">u2").tobytes()
    if bits == 8:
        return pixels.astype(np.uint8).tobytes()
    each = np.unpackbits(pixels.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits :]
    return np.packbits(each).tobytes()


def _filtered(rows: list[bytes], step: int, kind: int) -> bytes:
    """Rows by one of the filters none, sub and up. step: bytes of a pixel, at least 1."""
    out, before = [], bytes(len(rows[0]))
    for row in rows:
        reference = {0: bytes(len(row)), 1: bytes(step) + row, 2: before}[kind]
        out.append(bytes([kind]) + bytes((a - b) % 256 for a, b in zip(row, reference, strict=False)))
        before = row
    return b"".join(out)


def png(
    size: tuple[int, int], color: int, bits: int, *, interlaced: bool = False, clear: bool = False, seed: int = 0,
    chunks: bytes = b"", parts: int = 1,
) -> bytes:  # fmt: skip
    """A PNG of random pixels. clear: with tRNS, where there may be one. chunks: before the pixels. parts: IDATs."""
    rng, channels = np.random.default_rng(seed), _CHANNELS[color]
    pixels = rng.integers(0, 2**bits, (*size, channels))
    data = b""
    for row, column, down, across in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        if (part := pixels[row::down, column::across]).size:
            rows = [_packed(each, bits) for each in part]
            data += _filtered(rows, max(1, channels * bits // 8), int(rng.integers(3)))
    data = zlib.compress(data)
    ends = [len(data) * part // parts for part in range(parts + 1)]
    palette = chunk(b"PLTE", rng.bytes(3 * 2**bits)) if color == 3 else b""
    if clear and color == 3:
        palette += chunk(b"tRNS", b"\0")
    elif clear and color in (0, 2):
        palette += chunk(b"tRNS", struct.pack(f">{channels}H", *pixels[1, 1]))
    head = struct.pack(">IIBBBBB", size[1], size[0], bits, color, 0, 0, interlaced)
    idat = b"".join(chunk(b"IDAT", data[a:b]) for a, b in pairwise(ends))
    return _SIGNATURE + chunk(b"IHDR", head) + chunks + palette + idat + chunk(b"IEND", b"")
