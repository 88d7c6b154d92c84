"""Take images out of a zip or tar archive that nobody vouches for.

Images are written flat, under the last part of their names, into a folder that holds nothing else: no member can lie
elsewhere. Links, devices and all that is no image stay in the archive.
"""

import errno
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from n2s_dist.datasets.download import LARGEST_BYTES
from n2s_dist.utils.errors import UserError

_CHUNK = 2**20
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OverflowError,
    struct.error,
)
_LARGEST_READ = 2**24  # tarfile reads extended headers in one piece, however large they claim to be


class Member(NamedTuple):
    name: str
    size: int  # as declared, in bytes
    is_file: bool
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool], most_bytes: int = LARGEST_BYTES) -> int:
    """Write the wanted members of a zip, tar or tar.gz archive into an empty folder; returns how many.

    Raises UserError for a damaged archive, one with a member that points outside, one that declares more than
    `most_bytes`, and one with two images of one name.
    """
    try:
        return _unpack(archive, folder, wanted, most_bytes)
    except UserError:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # neither broken gzip and bzip2 data nor an impossible offset
            raise
        raise UserError(f"{archive} is damaged ({error})") from None
    except _DAMAGE as error:
        raise UserError(f"{archive} is damaged or is not a zip or tar archive ({error})") from None
    except (NotImplementedError, RuntimeError) as error:  # how zipfile reports encryption and rare compressions
        raise UserError(f"{archive} can't be unpacked ({error}): unpack it and give the folder") from None


def _unpack(archive: Path, folder: Path, wanted: Callable[[str], bool], most_bytes: int) -> int:
    total, written = 0, 0
    for member in _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive):
        total += member.size
        if total > most_bytes:
            raise UserError(f"{archive} unpacks to more than {most_bytes / 2**20:.0f} MiB: that is no set of images")
        parts = member.name.replace("\\", "/").split("/")
        if parts[0] == "" or ".." in parts or "\0" in member.name or len(os.fsencode(parts[-1])) > 255:
            raise UserError(
                f"{archive} holds '{member.name[:80]}', no name of a file inside it: don't trust this archive"
            )
        if not member.is_file or not wanted(member.name):
            continue
        target = folder / parts[-1]
        if target.exists():
            raise UserError(f"{archive} holds two images with the name {parts[-1]}")
        with member.open() as source:
            _copy(source, target, member.size, archive)
        written += 1
    return written


def _copy(source: IO[bytes], target: Path, size: int, archive: Path) -> None:
    """Copy what should be `size` bytes, and stop where more come."""
    left = size
    with target.open("xb") as out:
        while chunk := source.read(min(_CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise UserError(f"{archive}, {target.name}: more data than the {size} bytes it declares")
            out.write(chunk)
    if left:
        raise EOFError(f"{target.name} ends {left} bytes early")


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_file = not info.is_dir() and kind in (0, stat.S_IFREG)
            yield Member(info.filename, info.file_size, is_file, partial(opened.open, info))


def _tar_members(archive: Path) -> Iterator[Member]:
    with archive.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        wary = _Wary(gzip.GzipFile(fileobj=stream) if compressed else stream)
        with tarfile.open(fileobj=wary, mode="r:") as opened:  # type: ignore[call-overload]
            while (info := opened.next()) is not None:
                opened.members.clear()  # type: ignore[attr-defined]
                yield Member(info.name, info.size, info.isreg(), partial(opened.extractfile, info))  # type: ignore[arg-type]


class _Wary:
    """A stream for tarfile that refuses to bring more than a little into memory at once."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)
