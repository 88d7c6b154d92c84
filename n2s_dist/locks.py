"""Locks on files: who holds one is alone with what it guards, and lets go of it by ending, however that comes about."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def try_lock(path: Path, mode: str = "ab", shared: bool = False) -> Iterator[IO[bytes] | None]:
    """The file at `path`, locked until the end, or None when somebody else has it locked; made if it is missing.

    shared: with others that share it, but with none that does not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        # A lock on a file that was removed meanwhile keeps nobody out.
        yield file if is_at(file, path) else None  # type: ignore[misc]


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still is what its path names."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
