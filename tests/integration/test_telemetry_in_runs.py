"""What real runs log of themselves: figures that add up, a slow rank that shows, profiles."""

import json
from pathlib import Path

import pytest
import torch
from support.rank_faults import SLOW_SEC
from torch import nn

from n2s_dist.models.score_model import build_score_model
from n2s_dist.training import telemetry
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import train
from n2s_dist.training.telemetry import flops_per_sample, matmul_peak

pytestmark = pytest.mark.usefixtures("cpu")


def metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_logs_adds_up(tiny, tmp_path):
    train(read_config([*tiny, "--run_dir", str(tmp_path / "run")]))
    rows = [row for row in metrics(tmp_path / "run") if "loss" in row]
    assert [row["samples_to_go"] for row in rows] == [120, 80, 40, 0]
    config = read_config(tiny)
    flops = flops_per_sample(build_score_model(config, 3), 3, 32)
    peak = matmul_peak(torch.device("cpu"), torch.float32, 1)  # the same measurement as the run's: it is cached
    for row in rows:
        assert row["samples_per_sec_per_rank"] == row["samples_per_sec"] > 0
        assert row["mfu"] == pytest.approx(flops * row["samples_per_sec"] / peak)
        assert 0 < row["step_ms_p50"] <= row["step_ms_p90"] <= row["step_ms_p99"]
        # 8 samples a step: no more steps fit into the interval than its rate says
        assert row["step_ms_p50"] * row["samples_per_sec"] / 8 < 2_000
        assert row["exchange_wait_frac"] == 0 and row["slowest_rank"] == 0 and row["straggler_ratio"] == 1
        assert row["step_ms_by_rank"] == [pytest.approx(row["step_ms_p50"], abs=1e-3)]
        assert 50 < row["memory_mib"] < 20_000
        assert 0 <= row["data_wait_frac"] < 1
        assert "loss_scale" not in row


def test_a_rank_made_slow_shows_as_the_straggler(fleet, tiny, tmp_path):
    """Rank 1 sleeps in each loss. Whole steps take equally long on both ranks; their own times tell who is slow."""
    arguments = [*tiny, "--train.total_samples=120", "--train.validate_every_samples=9999"]
    ranks = fleet(2, [*arguments, "--run_dir", tmp_path / "run"], fault="is_slow", on=1, at=8)
    assert ranks.wait() == [0, 0], ranks.text("err")
    for row in [row for row in metrics(tmp_path / "run") if "loss" in row][1:]:
        fast_ms, slow_ms = row["step_ms_by_rank"]
        assert row["slowest_rank"] == 1
        assert slow_ms > 1e3 * SLOW_SEC and slow_ms - fast_ms > 0.5 * 1e3 * SLOW_SEC
        assert row["straggler_ratio"] == pytest.approx(slow_ms / ((fast_ms + slow_ms) / 2), rel=1e-3)
        assert row["step_ms_p50"] > 1e3 * SLOW_SEC  # rank 0's whole steps
        assert row["exchange_wait_frac"] > 0.25  # half of the ranks wait for most of each step
        assert row["samples_per_sec_per_rank"] == pytest.approx(row["samples_per_sec"] / 2)


def test_a_profile_holds_the_steps_asked_for_and_changes_no_weight(tiny, trained, tmp_path, capsys):
    run_dir = tmp_path / "run"
    last = train(read_config([*tiny, "--run_dir", str(run_dir), "--train.profile_steps=4"]))
    assert (last / "model.safetensors").read_bytes() == (
        trained / "checkpoints" / last.name / "model.safetensors"
    ).read_bytes()
    assert [path.name for path in (run_dir / "profile").iterdir()] == ["rank-0.json"]
    assert str(run_dir / "profile" / "rank-0.json") in capsys.readouterr().out
    events = json.loads((run_dir / "profile" / "rank-0.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") in ("cpu_op", "user_annotation")]
    assert len([name for name in names if name.startswith("ProfilerStep#")]) == 4
    layers = len([m for m in build_score_model(read_config(tiny), 3).modules() if isinstance(m, nn.Conv2d)])
    assert len([name for name in names if name == "aten::conv2d"]) == 4 * layers


@pytest.mark.parametrize(("steps", "recorded"), [(7, 2), (3, 0)])
def test_a_run_that_ends_before_its_profile_keeps_what_there_is_and_says_so(tiny, tmp_path, capsys, steps, recorded):
    """The first five steps warm up."""
    run_dir, short = tmp_path / "run", [f"--train.total_samples={8 * steps}", "--train.profile_steps=100"]
    train(read_config([*tiny, *short, "--run_dir", str(run_dir)]))
    trace = run_dir / "profile" / "rank-0.json"
    if recorded:
        events = json.loads(trace.read_text())["traceEvents"]
        found = {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep#")}
        assert len(found) in (recorded, recorded + 1)  # the last begins when the run is over
    else:
        assert not trace.exists() and "profile_steps: the run was over" in capsys.readouterr().out


def test_the_names_that_depend_on_clocks_are_those_that_differ(trained, tiny, tmp_path):
    """All others repeat to the last bit."""
    train(read_config([*tiny, "--run_dir", str(tmp_path / "again")]))
    for first, again in zip(metrics(trained), metrics(tmp_path / "again"), strict=True):
        assert first.keys() == again.keys()
        assert {k: v for k, v in first.items() if k not in telemetry.CLOCKS} == {
            k: v for k, v in again.items() if k not in telemetry.CLOCKS
        }
