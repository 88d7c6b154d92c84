"""The members of a tar, whatever it holds: no more memory than its largest header, no other file touched."""

import mmap
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

BLOCK = 512


class Component(NamedTuple):
    """One file of a sample: its suffix in the key's sense ("npy"), where its bytes lie, and its whole name."""

    suffix: str
    offset: int
    size: int
    name: str


class BrokenTar(ValueError):
    """What is wrong with a tar, without its path: the caller knows that."""


def mapped(file: BinaryIO) -> mmap.mmap:
    """A file's bytes, without reading them."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def members(path: Path) -> Iterator[Component]:
    """The regular members of a tar, their suffixes still empty. Raises BrokenTar.

    tarfile reads long names and PAX headers, but ends quietly at damage, which this does not. It reads
    a memory map, which a header that promises gigabytes can't make it allocate.
    """
    try:
        with path.open("rb") as file, mapped(file) as stream:
            with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
                    if not member.isreg():
                        continue
                    if member.size < 0 or member.offset_data + member.size > len(stream):
                        raise BrokenTar(f"{member.name[:80]!r} reaches beyond the end")
                    if member.issparse():
                        raise BrokenTar(f"{member.name[:80]!r} is a sparse file")
                    yield Component("", member.offset_data, member.size, member.name.removeprefix("./"))
                end = tar.offset
            if stream[end : end + 2 * BLOCK] != bytes(2 * BLOCK):
                raise BrokenTar(f"there is no tar header at byte {end}, and no end either")
    except BrokenTar:
        raise
    except (tarfile.TarError, ValueError, OSError, EOFError, OverflowError, LookupError, RecursionError) as error:
        raise BrokenTar(str(error)[:200] or type(error).__name__) from None
