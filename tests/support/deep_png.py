"""PNG files of 16 bits a channel, which Pillow does not write."""

import struct
import zlib
from pathlib import Path

import numpy as np


def write_16_bit_png(path: Path, pixels: np.ndarray, transparent: tuple[int, ...] = ()) -> None:
    """uint16 [H, W, C]: gray, gray and alpha, color, or color and alpha. Pillow writes only the first of them.

    transparent: the gray or color that is not seen.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    clear = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + clear + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
