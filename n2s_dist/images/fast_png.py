"""PNGs by libspng, where imagecodecs is installed: Pillow's pixels in less time.

It decodes what training images usually are: gray or RGB of 8 bits, not interlaced, opaque. All else is Pillow's. So is
all that libspng does not like: the same files are refused with the same words. libspng looks at all checksums, as
Pillow does. pyspng does not, and takes damaged files for whole. libpng, as imagecodecs calls it, ends the process upon
some of them.
"""

import importlib
import struct
from functools import cache
from typing import Any, BinaryIO

import numpy as np

_HEAD = struct.Struct(">8sI4sIIBBBBB")  # a signature, and IHDR with its length
_CHANNELS = {0: 1, 2: 3}  # by color type: gray, RGB


@cache
def imagecodecs() -> Any:
    """The package, or None where it or its libspng is missing."""
    try:
        package = importlib.import_module("imagecodecs")  # an extra
    except ImportError:
        return None
    return package if package.SPNG.available else None


def decode_png(stream: BinaryIO, opened: Any) -> np.ndarray | None:
    """Pixels as they lie in the file, uint8 [H, W, 1 or 3]; None where Pillow is to decode them.

    opened: the same file, as Pillow opened it.
    """
    codecs = imagecodecs()
    if codecs is None or "transparency" in opened.info or opened.custom_mimetype:  # which animated ones have
        return None
    stream.seek(0)
    data = stream.read()
    _, _, _, width, height, depth, color, _, _, interlaced = _HEAD.unpack_from(data)
    if depth != 8 or interlaced or color not in _CHANNELS:
        return None
    try:
        return codecs.spng_decode(data).reshape(height, width, _CHANNELS[color])
    except Exception:  # whatever it is: Pillow has the word
        return None
