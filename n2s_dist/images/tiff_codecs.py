"""Which pages of TIFF files tifffile can decode, with the packages that are installed."""

from importlib.util import find_spec
from typing import Any

import tifffile

from n2s_dist.images.tiff_tags import GRAY, NEGATIVE, PALETTE, RGB

_ZSTD = (34926, 50000)


def undecodable(stored: Any) -> str:
    """Why tifffile can't decode a page; empty where it can."""
    if not has_codec(tifffile.TIFF.DECOMPRESSORS, int(stored.compression)):
        return f"is compressed by {getattr(stored.compression, 'name', stored.compression)}"
    if stored.predictor not in tifffile.TIFF.UNPREDICTORS:
        return f"has predictor {getattr(stored.predictor, 'name', stored.predictor)}"
    if stored.bitspersample not in (1, 8, 16, 32, 64):
        return f"packs {stored.bitspersample} bits"
    if int(stored.photometric) not in (NEGATIVE, GRAY, RGB, PALETTE) or stored.is_subsampled:
        return f"has colors of kind {getattr(stored.photometric, 'name', stored.photometric)}"
    return ""


def has_codec(codecs: Any, compression: int) -> bool:
    """Whether tifffile has one. zstd it counts always, and takes from Python 3.14 or imagecodecs."""
    there = compression not in _ZSTD or any(map(find_spec, ("compression", "imagecodecs")))
    return there and compression in codecs
