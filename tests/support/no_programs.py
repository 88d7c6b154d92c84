"""What unit tests do without: other programs, other processes and training, each of which fails the test that asks."""

import multiprocessing.process
import multiprocessing.util
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from n2s_dist.training import loop

# Every way of Python's own to another process comes by one of these; training comes by its step.
_WAYS = [
    (subprocess.Popen, "__init__"),
    (multiprocessing.process.BaseProcess, "start"),
    (multiprocessing.util, "spawnv_passfds"),
    *((os, name) for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system")),
    (loop, "train_step"),
]


def _refuse(what: str) -> Callable[..., None]:
    def refuse(*arguments: Any, **options: Any) -> None:
        # No Exception, so that no program under test can catch it and go on.
        pytest.fail(f"a unit test came to {what}: what starts a program or trains belongs to tests/integration")

    return refuse


@contextmanager
def nothing_is_started() -> Iterator[None]:
    """Inside, whatever starts a program, a process or a step of training raises pytest's Failed."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in _WAYS:
            patch.setattr(owner, name, _refuse(f"{owner.__name__}.{name}"))
        yield
