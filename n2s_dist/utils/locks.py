"""Locks on files: who holds one is alone with what it guards, and lets go of it by ending, however that comes about."""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from n2s_dist.utils import windows_locks
from n2s_dist.utils.errors import UserError, warn_once

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def try_lock(path: Path, mode: str = "ab", shared: bool = False, optional: bool = False) -> Iterator[IO[bytes] | None]:
    """The file at `path`, locked until the end, or None when somebody else has it locked; made if it is missing.

    shared: with others that share it, but with none that does not. optional: on a file system without locks nobody is
    kept out, with a warning; otherwise that is an OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        try:
            _lock(file, shared)
        except BlockingIOError:
            yield None
            return
        except OSError as error:
            if not optional or error.errno not in _NO_LOCKS:
                raise OSError(error.errno, error.strerror, str(path)) from None
            warn_once(
                "no locks", f"{path.parent} is on a file system without locks: see that no other process works there"
            )
        # A lock on a file that was removed meanwhile keeps nobody out.
        yield file if is_at(file, path) else None  # type: ignore[misc]


def _lock(file: IO[Any], shared: bool) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError where another has it, else OSError."""
    if fcntl is None:
        windows_locks.lock(file, shared)
    else:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


@contextlib.contextmanager
def alone_in(
    folder: Path, patience_sec: float = 120.0, name: str = "lock", gives_up: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """No other process is in here with the same folder and name; UserError where one is.

    A shared file system may hold the lock of a node that was lost for a minute or more, so a holder elsewhere gets
    patience_sec to go, unless gives_up. Where the file system has no locks nobody is kept out.
    """
    path, here, waited_until = folder / name, socket.gethostname(), time.monotonic() + patience_sec
    while True:
        with try_lock(path, "a+b", optional=True) as lock:
            if lock:
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {here}".encode())
                lock.flush()
                try:
                    yield
                finally:
                    with contextlib.suppress(PermissionError):  # Windows removes no file that is open
                        path.unlink(missing_ok=True)
                    with contextlib.suppress(OSError):  # not empty, as it should be by now
                        folder.rmdir()
                return
        holder = path.read_text(errors="replace") if path.is_file() else ""
        if holder.endswith(f" on {here}") or time.monotonic() > waited_until or gives_up():
            raise UserError(
                f"{holder or 'another process'} works in {folder}: wait for it, stop it, or choose another folder; "
                f"if it is gone, remove {path}"
            )
        time.sleep(1)


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still is what its path names."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
