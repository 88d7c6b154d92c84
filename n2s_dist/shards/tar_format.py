"""The bytes of a shard: samples as they lie in a tar, and the index that says where.

    sample number n ──► KEY.npy (a tile) + KEY.json (where it comes from) ──► two tar members
    tar ──► walk ──► components ──► index, in the form that DALI's webdataset reader takes

Sizes and offsets follow from shapes and names alone, so a builder can write samples in any order.
Whatever a tar holds, reading it takes no more memory than its largest header and touches no other file.
"""

import io
import json
import math
import mmap
import tarfile
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from n2s_dist.utils.tar_members import BLOCK, BrokenTar, Component, members

INDEX_VERSION = "v1.2"
IMAGE_SUFFIXES = ("npy", "png", "jpg", "jpeg")
DTYPES = {"uint8": "|u1", "uint16": "<u2", "float16": "<f2"}
_NAMES = {np.dtype(descr): name for name, descr in DTYPES.items()}  # NumPy takes a while to say them
_RECORD = 10240  # tar pads archives to whole records of 20 blocks


@lru_cache(4096)
def _nameless_header(size: int) -> tuple[bytes, bytes, int]:
    """What a header of a file of that size has before and after its checksum, and the sum of that: all but the name."""
    info = tarfile.TarInfo()
    info.size, info.mode, info.mtime = size, 0o644, 0
    header = info.tobuf(tarfile.USTAR_FORMAT)
    before, after = header[:148], header[156:]
    return before, after, sum(before) + sum(b" " * 8) + sum(after)


def tar_header(name: str, size: int) -> bytes:
    """A ustar header with nothing in it that depends on when, where or by whom the shard is built.

    name: at most 100 ASCII characters. Headers of one size differ by name and checksum alone.
    """
    before, after, total = _nameless_header(size)
    letters = name.encode("ascii")
    return b"%b%b%06o\0 %b" % (letters, before[len(letters) :], total + sum(letters), after)


@cache
def npy_header(shape: tuple[int, ...], dtype: str = "uint8") -> bytes:
    """The header of a .npy file in C order, padded by NumPy to a multiple of 64 bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": DTYPES[dtype], "fortran_order": False, "shape": tuple(map(int, shape))}
    )
    return stream.getvalue()


def padded(size: Any, unit: int = BLOCK) -> Any:
    """An integer, or an array of them, rounded up to whole blocks."""
    return -(-size // unit) * unit


def description_json(description: dict) -> bytes:
    return json.dumps(description, sort_keys=True, separators=(",", ":")).encode()


def sample_size(npy_size: Any, json_size: Any) -> Any:
    """Bytes that one sample takes in its tar."""
    return 2 * BLOCK + padded(npy_size) + padded(json_size)


def sample_parts(key: str, tile: np.ndarray, description: dict) -> list[Any]:
    """The buffers that make up one sample, as they lie in the tar one after the other; the tile is not copied.

    tile: uint8, uint16 or float16 [H, W, C], in C order.
    """
    head, text = npy_header(tile.shape, _NAMES[tile.dtype]), description_json(description)
    npy_size = len(head) + tile.nbytes
    return [
        tar_header(f"{key}.npy", npy_size) + head,
        tile.data.cast("B"),
        bytes(padded(npy_size) - npy_size) + tar_header(f"{key}.json", len(text)) + text,
        bytes(padded(len(text)) - len(text)),
    ]


def tar_size(end_of_samples: int) -> int:
    """Bytes of a whole tar: two zero blocks, then padding to a whole record."""
    return padded(end_of_samples + 2 * BLOCK, _RECORD)


def samples_room(largest_tar: int) -> int:
    """Bytes of samples that fit in a tar of at most so many bytes."""
    return largest_tar // _RECORD * _RECORD - 2 * BLOCK


class TarSample(NamedTuple):
    """A key and its components, in the tar's order."""

    key: str
    components: tuple[Component, ...]


