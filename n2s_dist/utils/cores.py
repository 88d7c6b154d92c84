"""How many cores this process may use: those it may run on, or fewer where a container's quota allows less time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """At least 1. root: of the file system that says so."""
    # Linux alone tells which cores a process may run on.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that control groups allow: this process's group, and all above it."""
    base = root / "sys/fs/cgroup"
    try:
        lines = os.fsdecode((root / "proc/self/cgroup").read_bytes()).splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            tops = [base, base / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [base / controllers, base / "cpu"]
        else:
            continue
        for top in tops:
            group = top / path.lstrip("/")
            for folder in [group, *group.parents]:
                if folder == top or folder.is_relative_to(top):
                    yield from _quota(folder)


def _quota(group: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # "max", or no such file: no quota
        words = (group / "cpu.max").read_text().split()
        yield int(words[0]) / int(words[1])
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            yield quota / int((group / "cpu.cfs_period_us").read_text())
