"""A time limit for a step: a rank that hangs, or that waits for one that does, says where and ends.

All ranks finish a step at nearly the same time, since they exchange gradients in it. So when one hangs the
limits of all run out together, and all write what their threads were doing before the first one ends.
"""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

_FIRST_SEC = 600.0  # at least, for the first step: shards may have to come, a network to be compiled
_LINGER_SEC = 3.0  # for the other ranks to write their stacks before a launcher sees that one has ended


class Watchdog:
    """Ends this process when `beat` was not called for limit_sec (ten minutes before it first is); 0 never does.

    Writes the stacks of all threads to RUN_DIR/stacks-rank-N.txt and to stderr; exit code 1. A thread that
    hangs with Python's lock held can't be seen from Python; at twice the limit C code then writes to stderr.
    """

    def __init__(self, limit_sec: float, run_dir: Path, rank: int) -> None:
        self._limit_sec, self._rank = limit_sec, rank
        self.path = run_dir / f"stacks-rank-{rank}.txt"
        self._until = time.monotonic() + max(limit_sec, _FIRST_SEC)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """A step has ended."""
        self._until = time.monotonic() + self._limit_sec

    def __enter__(self) -> "Watchdog":
        if self._limit_sec:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._limit_sec:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            if sys.__stderr__ is not None:
                faulthandler.dump_traceback_later(left + self._limit_sec + _LINGER_SEC, exit=True, file=sys.__stderr__)
            if self._closed.wait(min(left, self._limit_sec)):
                return
        said = f"error: rank {self._rank} has finished no step in time (train.hang_sec {self._limit_sec:g})"
        try:
            with self.path.open("w") as stream:
                self._write(stream, said)
            said += f"; {self.path} says what it was doing"
        except OSError as error:
            said += f"; {self.path} can't be written ({error.strerror})"
        if sys.__stderr__ is not None:
            self._write(sys.__stderr__, f"\n{said}")  # a progress bar may stand on the line
        time.sleep(_LINGER_SEC)
        os._exit(1)

    def _write(self, stream: TextIO, said: str) -> None:
        print(said, file=stream, flush=True)
        faulthandler.dump_traceback(stream, all_threads=True)
        stream.flush()
