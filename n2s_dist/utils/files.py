"""Files that are whole or not there: brought to the disk, renamed into place, known by their checksum."""

import argparse
import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from n2s_dist.utils.errors import UserError, warn_once

_NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
LONGEST_NAME = 255  # bytes, on nearly all file systems


@contextlib.contextmanager
def atomic_write(path: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path in the same folder and with the same suffix; what is written there becomes `path` at the end.

    So `path` appears whole or not at all, and an error leaves what was there before. Its folder exists.
    durable: bring the bytes to the disk before the file gets its name.
    """
    partial = path.with_name(f".partial-{path.name}")
    if is_too_long(partial.name):
        partial = path.with_name(f".partial-{_digest(path.name)}{path.suffix}")
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a folder. What is there under its name is replaced; a kill between leaves that as .replaced-NAME."""
    partial, before = (path.with_name(f".{word}-{path.name}") for word in ("partial", "replaced"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(before, ignore_errors=True)
            path.rename(before)
        partial.rename(path)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_too_long(name: str) -> bool:
    """Whether a file's name has more bytes than file systems take."""
    return len(os.fsencode(name)) > LONGEST_NAME


def fitting_name(stem: str, ending: str) -> str:
    """A path made of both, the stem's last part cut and told apart by its checksum where the name would be too long."""
    folder, slash, name = stem.rpartition("/")
    if is_too_long(name + ending):
        name = f"{name[:40]}~{_digest(name)}"
    return f"{folder}{slash}{name}{ending}"


def as_utf8(name: str) -> str:
    """A file's name as it is in UTF-8 locales, whatever this process takes names for; other bytes stay escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


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


def path_text(text: str) -> str:
    """An option's path with ~ replaced, which a shell does not do in --out=~/path. For argparse's `type`."""
    full = os.path.expanduser(text)  # noqa: PTH111  # a name or a URL is no Path
    if full.startswith("~") and not Path(full).exists():
        user = full.split("/")[0]
        raise argparse.ArgumentTypeError(f"no home folder is known for {user}: write the path in full, or ./{text}")
    return full


def path_option(text: str) -> Path:
    """The same as a Path."""
    return Path(path_text(text))


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
