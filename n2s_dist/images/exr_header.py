"""What an OpenEXR file's header says of its parts and channels, which its pixels are not needed for."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

MAGIC = b"\x76\x2f\x31\x01"
TYPES: dict[int, np.dtype] = {0: np.dtype(np.uint32), 1: np.dtype(np.float16), 2: np.dtype(np.float32)}
_MULTIPART, _DEEP, _LONGEST = 0x1000, 0x800, 2**24  # bits of the version; bytes of a header's words
_ONE_LEVEL = 0


@dataclass(frozen=True)
class Channel:
    """One channel. name: with its layer's, such as "diffuse.R". is_whole: whether it has a value at each pixel."""

    name: str
    dtype: np.dtype
    is_whole: bool

    @property
    def layer(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def letter(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Part:
    """One part. size: (height, width). compression: its number. has_copies: whether there are smaller copies of it."""

    name: str
    channels: tuple[Channel, ...]
    size: tuple[int, int]
    compression: int
    is_deep: bool
    has_copies: bool


def read_parts(stream: BinaryIO) -> list[Part]:
    """All parts of a file. stream: behind its magic number. Raises ValueError for damage."""
    (version,) = struct.unpack("<I", _exactly(stream, 4))
    parts: list[Part] = []
    while (said := _attributes(stream)) and len(parts) < 1000:
        parts.append(_part(said, bool(version & _DEEP)))
        if not version & _MULTIPART:
            break
    return parts


def _attributes(stream: BinaryIO) -> dict[str, bytes]:
    """A header's words by their names; none where the last header was."""
    said, room = {}, _LONGEST
    while name := _text(stream):
        _text(stream)  # its type
        (size,) = struct.unpack("<I", _exactly(stream, 4))
        room -= size
        if room < 0:
            raise ValueError("its header is longer than any")
        said[name] = _exactly(stream, size)
    return said


def _part(said: dict[str, bytes], is_deep: bool) -> Part:
    if not {"channels", "dataWindow", "compression"} <= said.keys():
        raise ValueError("its header lacks channels, dataWindow or compression")
    left, top, right, bottom = struct.unpack("<4i", said["dataWindow"])
    if right < left or bottom < top:
        raise ValueError(f"its dataWindow is ({left}, {top}) to ({right}, {bottom})")
    kind = said.get("type", b"").strip(b"\0").decode("latin-1")
    levels = said["tiles"][8] & 15 if len(said.get("tiles", b"")) == 9 else _ONE_LEVEL
    return Part(
        name=said.get("name", b"").decode("utf-8", "replace"),
        channels=tuple(_channels(said["channels"])),
        size=(bottom - top + 1, right - left + 1),
        compression=said["compression"][0],
        is_deep=is_deep or kind.startswith("deep"),
        has_copies=levels != _ONE_LEVEL,
    )


def _channels(data: bytes) -> list[Channel]:
    found = []
    while data and data[0]:
        name, _, rest = data.partition(b"\0")
        kind, _, across, down = struct.unpack("<iIii", rest[:16])
        if kind not in TYPES:
            raise ValueError(f"its channel {name!r} has values of type {kind}")
        found.append(Channel(name.decode("utf-8", "replace"), TYPES[kind], (across, down) == (1, 1)))
        data = rest[16:]
    return found


def _text(stream: BinaryIO) -> str:
    """A word that ends in a zero byte."""
    found = b""
    while (byte := _exactly(stream, 1)) != b"\0":
        found += byte
        if len(found) > 255:
            raise ValueError("its header has a name of more than 255 bytes")
    return found.decode("utf-8", "replace")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("it ends within its header")
    return data
