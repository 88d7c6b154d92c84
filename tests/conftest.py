"""Options of the tests, and their fixtures, which support/fixtures.py has."""

import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of NumPy, which reads it when it is imported

import pytest

from n2s_dist.utils.cores import usable_cores


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="many random kills and mutants instead of a few")


def pytest_xdist_auto_num_workers(config):
    """Half as many again as there are cores: a third of the time goes to waiting, for time-outs, servers and Slurm.

    Unit tests wait for nothing.
    """
    is_unit = all(Path(name.split("::")[0]).is_relative_to("tests/unit") for name in config.args)
    return usable_cores() if is_unit else 3 * usable_cores() // 2


def pytest_configure(config):
    """The fixtures import everything, for seconds: the process that only hands tests out to others does without."""
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        pytest.register_assert_rewrite("support.fixtures")
        config.pluginmanager.import_plugin("support.fixtures")
