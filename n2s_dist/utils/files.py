"""Files that are whole or not there: brought to the disk, renamed into place, known by their checksum."""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from n2s_dist.utils.errors import UserError, warn_once

_NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_LONGEST_NAME = 255  # bytes, on nearly all file systems


@contextlib.contextmanager
def atomic_write(path: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path in the same folder and with the same suffix; what is written there becomes `path` at the end.

    So `path` appears whole or not at all, and an error leaves what was there before. Its folder exists.
    durable: bring the bytes to the disk before the file gets its name.
    """
    partial = path.with_name(f".partial-{path.name}")
    if len(os.fsencode(partial.name)) > _LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        partial = path.with_name(f".partial-{digest}{path.suffix}")
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk; a warning where the file system knows no such thing."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and needs no telling
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise OSError(error.errno, error.strerror, str(path)) from None
        kind = "folders" if path.is_dir() else "files"
        warn_once(
            f"no fsync of {kind}",
            f"the file system of {path} can't be told to bring {kind} to the disk: a power cut may lose the last ones",
        )
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def expanded(key: str, path: str) -> str:
    """A path with ~, $NAME and ${NAME} replaced. key: what errors call it. Raises UserError where that can't be done.

    A shell does so for words that begin with them, but not in --key=~/path, and not in a file.
    """
    full = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111  # a URL is no Path
    if missing := re.search(r"\$(\w+|\{\w+\})", full):
        raise UserError(f"{key} is {path}: the environment has no {missing[1].strip('{}')}")
    if full.startswith("~"):
        raise UserError(f"{key} is {path}: no home folder is known for {full.split('/')[0]}; write the path in full")
    return full
