"""A process beside a rank that ends it when no thread of it gets to run Python any more.

    python -I -S sentinel.py LIMIT_SEC FIRST_LIMIT_SEC SIGNAL < signs of life

Nothing within the rank could: who hangs there holds Python's lock, and a timer of C code alone would go on through a
time in which all was suspended, and end the rank as it wakes. Here such a time shows: as a look that comes late, or as
the state of the rank.

A sign is a byte: "f" until the first step has ended, then ".". When none comes for too long the rank gets SIGNAL, upon
which it writes what its threads are doing, and then SIGKILL. It imports nothing but a little of the standard library.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

_LINGER_SEC = 1.0  # to write the stacks


def is_stopped(process: int) -> bool:
    """Whether a process is suspended by a signal or held by a debugger."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def watch(rank: int, limit_sec: float, first_limit_sec: float) -> bool:
    """Wait until the process `rank` has been silent for too long; False when it has ended."""
    tick = min(1.0, limit_sec / 10)
    silent_sec, sign, before = 0.0, b"f", time.monotonic()
    while silent_sec < (first_limit_sec if sign == b"f" else limit_sec):
        ready, _, _ = select.select([0], [], [], tick)
        now = time.monotonic()
        passed, before = now - before, now
        if ready:
            signs = os.read(0, 4096)
            if not signs:
                return False
            silent_sec, sign = 0.0, signs[-1:]
        elif os.getppid() != rank:
            return False
        elif not is_stopped(rank):
            silent_sec += min(passed, tick + 1)  # what is more, this process was suspended itself
    return True


def main() -> None:
    rank, (limit_sec, first_limit_sec) = os.getppid(), map(float, sys.argv[1:3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # these are for the rank, which may have much to do yet
    if not watch(rank, limit_sec, first_limit_sec):
        return
    with contextlib.suppress(OSError):
        print(
            f"\nerror: process {rank} has not got to run Python for {limit_sec:g} s (train.hang_sec): "
            "one of its threads, below, does not let the others",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    os.kill(rank, int(sys.argv[3]))
    time.sleep(_LINGER_SEC)
    os.kill(rank, signal.SIGKILL)


if __name__ == "__main__":
    main()
