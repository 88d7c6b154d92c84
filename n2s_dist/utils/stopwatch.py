"""Where the time goes between a command and its first step. Clocks that nobody sets: they never go backwards."""

import os
import time
from pathlib import Path


class Stopwatch:
    """A stopwatch. already_sec: what had passed when it was made."""

    def __init__(self, already_sec: float = 0.0) -> None:
        self._started = self._last = time.monotonic() - already_sec
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Everything since the lap before was spent on this."""
        now = time.monotonic()
        self.seconds[name] = now - self._last
        self._last = now

    def __str__(self) -> str:
        """Their sum, and those that a person would notice."""
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items() if seconds >= 0.5)
        return f"{self._last - self._started:.1f} s" + (f" ({parts})" if parts else "")


def process_age_sec() -> float:
    """Since this process was started, interpreter and imports included; its processor time where no file says so."""
    try:
        stat = Path("/proc/self/stat").read_text()
    except OSError:  # not on every platform
        return time.process_time()
    # The 22nd field of proc(5)'s stat; the second, the program's name, may hold blanks.
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
