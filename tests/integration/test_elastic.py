"""One run on changing numbers of ranks: the same global batches, and the same weights but for rounding."""

import signal

import torch
from support.forked_ranks import INTERRUPTED, trained_positions

from n2s_dist.models import checkpoint
from n2s_dist.training.command_line import read_config
from n2s_dist.training.setup import start
from n2s_dist.utils.errors import EX_TEMPFAIL

TOTAL = 400
PLAN = [*INTERRUPTED, f"--train.total_samples={TOTAL}", "--train.device_batch_size=3"]


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in weights.values()])


def test_a_run_on_one_then_two_then_one_rank_trains_on_every_position_once(fleet, tiny, tmp_path):
    """Stopped by a signal in between; weights agree to float32's rounding, measured against how far they moved.

    Portions of at most 3 crops follow the share of the batch of 8: 4 of 2 on one rank, 2 of 2 on two.
    """
    whole = fleet(1, [*tiny, *PLAN, "--run_dir", tmp_path / "whole"])
    fleets, starts, said = [], [0], []
    for count, until in ((1, 104), (2, 248), (1, TOTAL)):
        arguments = [*tiny, *PLAN, "--run_dir", tmp_path / "run"]
        fleets.append(fleet(count, arguments, fault="is_held" if until < TOTAL else "", on=count - 1, at=until))
        fleets[-1].wait_for(until)
        if until < TOTAL:
            fleets[-1].signal(signal.SIGUSR1, count - 1)
            assert fleets[-1].wait() == [EX_TEMPFAIL] * count, fleets[-1].text("err")
            starts.append(fleets[-1].samples_seen())
        said.append(fleets[-1].text())
    assert fleets[-1].wait() == whole.wait() == [0]

    for micro_batches, text in zip((4, 2, 4), said, strict=True):
        assert f"each {micro_batches} x 2 crops a step" in text
    assert 104 <= starts[1] < starts[2] < TOTAL
    assert trained_positions(fleets, starts) == trained_positions([whole], [0]) == list(range(TOTAL))

    begin = flat(start(read_config([*tiny, *PLAN, f"--run_dir={tmp_path / 'begin'}"])).model.state_dict())
    one, changing = (
        flat(checkpoint.load_training_state(checkpoint.locate(tmp_path / name))["weights"]) for name in ("whole", "run")
    )
    assert not torch.equal(one, changing)  # they were summed in another order
    assert (one - changing).norm() < 1e-4 * (one - begin).norm()


def test_a_number_of_ranks_that_does_not_divide_the_batch_is_refused_and_nothing_changes(
    fleet, tiny, trained, tmp_path
):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    ranks = fleet(3, [*tiny, "--run_dir", trained])
    assert ranks.wait() == [2, 2, 2]
    (line,) = ranks.errors()
    assert "train.global_batch_size 8 does not divide over 3 ranks: take a multiple of 3" in line
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
