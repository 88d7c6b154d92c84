"""How long ranks wait for each other, what their small exchanges go over, and how a rank leaves after an error."""

import subprocess
import sys
from datetime import timedelta

import pytest
from support.forked_ranks import free_port
from torch import distributed

from n2s_dist.distributed import ranks as ranks_module
from n2s_dist.distributed.ranks import FOREVER
from n2s_dist.training.setup import patience_of

# Rank 1 is late for the second exchange.
_PROGRAM = """
import sys, time
from datetime import timedelta
from n2s_dist.distributed.ranks import Ranks, lost_ranks_named
from n2s_dist.utils.errors import run_command

def main():
    with lost_ranks_named():
        ranks = Ranks(patience=timedelta(seconds=float(sys.argv[1])))
        assert ranks.gather([ranks.rank, "x"]) == [0, "x", 1, "x"]
        assert ranks.sum([1.0, ranks.rank]) == [2.0, 1.0]
        ranks.barrier()
        time.sleep(float(sys.argv[2]) * ranks.rank)
        ranks.gather([0])
        ranks.close()

run_command(main)
"""


@pytest.fixture
def pair(environment):
    """Start both ranks: their patience and how late the second is, in seconds."""
    started = []

    def start(patience: float, late: float) -> list[subprocess.Popen]:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        for rank in range(2):
            own = {key: str(value) for key, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
            command = [sys.executable, "-c", _PROGRAM, str(patience), str(late)]
            started.append(subprocess.Popen(command, env={**environment, **own}, stderr=subprocess.PIPE, text=True))
        return started

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_rank_waits_as_long_as_it_is_told_to(pair):
    first, second = pair(patience=20, late=300)
    _, said = first.communicate(timeout=150)
    assert first.returncode == 1 and "lost another rank" in said and "Traceback" not in said
    assert second.poll() is None  # it is still late


def test_a_late_rank_is_waited_for(pair):
    assert [process.wait(150) for process in pair(patience=120, late=3)] == [0, 0]


def test_the_watchdog_comes_before_the_exchanges_time_out():
    """It says what all ranks were doing, and the first step has ten minutes at least."""
    assert timedelta(seconds=600) < patience_of(1.0) < timedelta(seconds=700)
    assert timedelta(seconds=3600) < patience_of(3600.0) < timedelta(seconds=3700)
    assert patience_of(0.0) == patience_of(1e9) == FOREVER > timedelta(hours=24)


@pytest.mark.parametrize(("backend", "way"), [("nccl", "abort"), ("cpu:gloo,cuda:nccl", "abort"), ("gloo", "destroy")])
def test_a_rank_that_failed_does_not_wait_for_exchanges_that_no_one_joins(monkeypatch, backend, way):
    ways = []
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: ways.append("destroy"))
    monkeypatch.setattr(distributed.distributed_c10d, "_abort_process_group", lambda: ways.append("abort"))
    ranks_module._leave()
    assert ways == [way]
