"""Faults of a run, one after another, on real ranks: each ends or goes on as docs/faults.md says, in bounded time.

Nothing that was saved before is lost, and nothing broken is saved.
"""

import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from support.forked_ranks import INTERRUPTED, TOTAL_SAMPLES, Start
from support.patience import SOON_SEC

from n2s_dist.distributed import consistency
from n2s_dist.models import checkpoint
from n2s_dist.training import tracking
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import RunFailed


@pytest.fixture
def arguments(tiny, tmp_path) -> list[object]:
    return [*tiny, *INTERRUPTED, "--run_dir", tmp_path / "run"]


def newest(tmp_path: Path) -> str:
    path = checkpoint.newest_valid(tmp_path / "run")
    return path.name if path else "none"


def test_a_rank_that_raises_ends_the_other_with_a_line(fleet, arguments, tmp_path):
    ranks = fleet(2, arguments, fault="raises", on=1, at=104)
    ranks.wait_for(104)
    begin = time.monotonic()
    assert ranks.wait() == [1, 1]
    assert time.monotonic() - begin < SOON_SEC
    assert "ZeroDivisionError: a mistake in the program" in ranks.text("err")
    (line,) = ranks.errors()
    assert "lost another rank" in line and "run the same command again" in line
    assert newest(tmp_path) == "samples-000000080"


def test_a_rank_that_is_killed_ends_the_other_with_a_line(fleet, arguments, tmp_path):
    ranks = fleet(2, arguments, fault="is_held", on=0, at=104)
    ranks.wait_for(104)
    begin = time.monotonic()
    ranks.signal(signal.SIGKILL, 0)
    assert ranks.wait() == [-signal.SIGKILL, 1]
    assert time.monotonic() - begin < SOON_SEC
    (line,) = ranks.errors()
    assert "rank 1: lost another rank" in line and "Traceback" not in ranks.text("err")
    assert not list((tmp_path / "run").glob("stacks*"))


def test_a_rank_that_hangs_is_found_and_all_ranks_say_where_they_are(fleet, arguments, tmp_path):
    ranks = fleet(2, [*arguments, "--train.hang_sec=3"], fault="hangs_here", on=1, at=104)
    ranks.wait_for(104)
    begin = time.monotonic()
    assert ranks.wait() == [1, 1]
    assert 2.5 < time.monotonic() - begin < SOON_SEC
    waiting, hanging = ((tmp_path / "run" / f"stacks-rank-{rank}.txt").read_text() for rank in range(2))
    assert "in hangs_here" in hanging and "in hangs_here" not in waiting and "in loop" in waiting
    for rank, stacks in enumerate((waiting, hanging)):
        said = f"error: rank {rank} has finished no step in time (train.hang_sec 3)"
        assert stacks.startswith(said) and stacks.count("hread 0x") > 2
        assert sum(line.startswith(said) and f"stacks-rank-{rank}.txt" in line for line in ranks.errors()) == 1
    assert "in hangs_here" in ranks.text("err")
    assert newest(tmp_path) == "samples-000000080"


def test_a_rank_that_hangs_with_pythons_lock_held_is_ended_from_beside_it(fleet, arguments, tmp_path):
    ranks = fleet(1, [*arguments, "--train.hang_sec=3"], fault="holds_pythons_lock", at=104)
    ranks.wait_for(104)
    begin = time.monotonic()
    assert ranks.wait() == [-signal.SIGKILL]
    assert 2.5 < time.monotonic() - begin < SOON_SEC
    assert "has not got to run Python for 3 s" in ranks.text("err") and "in holds_pythons_lock" in ranks.text("err")
    assert newest(tmp_path) == "samples-000000080"


