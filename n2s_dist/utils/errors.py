"""What a user did wrong, said in one clear line; broken promises of our own code stay asserts."""

import contextlib
import errno
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeVar

from n2s_dist.utils import mapped_files, streams

_SHARED = "/dev/shm"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
_OTHER_NAMES = {
    "lr": "learning_rate", "batch_size": "global_batch_size", "epochs": "total_samples", "steps": "total_samples",
    "iterations": "total_samples", "patch_size": "crop_size",
}  # fmt: skip
EX_TEMPFAIL = 75  # of sysexits.h: what the same command would finish was put off


class UserError(ValueError):
    """Something the user can mend. The message names what was wrong and what would be right."""


class RunFailed(RuntimeError):
    """A run can't go on, by no mistake of the command's: the message says where and why."""

    exit_code = 1


class Ended(RunFailed):
    """SIGTERM ended a rank before there was anything to save. Exit code 128 + SIGTERM, as shells have it."""

    exit_code = 143


class Stopped(Exception):
    """A run that was asked to stop did so, with all that it had learned on the disk. Exit code EX_TEMPFAIL."""

    def __init__(self, samples_seen: int, signal_name: str) -> None:
        super().__init__(f"stopped at {samples_seen:,} samples by {signal_name}: the same command goes on")


def nearest(word: str, valid: list[str]) -> str:
    """A hint such as ", did you mean 'crop_size'?", or an empty string when nothing is close."""
    leaf = word.rsplit(".", 1)[-1]
    leaf = _OTHER_NAMES.get(leaf, leaf)
    # "data.crop_sise", "dta.crop_size" and "crop_sise" all mean "data.crop_size"; only then may sections count.
    leaves = {name.rsplit(".", 1)[-1]: name for name in valid}
    close = [leaves[found] for found in get_close_matches(leaf, list(leaves), n=1, cutoff=0.6)]
    close = close or get_close_matches(word, valid, n=1, cutoff=0.8)
    return f", did you mean '{close[0]}'?" if close else ""


_speaker = 0  # the rank that this process speaks as, once it knows


def speak_as(rank: int) -> None:
    """Rank 0 speaks for all; others say which one they are."""
    global _speaker
    _speaker = rank


def print_rank0(message: str) -> None:
    """Print on rank 0 alone; for what every rank finds out by itself, before or without ranks that talk."""
    if _speaker == 0:
        print(message)


_warned: set[str] = set()


def warn_once(what: str, message: str) -> None:
    """Print a warning on stderr, the first time for `what` and in one process of many: rank 0, and no worker."""
    if _speaker == 0 and multiprocessing.parent_process() is None and what not in _warned:
        _warned.add(what)
        print(f"warning: {message}", file=sys.stderr)


def _of_full_disk(filename: str | None) -> str:
    """What is full: the disk, or the memory that processes share, which containers have little of."""
    where = f" while writing {filename}" if filename else ""
    shared = str(filename).startswith(f"{_SHARED}/")
    with contextlib.suppress(OSError):
        shared = shared or (not filename and shutil.disk_usage(_SHARED).free < 2**16)
    if shared:
        return (
            f"{_SHARED}, memory that processes share, is full{where}: clear it, or make it larger (docker's --shm-size)"
        )
    return f"the disk is full{where}: free some space and run the same command again"


E = TypeVar("E", bound=BaseException)


def of_all(error: E) -> E:
    """An error that all ranks raise, or that one says for all: rank 0 alone prints it."""
    return mark_told(error) if _speaker else error


def mark_told(error: E) -> E:
    """An error whose line is printed already, or by another rank."""
    error._is_told = True  # type: ignore[attr-defined]
    return error


def is_told(error: BaseException) -> bool:
    return getattr(error, "_is_told", False)


def described(error: BaseException) -> tuple[int, str] | None:
    """Exit code and line of an error that needs no traceback; None for a broken promise of our own.

    A full disk and paths that can't be used exit with 2 and name the path. An interrupt exits with 130.
    """
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, RunFailed):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, OSError) and error.errno in _FULL:
        return 2, _of_full_disk(error.filename)
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error.strerror):
        return 2, f"no temporary folder can be written ({error.strerror}): set TMPDIR to one that can"
    if isinstance(error, OSError) and error.errno in _UNUSABLE and error.filename:
        return 2, f"{error.filename} can't be used ({os.strerror(error.errno)}): give another, or mend this one"
    return None


def tell(error: BaseException, message: str) -> None:
    """Print an error's line on stderr, once; ranks other than 0 say which one they are."""
    if not is_told(error):
        line = message.replace("\n", "\\n")  # of a file's name
        print(f"error: {f'rank {_speaker}: ' if _speaker else ''}{line}", file=sys.stderr, flush=True)
        mark_told(error)


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command-line program: errors that `described` knows become one line on stderr and an exit code.

    Each rank says what it met, but for what all of them meet (of_all). A run that was stopped says so on stdout.
    """
    streams.guard()
    mapped_files.guard()
    try:
        code = main() or 0
    except Stopped as stop:
        print_rank0(str(stop))
        code = EX_TEMPFAIL
    except (Exception, KeyboardInterrupt) as error:
        known = described(error)
        if known is None:
            raise
        code, message = known
        tell(error, message)
    sys.exit(code)
