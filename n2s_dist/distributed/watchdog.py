"""A time limit for a step: a rank that hangs, or that waits for one that does, says where and ends.

All ranks finish a step at nearly the same time, since they exchange gradients in it. So when one hangs the
limits of all run out together, and all write what their threads were doing before the first one ends.

A time in which the process was suspended, as by Slurm or on a sleeping computer, does not count.
"""

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from n2s_dist.distributed import sentinel
from n2s_dist.utils.errors import warn_once

_FIRST_SEC = 600.0  # at least, for the first step: shards may have to come, a network to be compiled
_LINGER_SEC = 3.0  # for the other ranks to write their stacks before a launcher sees that one has ended
_LATE_SEC = 1.0  # a look that comes later than that was held up
# Not on every platform: without such a signal a hang that holds Python's lock goes unseen.
_WRITE_STACKS = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else 0


def longest_sec(limit_sec: float) -> float:
    """How long a process may take for a step, its first included, until a Watchdog of this limit ends it."""
    return max(limit_sec, _FIRST_SEC) + _LINGER_SEC


class Watchdog:
    """Ends this process when `beat` was not called for limit_sec (ten minutes before it first is); 0 never does.

    Writes the stacks of all threads to RUN_DIR/stacks-rank-N.txt and to stderr; exit code 1. A thread that hangs with
    Python's lock held can't be seen from here; then a process beside this one (sentinel.py) has the stacks written to
    stderr, by C code, and kills it.
    """

    def __init__(self, limit_sec: float, run_dir: Path, rank: int) -> None:
        self._limit_sec, self._rank = limit_sec, rank
        self.path = run_dir / f"stacks-rank-{rank}.txt"
        self._until, self._lock = time.monotonic() + max(limit_sec, _FIRST_SEC), threading.Lock()
        self._sign = b"f"
        self._sentinel: subprocess.Popen | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """A step has ended."""
        is_first = self._sign == b"f"
        with self._lock:
            self._until, self._sign = time.monotonic() + self._limit_sec, b"."
        if is_first:
            self._give_sign()  # at once: a hang before the next look is to count from here

    def __enter__(self) -> "Watchdog":
        if self._limit_sec and _WRITE_STACKS:
            self._sentinel = self._start_sentinel()
        if self._limit_sec:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._limit_sec:
            self._thread.join()
        if self._sentinel and self._sentinel.stdin:
            with contextlib.suppress(OSError):
                self._sentinel.stdin.close()
            self._sentinel.wait()

    def _start_sentinel(self) -> subprocess.Popen | None:
        """The process beside this one; without it only a hang that holds Python's lock goes unseen."""
        if sys.__stderr__ is not None:
            faulthandler.register(_WRITE_STACKS, sys.__stderr__)
        limits = [str(self._limit_sec), str(max(self._limit_sec, _FIRST_SEC)), str(int(_WRITE_STACKS))]
        try:
            started = subprocess.Popen(
                [sys.executable, "-I", "-S", sentinel.__file__, *limits], stdin=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            warn_once("sentinel", f"train.hang_sec: no process can be started ({error.strerror}), so some hangs stay")
            return None
        assert started.stdin
        os.set_blocking(started.stdin.fileno(), False)
        return started

    def _watch(self) -> None:
        tick = min(1.0, self._limit_sec / 10)
        before = time.monotonic()
        while before < self._until:
            if self._closed.wait(tick):
                return
            now = time.monotonic()
            with self._lock:
                late = now - before - tick
                if late > _LATE_SEC:
                    self._until += late
            before = now
            self._give_sign()
        said = f"error: rank {self._rank} has finished no step in time (train.hang_sec {self._limit_sec:g})"
        try:
            with self.path.open("w") as stream:
                self._write(stream, said)
            said += f"; {self.path} says what it was doing"
        except OSError as error:
            said += f"; {self.path} can't be written ({error.strerror})"
        if sys.__stderr__ is not None:
            with contextlib.suppress(OSError, ValueError):
                self._write(sys.__stderr__, f"\n{said}")  # a progress bar may stand on the line
        time.sleep(_LINGER_SEC)
        os._exit(1)

    def _give_sign(self) -> None:
        if self._sentinel and self._sentinel.stdin:
            with contextlib.suppress(OSError):  # it was killed, or is slow to read
                self._sentinel.stdin.write(self._sign)

    def _write(self, stream: TextIO, said: str) -> None:
        print(said, file=stream, flush=True)
        faulthandler.dump_traceback(stream, all_threads=True)
        stream.flush()
