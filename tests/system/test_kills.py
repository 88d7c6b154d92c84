"""A run on two ranks that is killed again and again at random, and ends as if nothing had happened.

Fifty times with --thorough.
"""

import random
import signal
import time

import torch
from support.forked_ranks import INTERRUPTED, trained_positions

from n2s_dist.models import checkpoint
from n2s_dist.utils.errors import EX_TEMPFAIL

SAMPLES_A_KILL, SHORTEST = 120, 7  # how long the run is for each kill, and for how many at least


def test_random_kills_of_any_rank_at_any_moment_change_nothing(fleet, tiny, tmp_path, pytestconfig):
    """Weights equal to the last bit, no damaged checkpoint ever in sight, every position trained exactly once.

    Moments: some time after a step drawn at random, or during the start when the run has got there already.
    """
    kills = 50 if pytestconfig.getoption("thorough") else 4
    chance = random.Random(kills)
    total = SAMPLES_A_KILL * max(SHORTEST, kills)
    # Steps long enough that kills find the run in its middle.
    size = ["--network.widths=[16,24]", "--data.crop_size=32", "--train.checkpoint_every_samples=160"]
    plan = [*tiny, *INTERRUPTED, *size, f"--train.total_samples={total}", "--run_dir"]
    whole = fleet(2, [*plan, tmp_path / "whole"])
    assert whole.wait() == [0, 0], whole.text("err")
    undisturbed = checkpoint.locate(tmp_path / "whole")

    moments = sorted(chance.randrange(0, total // 2) for _ in range(kills))
    run_dir = tmp_path / "run"
    arguments = [*plan, run_dir]
    fleets, starts, codes = [], [], []
    for moment in moments:
        found = checkpoint.newest_first(run_dir)
        starts.append(int(found[0].name.split("-")[1]) if found else 0)
        fleets.append(fleet(2, arguments))
        number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
        if starts[-1] > total - 500:  # stops have brought it near its end: let it get no further
            number, moment = signal.SIGKILL, 0
        fleets[-1].wait_for(moment)
        time.sleep(chance.uniform(0, 0.1 if moment > starts[-1] else 0.4))
        for rank in chance.choice([[0], [1], [0, 1]]):
            fleets[-1].signal(number, rank)
        codes.append(fleets[-1].end_as_launcher())
        allowed = {1, EX_TEMPFAIL, -signal.SIGKILL, -signal.SIGTERM, 143}  # SIGTERM before it listens, 143 as it waits
        assert 0 not in codes[-1] and set(codes[-1]) <= allowed | {-signal.SIGUSR1}, fleets[-1].text("err")
    assert len(codes) == kills

    found = checkpoint.newest_first(run_dir)
    starts.append(int(found[0].name.split("-")[1]) if found else 0)
    fleets.append(fleet(2, arguments))
    assert fleets[-1].wait() == [0, 0], fleets[-1].text("err")

    for ranks, begin in zip(fleets, starts, strict=True):
        assert "passing over" not in ranks.text()
        assert "going on from" not in ranks.text() or f"samples-{begin:09d}\n" in ranks.text()
    last = run_dir / "checkpoints" / undisturbed.name
    assert checkpoint.newest_valid(run_dir) == last
    assert (last / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    same(checkpoint.load_training_state(last), checkpoint.load_training_state(undisturbed))
    assert trained_positions(fleets, starts) == list(range(total))
    left = [path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")]
    assert not left


def same(a: object, b: object) -> None:
    """Two states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b
