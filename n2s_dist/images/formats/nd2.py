"""ND2, of Nikon's microscopes: each channel of each frame is an image. Read and not written.

T, P (positions) and Z count frames, C their channels. Frames are read one by one. White is what the file says of its
camera's bits.
"""

import contextlib
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from n2s_dist.images.decoded import NUMBERS, Contents, DecodedImage, Stack
from n2s_dist.images.optional import needed
from n2s_dist.images.scale import Scale
from n2s_dist.utils.errors import UserError

suffixes = (".nd2",)
is_lossless = True
precedence = 1
written_as = ".ome.tif"

_MAGIC = b"\xda\xce\xbe\x0a"
_OLD_MAGIC = b"\0\0\0\x0cjP  "  # JPEG 2000, which others have as well
_FRAME = "YXS"


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    head = stream.read(8)
    if head[:4] != _MAGIC and not (head == _OLD_MAGIC and path.suffix.lower() == ".nd2"):
        return None
    nd2 = needed("nd2", path, "microscopes")
    if head == _OLD_MAGIC:
        raise UserError(f"{path} is an ND2 of the old kind, of JPEG 2000, which is not read here: save it anew")
    stream.seek(0)
    with warnings.catch_warnings(action="ignore"):  # what is wrong with a file is said in one line
        file = nd2.ND2File(stream)
        sizes, dtype, said = dict(file.sizes), file.dtype, file.attributes
        channels, names, pixel_um = sizes.get("S", 1), _channels(file), _pixel_um(file)
    if dtype.name not in NUMBERS or channels not in (1, 3):
        raise UserError(f"{path} has {channels} values of type {dtype.name} at a pixel: convert them first")
    height, width = sizes["Y"], sizes["X"]
    axes = tuple((name, length) for name, length in sizes.items() if name not in _FRAME)
    stack = Stack(axes, path.stem, names, pixel_um)
    bits = said.bitsPerComponentSignificant
    return Contents(
        format="nd2",
        kind="ND2 stack" if stack.images > 1 else "ND2",
        size=(height, width),
        channels=channels,
        dtype=dtype,
        images=stack.images,
        scale=Scale(0, 2**bits - 1) if dtype.kind == "u" and 1 < bits < 8 * dtype.itemsize else None,
        is_lossy=said.compressionType == "lossy",
        form=(file, sizes.get("C", 1)),
        stacks=(stack,),
    )


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