def walk(path: Path) -> Iterator[TarSample]:
    """The samples of a tar: runs of regular members that share what lies before the first dot.

    Raises BrokenTar for anything that another program would read differently or not at all: a broken
    header, a member beyond the end, a key that comes twice, a missing end.
    """
    components: list[Component] = []
    key, seen = "", set()
    for component in members(path):
        folder, _, file = component.name.rpartition("/")
        stem, _, suffix = file.partition(".")
        found = f"{folder}/{stem}" if folder else stem
        if found != key:
            if components:
                yield TarSample(key, tuple(components))
            if found in seen:
                raise BrokenTar(f"the sample {found} comes twice")
            seen.add(found)
            key, components = found, []
        if suffix in {other.suffix for other in components}:
            raise BrokenTar(f"{component.name} comes twice")
        components.append(component._replace(suffix=suffix))
    if components:
        yield TarSample(key, tuple(components))


def component_stream(content: mmap.mmap, part: Component) -> BinaryIO:
    """One component's bytes, as a file."""
    return io.BytesIO(content[part.offset : part.offset + part.size])


def index_text(samples: Iterable[TarSample]) -> str:
    """The .idx of a tar: for each sample and component suffix, offset, size and name."""
    lines = [
        " ".join(f"{c.suffix} {c.offset} {c.size} {'_'.join(c.name.split())}" for c in sample.components)
        for sample in samples
    ]
    return "\n".join([f"{INDEX_VERSION} {len(lines)}", *lines]) + "\n"


def parse_index(text: str, tar_bytes: int) -> np.ndarray:
    """Where each sample's image and description lie: int64 [samples, 5].

    Columns: place of the image's suffix in IMAGE_SUFFIXES, its offset and size, offset and size of the
    json (0 and 0 without one). Raises ValueError for anything else than an index of a tar of that size.
    """
    head, *lines = text.splitlines()
    if head != f"{INDEX_VERSION} {len(lines)}":
        raise ValueError(f"it begins with {head[:40]!r} and has {len(lines)} samples")
    spans = np.zeros((len(lines), 5), np.int64)
    for number, line in enumerate(lines):
        words = line.split(" ")
        if len(words) % 4:
            raise ValueError(f"line {number + 2} is not made of suffix, offset, size and name")
        found = {words[at]: (int(words[at + 1]), int(words[at + 2])) for at in range(0, len(words), 4)}
        suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in found), None)
        if suffix is None:
            raise ValueError(f"line {number + 2} names no image ({', '.join(IMAGE_SUFFIXES)})")
        spans[number] = (IMAGE_SUFFIXES.index(suffix), *found[suffix], *found.get("json", (0, 0)))
    if (
        (spans < 0).any()
        or (spans[:, 1:5] > tar_bytes).any()
        or (spans[:, [1, 3]] + spans[:, [2, 4]] > tar_bytes).any()
    ):
        raise ValueError("it points outside the tar")
    return spans


@lru_cache(4096)
def _header_of(header: bytes) -> tuple[tuple[int, int, int], str]:
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("a .npy header of another version than 1.0")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran_order and len(shape) > 1:
        raise ValueError("a tile in Fortran order: write it in C order")
    if dtype.name not in DTYPES or dtype.str != DTYPES[dtype.name]:
        raise ValueError(f"a tile of {dtype.str}: expected one of {', '.join(DTYPES)}")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"a tile of shape {shape}: expected [H, W] or [H, W, C]")
    height, width, channels = shape if len(shape) == 3 else (*shape, 1)
    return (height, width, channels), dtype.name


def parse_npy(buffer: mmap.mmap, offset: int, size: int) -> tuple[int, tuple[int, int, int], str]:
    """Offset of a tile's pixels, its shape [H, W, C] and its dtype, from the bytes of its .npy in a buffer.

    Tiles of one size share one header, which is parsed once. Raises ValueError for what is not such a tile.
    """
    header_size = 10 + int.from_bytes(buffer[offset + 8 : offset + 10], "little")
    if header_size > size:
        raise ValueError("a .npy header longer than its file")
    try:
        shape, dtype = _header_of(buffer[offset : offset + header_size])
    except (SyntaxError, TokenError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise ValueError(f"a broken .npy header ({type(error).__name__})") from None
    if header_size + math.prod(shape) * np.dtype(dtype).itemsize != size:
        raise ValueError(f"a tile of shape {shape} and type {dtype} in {size} bytes")
    return offset + header_size, shape, dtype
