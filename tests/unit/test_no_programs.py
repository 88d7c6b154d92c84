"""Unit tests can start no program, no process and no training: each way there fails the test that takes it."""

import multiprocessing
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest

from n2s_dist.training import loop

WAYS: dict[str, Callable[[], object]] = {
    "run": lambda: subprocess.run(["true"], check=True),
    "popen": lambda: os.popen("true"),
    "system": lambda: os.system("true"),
    "fork": lambda: os.fork(),  # looked up when it is called, and not before
    "posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "process": lambda: multiprocessing.get_context("fork").Process(target=print).start(),
    "forkserver": lambda: multiprocessing.get_context("forkserver").Process(target=print).start(),
    "pool": lambda: ProcessPoolExecutor(2, multiprocessing.get_context("spawn")).submit(print),
    "step of training": lambda: loop.train_step(None, None),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_starts_a_program_or_trains_fails_whoever_catches_exceptions(way):
    with pytest.raises(pytest.fail.Exception, match="belongs to tests/integration"):
        try:
            WAYS[way]()
        except Exception:
            pytest.fail("caught")
