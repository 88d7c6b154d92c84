"""A CZI's list of tiles, read and checked before Zeiss's library gets the file, which trusts what it reads there.

header ──► directory ──► an entry for each tile: its kind, its place in the file, its place in each dimension
"""

import struct
from typing import BinaryIO, NamedTuple

MAGIC = b"ZISRAWFILE"
_DIRECTORY, _TILE = b"ZISRAWDIRECTORY", b"ZISRAWSUBBLOCK"
_DIRECTORY_PLACE = 84  # where the header says the directory's
_SEGMENT, _HEAD = 32, 128  # bytes: of a segment's name and lengths; before a directory's first entry
_ENTRY = struct.Struct("<2siqiiB5xi")
_DIMENSION = struct.Struct("<4siifi")
_BLOCK = struct.Struct("<iiq2s26xi")  # lengths of its words, attachment and pixels; its own entry
_LEAST_BLOCK = 256  # bytes before its words
_MOST_DIMENSIONS = 20
# By their numbers; those that are left out have complex values or are colors with opacity.
KINDS = {0: "Gray8", 1: "Gray16", 2: "Gray32Float", 3: "Bgr24", 4: "Bgr48", 8: "Bgr96Float"}


class Tile(NamedTuple):
    """One tile. start: by each dimension. box: left, top, width and height in the scene. is_copy: a smaller one."""

    kind: int
    compression: int
    start: dict[str, int]
    box: tuple[int, int, int, int]
    is_copy: bool


def read_tiles(stream: BinaryIO) -> list[Tile]:
    """All tiles of a file. Raises ValueError for damage."""
    size = stream.seek(0, 2)
    (place,) = struct.unpack("<q", _exactly(stream, _DIRECTORY_PLACE, 8, size))
    name, _, used = struct.unpack("<16sqq", _exactly(stream, place, _SEGMENT, size))
    if name.rstrip(b"\0") != _DIRECTORY or used < _HEAD:
        raise ValueError("its list of tiles is not where its header says")
    data = _exactly(stream, place + _SEGMENT, used, size)
    (count,) = struct.unpack_from("<i", data)
    tiles, at = [], _HEAD
    for _ in range(count):
        tile, place, length = _tile(data, at)
        _check_block(stream, place, length, size)
        tiles.append(tile)
        at += length
    return tiles


def _tile(data: bytes, at: int) -> tuple[Tile, int, int]:
    """An entry of the list: its tile, the place of that one's block in the file, and the entry's length in bytes."""
    if at + _ENTRY.size > len(data):
        raise ValueError("its list of tiles ends early")
    schema, kind, place, part, compression, pyramid, count = _ENTRY.unpack_from(data, at)
    length = _ENTRY.size + count * _DIMENSION.size
    if schema != b"DV" or not 2 <= count <= _MOST_DIMENSIONS or at + length > len(data):
        raise ValueError("its list of tiles is damaged")
    if part:
        raise ValueError("its list has a tile in another file")
    found = {}
    for name, start, extent, _, stored in _DIMENSION.iter_unpack(data[at + _ENTRY.size : at + length]):
        found[name.rstrip(b"\0").decode("latin-1")] = start, extent, stored
    if not {"X", "Y"} <= found.keys():
        raise ValueError("its list has a tile without rows and columns")
    (left, width, wide), (top, height, high) = found.pop("X"), found.pop("Y")
    if width < 1 or height < 1:
        raise ValueError("its list has a tile of a size that can't be")
    is_copy = pyramid != 0 or (wide, high) not in ((width, height), (0, 0))
    start = {name: start for name, (start, _, _) in found.items()}
    return Tile(kind, compression, start, (left, top, width, height), is_copy), place, length


def _check_block(stream: BinaryIO, place: int, length: int, size: int) -> None:
    """ValueError where a tile's block is not what it says, or would end behind the file. length: of its entry."""
    head = _exactly(stream, place, _SEGMENT + _BLOCK.size, size)
    about, attached, pixels, schema, count = _BLOCK.unpack_from(head, _SEGMENT)
    end = place + _SEGMENT + max(_LEAST_BLOCK, 16 + length) + about + attached + pixels
    is_one = head.startswith(_TILE) and schema == b"DV" and _ENTRY.size + count * _DIMENSION.size == length
    if not is_one or min(about, attached, pixels) < 0 or end > size:
        raise ValueError("a tile is not what its list of them says")


def _exactly(stream: BinaryIO, place: int, length: int, size: int) -> bytes:
    if not 0 <= place <= size - length:
        raise ValueError("it ends before its list of tiles does")
    stream.seek(place)
    return stream.read(length)