def test_a_run_that_was_suspended_for_longer_than_its_limit_goes_on(fleet, arguments, undisturbed, tmp_path):
    """By signals, as Slurm suspends; all ranks, and whatever watches them or not."""
    ranks = fleet(2, [*arguments, "--train.hang_sec=3"], fault="naps", on=0, at=104)
    ranks.wait_for(104)
    for rank in range(2):
        ranks.signal(signal.SIGSTOP, rank)
    time.sleep(5)
    seen = ranks.samples_seen()
    for rank in range(2):
        ranks.signal(signal.SIGCONT, rank)
    assert ranks.wait() == [0, 0] and seen < TOTAL_SAMPLES, ranks.text("err")
    assert not list((tmp_path / "run").glob("stacks*"))
    last = tmp_path / "run" / "checkpoints" / undisturbed.name
    assert (last / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def test_a_run_leaves_no_process_behind(fleet, arguments):
    ranks = fleet(1, [*arguments, "--train.hang_sec=30"], fault="is_held", at=56)
    ranks.wait_for(56)
    beside = children(ranks.ranks[0].pid)
    assert beside
    ranks.signal(signal.SIGKILL, 0)
    ranks.wait()
    deadline = time.monotonic() + SOON_SEC
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in beside):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_that_does_not_hang_is_left_alone(fleet, arguments, tmp_path):
    """Limits count from the last step, and end with the run."""
    ranks = fleet(1, [*arguments, "--train.hang_sec=3"])
    begin = time.monotonic()
    assert ranks.wait() == [0], ranks.text("err")
    assert time.monotonic() - begin > 1.5 or len(ranks.steps(0)) == TOTAL_SAMPLES // 8
    assert not list((tmp_path / "run").glob("stacks*"))


def test_a_disk_that_is_full_stops_all_ranks_and_the_same_command_goes_on(fleet, arguments, undisturbed, tmp_path):
    ranks = fleet(2, arguments, fault="fills_the_disk", on=0, at=104)
    assert ranks.wait() == [2, 2]
    (line,) = ranks.errors()
    assert "the disk is full" in line and str(tmp_path / "run") in line and "Traceback" not in ranks.text("err")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["samples-000000080"]
    assert 160 <= ranks.samples_seen() < TOTAL_SAMPLES and not (tmp_path / "run" / "stopped").exists()
    again = fleet(2, arguments)
    assert again.wait() == [0, 0] and "going on from" in again.text()
    last = tmp_path / "run" / "checkpoints" / undisturbed.name
    assert (last / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_is_named_with_its_position_and_rank(fleet, arguments, tmp_path):
    """Of 8 positions from 104 on the second rank has 108 to 111; nothing is saved after it happened."""
    ranks = fleet(2, arguments, fault="turns_a_loss_into_nan", on=1, at=104)
    assert ranks.wait() == [1, 1]
    (line,) = ranks.errors()
    assert "the loss at position 109 (rank 1) is not finite" in line and "samples-000000080" in line
    assert newest(tmp_path) == "samples-000000080" and ranks.samples_seen() <= 120


def test_ranks_that_hold_different_weights_are_stopped_before_these_are_saved(fleet, arguments, tmp_path):
    """One bit of one weight of one rank, the least that can differ."""
    ranks = fleet(2, arguments, fault="flips_a_bit", on=1, at=152)
    assert ranks.wait() == [1, 1]
    (line,) = ranks.errors()
    assert "do not hold the same values of " in line and "at 160 samples (2 ranks, 2 versions)" in line
    assert newest(tmp_path) == "samples-000000080"


class OneOfThree:
    """Stands for a rank; the two others hold `others`, or what this one holds."""

    def __init__(self, others: dict | None = None, world_size: int = 3) -> None:
        self.others, self.world_size = others, world_size

    def gather(self, rows: list[dict]) -> list[dict]:
        self.own = dict(rows[0])
        return [self.others or self.own, *rows, self.others or self.own]


def test_one_bit_of_one_weight_is_named():
    """And of three ranks the odd one. Alone a rank has nobody to differ from."""
    weights = {f"layer{i}.weight": torch.randn(3, 5, generator=torch.Generator().manual_seed(i)) for i in range(3)}
    average = {name: weight.clone() for name, weight in weights.items()}
    moments = {0: {"exp_avg": torch.zeros(15), "step": torch.tensor(3.0)}}
    state, names = {"weights": weights, "average": average, "optimizer": {"state": moments}}, ["layer0.weight"]
    before = OneOfThree()
    consistency.check(before, 80, state, names)
    assert {"samples_seen", "layer1.weight", "average of layer2.weight", "exp_avg of layer0.weight"} <= {*before.own}

    weights["layer1.weight"].view(torch.int32)[2, 4] ^= 1
    with pytest.raises(RunFailed, match=r"values of layer1\.weight at 80 samples \(differing: rank\(s\) 1\)"):
        consistency.check(OneOfThree(before.own), 80, state, names)
    average["layer2.weight"][0, 0] += 1
    with pytest.raises(RunFailed, match=r"layer1\.weight and of 1 more"):
        consistency.check(OneOfThree(before.own), 80, state, names)
    with pytest.raises(RunFailed, match=r"samples_seen and of 2 more"):
        consistency.check(OneOfThree(before.own), 88, state, names)
    consistency.check(OneOfThree(world_size=1), 80, state, names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2**14,), (2**14 + 3,), (3, 2**14)])
