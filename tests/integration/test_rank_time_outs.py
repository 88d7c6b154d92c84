"""How long ranks wait for each other, what their small exchanges go over, and how a rank leaves after an error."""

import sys
import time
from datetime import timedelta

import pytest
from support.patience import HANG_SEC
from torch import distributed

from n2s_dist.distributed import ranks as ranks_module
from n2s_dist.distributed.ranks import FOREVER, Ranks, lost_ranks_named
from n2s_dist.training.setup import patience_of


def exchange() -> None:
    """Rank 1 is late for the second exchange. Arguments: how long ranks wait, and how late it is, in seconds."""
    patience, late = map(float, sys.argv[1:])
    with lost_ranks_named():
        ranks = Ranks(patience=timedelta(seconds=patience))
        assert ranks.gather([ranks.rank, "x"]) == [0, "x", 1, "x"]
        assert ranks.sum([1.0, ranks.rank]) == [2.0, 1.0]
        ranks.barrier()
        time.sleep(late * ranks.rank)
        ranks.gather([0])
        ranks.close()


def test_a_rank_waits_as_long_as_it_is_told_to(fleet):
    pair = fleet(2, [20, 900], program=exchange)
    pair.ranks[0].join(HANG_SEC)
    assert pair.ranks[0].exitcode == 1 and "Traceback" not in pair.text("err")
    (line,) = pair.errors()
    assert "lost another rank" in line
    assert pair.ranks[1].is_alive()  # it is still late
    pair.kill()


def test_a_late_rank_is_waited_for(fleet):
    assert fleet(2, [120, 3], program=exchange).wait() == [0, 0]


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
