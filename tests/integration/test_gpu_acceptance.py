"""tools/gpu_acceptance: parts within budgets of time, a short run that leaves its weights, one JSON and one text."""

import json
import os
import subprocess
import time

import pytest
import torch
from support.paths import ROOT

from n2s_dist.inference.network_choice import load_denoiser


@pytest.fixture
def tool(load_tool, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    return load_tool("gpu_acceptance")


def test_what_does_not_fit_says_so_and_keeps_what_it_found(tool, tmp_path):
    """As does what fails; the parts after them are measured."""
    report = tool.Report(tmp_path / "a.json")

    def endless(found):
        found["first"] = 1
        time.sleep(600)

    def broken(found):
        found["first"] = 2
        raise ValueError("no such kernel")

    report.add("slow", 0.2, endless)
    report.add("broken", 60, broken)
    report.add("whole", 60, lambda found: found.update(first=3))
    parts = json.loads((tmp_path / "a.json").read_text())
    assert [part["first"] for part in parts.values()] == [1, 2, 3]
    assert "did not fit into 0 s" in parts["slow"]["left_out"] and parts["slow"]["took_sec"] < 300
    assert parts["broken"]["error"] == "ValueError: no such kernel"
    assert report.named("left_out") == ["slow"] and report.named("error") == ["broken"]


def test_the_budgets_and_the_tests_fit_into_eight_minutes(tool, monkeypatch, tmp_path):
    """On a CPU, where no test needs a GPU; every part has a budget and none is measured here."""
    budgets = {}
    monkeypatch.setattr(tool.Report, "add", lambda self, part, budget, measure: budgets.update({part: budget}))
    monkeypatch.setattr("sys.argv", ["gpu_acceptance.py", "--out", str(tmp_path), "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        tool.main()
    assert end.value.code == 0
    assert list(budgets) == ["environment", "shards", "loader", "step", "training", "inference"]
    assert sum(budgets.values()) <= 460
    assert list(tmp_path.iterdir()) == []  # no scratch is left


def test_a_short_run_leaves_metrics_and_weights(tool, tiny, shards, tmp_path):
    found = {}
    tool.training(found, [*tiny, "--train.total_samples=1000000"], shards, tmp_path / "run", 0.5)
    assert found["samples_seen"] >= 40 and found["loss"] > 0 and found["samples_per_sec"] > 0
    assert found["wall_sec"] >= found["start_sec"] + 0.5
    denoised, _ = load_denoiser(found["weights"], torch.device("cpu"))(torch.rand(3, 32, 32), "gaussian:25")
    assert denoised.shape == (3, 32, 32)


def test_a_run_that_fails_says_why(tool, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no such shards\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with pytest.raises(RuntimeError, match="exit code 2: no such shards"):
        tool.training({}, [], tmp_path / "nowhere", tmp_path / "run", 0.5)


@pytest.mark.parametrize("code", [0, 1])
def test_the_script_keeps_the_text_and_the_exit_code(tmp_path, code):
    """From any folder, by a Python that only says what it was asked."""
    python, out = tmp_path / "python", tmp_path / "out"
    python.write_text(f'#!/bin/sh\necho "asked: $*"\nexit {code}\n')
    python.chmod(0o755)
    command = [str(ROOT / "tools/gpu_acceptance.sh"), "--device", "cpu", "--seconds", "7", "--out", str(out)]
    environment = os.environ | {"N2S_PYTHON": str(python)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    text = (out / "acceptance.txt").read_text()
    assert f"asked: tools/gpu_acceptance.py --out {out} --device cpu --seconds 7" in text
    assert text.endswith(f"exit code {code}\n") and "-m gpu" not in text