def test_every_single_change_changes_the_fingerprint(dtype, shape):
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 50).abs().to(dtype)
    begin = int(consistency.fingerprint(tensor))
    assert int(consistency.fingerprint(tensor.clone())) == begin
    seen = {begin}
    for place in {0, tensor.numel() // 2, tensor.numel() - 1}:
        changed = tensor.clone()
        changed.view(-1).view(torch.uint8)[place * tensor.element_size()] ^= 1
        seen.add(int(consistency.fingerprint(changed)))
    assert len(seen) == 1 + len({0, tensor.numel() // 2, tensor.numel() - 1})
    if tensor.numel() > 1:  # two values that change places
        swapped = tensor.flatten()
        swapped[[0, -1]] = swapped[[-1, 0]]
        assert torch.equal(swapped, tensor.flatten()) or int(consistency.fingerprint(swapped)) != begin


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_taken(
    trained, tiny, run_training, tmp_path, damage
):
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    good, bad = checkpoint.newest_first(run_dir)[::-1]
    whole = (bad / "model.safetensors").read_bytes()
    content = bytearray((bad / "training_state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (bad / "training_state.pt").write_bytes(content[:-100] if damage == "truncated" else content)
    done = run_training(*tiny, "--run_dir", run_dir)
    assert done.code == 0 and f"passing over {bad}" in done.out and f"going on from {good}" in done.out
    assert checkpoint.newest_valid(run_dir) == bad and (bad / "model.safetensors").read_bytes() == whole


def test_a_clock_that_goes_backwards_changes_nothing(fleet, arguments, undisturbed, tmp_path):
    ranks = fleet(2, [*arguments, "--train.hang_sec=20"], fault="sets_the_clock_back", on=0, at=40)
    assert ranks.wait() == [0, 0], ranks.text("err")
    last = tmp_path / "run" / "checkpoints" / undisturbed.name
    assert (last / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"samples_per_sec": -' not in metrics and '"data_wait_frac": -' not in metrics


# --- wandb ------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Processes that a process has started, directly or not."""
    tree: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        tree.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += tree.get(one, [])
    return found[1:]


def test_training_goes_on_when_wandb_dies(fleet, arguments, environment, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setitem(environment, "WANDB_MODE", "offline")
    ranks = fleet(2, [*arguments, "--tracking.wandb=true"], fault="naps", on=0, at=56)
    ranks.wait_for(56)
    ended = children(ranks.ranks[0].pid)
    assert ended, "wandb has no process of its own"
    for pid in ended:
        os.kill(pid, signal.SIGKILL)
    seen = ranks.samples_seen()
    assert ranks.wait() == [0, 0] and seen < TOTAL_SAMPLES, ranks.text("err")
    assert ranks.text().count("wandb failed") == 1
    last = tmp_path / "run" / "checkpoints" / undisturbed.name
    assert (last / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert f'"samples_seen": {TOTAL_SAMPLES}, "loss"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def track_one_loss() -> None:
    """In the folder that the command line names."""
    tracking._INIT_TIMEOUT_SEC = tracking._FINISH_TIMEOUT_SEC = 2
    tracker = tracking.open_tracker(read_config([]), Path(sys.argv[1]), 0, is_main=True)
    tracker.log(40, {"loss": 1.0})
    tracker.close()


def test_a_wandb_server_that_never_answers_is_given_up(fleet, tmp_path, environment, monkeypatch):
    """It takes connections and is silent. Training starts offline, within the time that was given to the server.

    In a process of its own, since wandb remembers within one what it found before.
    """
    monkeypatch.delitem(environment, "WANDB_MODE")
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}", "WANDB_API_KEY": "0" * 40}
        tracked = fleet(1, [tmp_path], program=track_one_loss, apart={0: Start(variables=where)})
        assert tracked.wait() == [0], tracked.text("err")
    assert "wandb online: " in tracked.text() and "wandb is offline" in tracked.text()
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    assert '"loss": 1.0' in (tmp_path / "metrics.jsonl").read_text()
