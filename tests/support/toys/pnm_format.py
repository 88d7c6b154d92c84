"""PGM and PPM: a header of four words, then the values. Of 8 bits, without comments."""

import sys

import numpy as np

from n2s_dist.images.decoded import Contents, DecodedImage, check_holds, to_eight_bits
from n2s_dist.images.formats.base import register

suffixes = (".pgm", ".ppm")
is_lossless = True
_CHANNELS = {b"P5": 1, b"P6": 3}


def probe(stream, path):
    words = stream.read(100).split(maxsplit=4)
    if len(words) < 4 or words[0] not in _CHANNELS or words[3] != b"255":
        return None
    size = int(words[2]), int(words[1])
    return Contents("pnm", "PNM", size, _CHANNELS[words[0]], np.dtype(np.uint8))


def read(stream, path, contents):
    shape = (*contents.size, contents.channels)
    stream.seek(-int(np.prod(shape)), 2)
    yield DecodedImage(np.frombuffer(stream.read(), np.uint8).reshape(shape).copy())


def write(path, images, contents):
    check_holds(path, contents, "PNM", ("uint8", "uint16"), alpha=False)
    (image,) = images
    pixels = to_eight_bits(image.pixels, contents.scale)
    height, width, channels = pixels.shape
    magic = {1: "P5", 3: "P6"}[channels]
    path.write_bytes(f"{magic}\n{width} {height}\n255\n".encode() + pixels.tobytes())


register("pnm", sys.modules[__name__])
