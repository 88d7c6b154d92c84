"""ND2, of Nikon's microscopes: each channel of each frame is an image. Read and not written.

T, P (positions) and Z count frames, C their channels. Frames are read one by one. White is what the file says of its
camera's bits.
"""

import contextlib
import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from n2s_dist.images.decoded import NUMBERS, Contents, DecodedImage, Series
from n2s_dist.images.optional import needed
from n2s_dist.images.scale import Scale
from n2s_dist.utils.errors import UserError

suffixes = (".nd2",)
is_lossless = True
precedence = 1
written_as = ".ome.tif"

_MAGIC = b"\xda\xce\xbe\x0a"
_OLD_MAGIC = b"\0\0\0\x0cjP  "  # JPEG 2000, which others have as well
_END, _END_SIZE = b"ND2 CHUNK MAP SIGNATURE 0000001!", 40
_FRAME = "YXS"


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    head = stream.read(8)
    if head[:4] != _MAGIC and not (head == _OLD_MAGIC and path.suffix.lower() == ".nd2"):
        return None
    nd2 = needed("nd2", path, "microscopes")
    if head == _OLD_MAGIC:
        raise UserError(f"{path} is an ND2 of the old kind, of JPEG 2000, which is not read here: save it anew")
    _check_end(stream)
    stream.seek(0)
    with warnings.catch_warnings(action="ignore"):  # what is wrong with a file is said in one line
        file = nd2.ND2File(_Unmapped(stream))
        sizes, dtype, said = dict(file.sizes), file.dtype, file.attributes
        channels, names, pixel_um = sizes.get("S", 1), _channels(file), _pixel_um(file)
    if dtype.name not in NUMBERS or channels not in (1, 3):
        raise UserError(f"{path} has {channels} values of type {dtype.name} at a pixel: convert them first")
    axes, left = _recorded({name: length for name, length in sizes.items() if name not in _FRAME}, said, path)
    series = Series(tuple(axes.items()), path.stem, names, pixel_um)
    bits = said.bitsPerComponentSignificant
    return Contents(
        format="nd2",
        kind="ND2 stack" if series.images > 1 else "ND2",
        size=(sizes["Y"], sizes["X"]),
        channels=channels,
        dtype=dtype,
        images=series.images,
        scale=Scale.of_bits(bits, 8 * dtype.itemsize) if dtype.kind == "u" else None,
        is_lossy=said.compressionType == "lossy",
        form=(file, sizes.get("C", 1)),
        notes=(f"the last {left} of its {axes['T'] + left} times lack frames, and are left out",) if left else (),
        series=(series,),
    )


class _Unmapped:
    """A stream that the package does not map into memory, where all pages that were read would stay."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _check_end(stream: BinaryIO) -> None:
    """ValueError for a file that was cut off: what it ends with says where all else is."""
    if stream.seek(0, 2) < _END_SIZE:
        raise ValueError("it ends early")
    stream.seek(-_END_SIZE, 2)
    if not stream.read(len(_END)) == _END:
        raise ValueError("it ends early, or its end is damaged")


def _recorded(axes: dict[str, int], said: Any, path: Path) -> tuple[dict[str, int], int]:
    """What counts images, of those that were recorded, and how many of the last times are left out for that.

    Raises UserError where frames are missing otherwise.
    """
    planned = math.prod(length for name, length in axes.items() if name != "C")
    if said.sequenceCount >= planned:
        return axes, 0
    times = axes.get("T", 1)
    whole = said.sequenceCount // (planned // times) if next(iter(axes)) == "T" else 0
    if not whole:
        raise UserError(f"{path} has {said.sequenceCount} frames of {planned}: save it whole, or a part that is")
    return axes | {"T": whole}, times - whole


def _channels(file: Any) -> tuple[str, ...]:
    with contextlib.suppress(Exception):  # names are worth no refusal
        return tuple(str(each.channel.name) for each in file.metadata.channels)
    return ()


def _pixel_um(file: Any) -> dict[str, float]:
    with contextlib.suppress(Exception):
        size = file.voxel_size()
        return {"X": float(size.x), "Y": float(size.y), "Z": float(size.z)}
    return {}


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    file, channels = contents.form
    shape = (channels, *contents.size, contents.channels)

    @lru_cache(1)  # channels of one frame follow each other
    def frame(number: int) -> np.ndarray:
        found = np.array(file.read_frame(number)).reshape(shape)
        if not found.any():
            raise ValueError("it holds nothing: the recording ended before it, or the file is damaged")
        return found

    def image(number: int) -> DecodedImage:
        return DecodedImage(frame(number // channels)[number % channels].copy())

    return image
