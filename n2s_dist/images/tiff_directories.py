"""The directories (IFDs) of a TIFF file: whether their chain is whole, and how to hang EXIF onto one.

tifffile reads EXIF but does not write it, and it ends quietly where a chain breaks.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL.TiffImagePlugin import ImageFileDirectory_v2

EXIF, GPS = 34665, 34853  # tags of directories below a page's own
_INTEROPERABILITY = 40965
_LONG, _IFD8 = 4, 18  # types of offsets
_MOST = 1_000_000  # directories of one file

Directories = dict[int, ImageFileDirectory_v2]  # by tag: EXIF and GPS of one page


class _Layout(NamedTuple):
    """How a file's numbers are written. header: its first bytes, for Pillow."""

    order: str
    is_big: bool
    header: bytes

    @classmethod
    def of(cls, stream: BinaryIO) -> "_Layout":
        stream.seek(0)
        header = stream.read(16)
        order = {b"II": "<", b"MM": ">"}[header[:2]]
        is_big = struct.unpack(order + "H", header[2:4])[0] == 43
        return cls(order, is_big, header if is_big else header[:8])

    @property
    def offset(self) -> str:
        return self.order + ("Q" if self.is_big else "I")

    @property
    def length(self) -> str:
        return self.order + ("Q" if self.is_big else "H")

    @property
    def entry(self) -> int:
        return 20 if self.is_big else 12


class _Directory(NamedTuple):
    pointer: int  # where the file says where the directory begins
    entries: list[bytes]
    following: int  # where it says where the next one begins


def _unpack(stream: BinaryIO, at: int, kind: str) -> int:
    stream.seek(at)
    data = stream.read(struct.calcsize(kind))
    if len(data) < struct.calcsize(kind):
        raise ValueError(f"it ends at byte {at + len(data)}, within its list of pages")
    return struct.unpack(kind, data)[0]


def _walk(stream: BinaryIO, layout: _Layout) -> Iterator[_Directory]:
    """The directories of a file's pages. Raises ValueError for a chain that is broken."""
    size = stream.seek(0, 2)
    seen: set[int] = set()
    pointer = 8 if layout.is_big else 4
    while (at := _unpack(stream, pointer, layout.offset)) != 0:
        if at in seen or at >= size or len(seen) == _MOST:
            raise ValueError(f"page {len(seen) + 1} is said to begin at byte {at} of {size}")
        seen.add(at)
        first = at + struct.calcsize(layout.length)
        number = _unpack(stream, at, layout.length)
        data = stream.read(number * layout.entry)
        following = first + number * layout.entry
        yield _Directory(pointer, [data[i : i + layout.entry] for i in range(0, len(data), layout.entry)], following)
        pointer = following


def check_chain(stream: BinaryIO) -> int:
    """How many pages a file has. Raises ValueError where their chain is broken."""
    return sum(1 for _ in _walk(stream, _Layout.of(stream)))


def read_directory(stream: BinaryIO, offset: int) -> ImageFileDirectory_v2:
    """The directory at an offset, such as EXIF's, without what points further on."""
    directory = ImageFileDirectory_v2(_Layout.of(stream).header)
    stream.seek(offset)
    directory.load(stream)
    return _without_pointers(directory)


def new_directory(values: Mapping[int, Any]) -> ImageFileDirectory_v2:
    """A directory of these tags."""
    directory = ImageFileDirectory_v2()
    for tag, value in values.items():
        directory[tag] = value
    return _without_pointers(directory)


def _without_pointers(directory: ImageFileDirectory_v2) -> ImageFileDirectory_v2:
    for tag in [tag for tag in directory if tag in (_INTEROPERABILITY, EXIF, GPS)]:
        del directory[tag]
    return directory


def add_directories(path: Path, pages: list[Directories]) -> None:
    """Hang EXIF and GPS onto the pages of a file that is there. pages: those of each."""
    with path.open("r+b") as stream:
        layout = _Layout.of(stream)
        for number, below in enumerate(pages):
            if not below:
                continue
            page = next(each for place, each in enumerate(_walk(stream, layout)) if place == number)
            entries = list(page.entries)
            for tag, directory in below.items():
                at = _end(stream)
                copy = ImageFileDirectory_v2(layout.header)
                copy.tagtype.update(directory.tagtype)
                for key, value in directory.items():
                    copy[key] = value
                stream.write(copy.tobytes(at))
                kind = _IFD8 if layout.is_big else _LONG
                entries.append(struct.pack(layout.order + "HH" + layout.offset[1] * 2, tag, kind, 1, at))
            entries.sort(key=lambda entry: struct.unpack(layout.order + "H", entry[:2]))
            following = _unpack(stream, page.following, layout.offset)
            at = _end(stream)
            stream.write(struct.pack(layout.length, len(entries)) + b"".join(entries))
            stream.write(struct.pack(layout.offset, following))
            stream.seek(page.pointer)
            stream.write(struct.pack(layout.offset, at))


def _end(stream: BinaryIO) -> int:
    """The file's end, on an even byte, as TIFF wants."""
    size = stream.seek(0, 2)
    return size + stream.write(b"\0") if size % 2 else size
