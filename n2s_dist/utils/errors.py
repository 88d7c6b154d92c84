"""What a user did wrong, said in one clear line; broken promises of our own code stay asserts."""

import contextlib
import errno
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from difflib import get_close_matches

from n2s_dist.utils import mapped_files, streams

_SHARED = "/dev/shm"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS)
_OTHER_NAMES = {
    "lr": "learning_rate", "batch_size": "global_batch_size", "epochs": "total_samples", "steps": "total_samples",
    "iterations": "total_samples", "patch_size": "crop_size",
}  # fmt: skip
EX_TEMPFAIL = 75  # of sysexits.h: what the same command would finish was put off


class UserError(ValueError):
    """Something the user can mend. The message names what was wrong and what would be right."""


class RankError(UserError):
    """What one rank may meet alone, such as damage in a part of the shards that it reads."""


class RunFailed(RuntimeError):
    """A run can't go on, by no mistake of the command's: the message says where and why. Exit code 1."""


class RankFailed(RunFailed):
    """A failure that one rank may meet alone, such as of its network: that rank speaks for itself."""


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


def print_rank0(message: str) -> None:
    """Print on rank 0 alone; for what every rank finds out by itself, before or without ranks that talk."""
    if os.environ.get("RANK", "0") == "0":
        print(message)


_warned: set[str] = set()


def warn_once(what: str, message: str) -> None:
    """Print a warning on stderr, the first time for `what` and in one process of many: rank 0, and no worker."""
    if os.environ.get("RANK", "0") == "0" and multiprocessing.parent_process() is None and what not in _warned:
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


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command-line program: user errors become one line on stderr and exit code 2, without a traceback.

    What all ranks meet is said once on each node, whose files may differ; each rank says what it may have met alone
    (RankFailed, RankError, its disk or paths). An interrupt exits with 130. A full disk and paths that can't be used
    exit with 2 and name the path. A run that was stopped says so on stdout.
    """
    streams.guard()
    mapped_files.guard()
    alone = False
    try:
        code = main() or 0
    except Stopped as stop:
        print_rank0(str(stop))
        sys.exit(EX_TEMPFAIL)
    except UserError as error:
        code, message = 2, str(error)
        alone = isinstance(error, RankError)
    except RunFailed as error:
        code, message = 1, str(error)
        alone = isinstance(error, RankFailed)
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except OSError as error:
        code, alone = 2, True
        if error.errno in _FULL:
            message = _of_full_disk(error.filename)
        elif error.errno == errno.ENOENT and "temporary directory" in str(error.strerror):
            message = f"no temporary folder can be written ({error.strerror}): set TMPDIR to one that can"
        elif error.errno in _UNUSABLE and error.filename:
            message = f"{error.filename} can't be used ({os.strerror(error.errno)}): give another, or mend this one"
        else:
            raise
    else:
        sys.exit(code)
    if os.environ.get("LOCAL_RANK", "0") == "0" or code == 130 or alone:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
