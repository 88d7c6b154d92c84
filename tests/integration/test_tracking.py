"""Trackers with wandb itself: it never asks, and a run begins whatever the environment says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_wandb import Wandb, begin
from support.patience import HANG_SEC

# A process for each start, since wandb reads its environment once; they are forked, since imports take seconds.
PROGRAM = """
import os, pathlib, sys
import numpy as np
import wandb
from n2s_dist.config.schema import Config
from n2s_dist.training.tracking import open_tracker

def train(run_dir, starts):
    run_dir.mkdir()
    for samples_seen in starts:
        tracker = open_tracker(Config(), run_dir, samples_seen, is_main=True)
        tracker.log(samples_seen + 40, {"loss": 1.0})
        tracker.picture(samples_seen + 40, "validation", np.zeros((2, 2, 3), np.uint8))
        tracker.close()
        print("id", (run_dir / "wandb_id").read_text().strip())

bad = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "nonsense"}
dead = {"WANDB_SERVICE": "3-99999-unix-/nowhere/socket"}
for name, variables, starts in (("bare", {}, (0, 40)), ("bad", bad, (0,)), ("dead", dead, (0,))):
    if not (child := os.fork()):
        os.environ.update(variables)
        file = os.open(f"{name}.out", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        train(pathlib.Path(sys.argv[1], name), starts)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0, pathlib.Path(f"{name}.out").read_text()
"""


def rows(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def started(tmp_path_factory, environment) -> Path:
    """Where all of them ran and printed: without key, home or terminal, so that nothing may be asked."""
    folder = tmp_path_factory.mktemp("wandb")
    home = folder / "home"
    home.mkdir()
    bare = {k: v for k, v in environment.items() if not k.startswith(("WANDB_", "NETRC", "XDG_"))} | {"HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=bare, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HANG_SEC, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (folder / "wandb").exists()
    return folder


def test_wandb_without_a_key_goes_offline_and_keeps_its_id(started):
    """Two starts share one id; the second joins it."""
    said, run_dir = (started / "bare.out").read_text(), started / "bare"
    assert "wandb is offline" in said and "(1)" not in said  # no numbered choices
    ids = {line.split()[1] for line in said.splitlines() if line.startswith("id ")}
    assert len(ids) == 1 and ids != {""}
    runs = sorted(path.name for path in (run_dir / "wandb").glob("offline-run-*"))
    assert runs and all(next(iter(ids)) in name for name in runs)
    assert [row["samples_seen"] for row in rows(run_dir)] == [40, 80]


@pytest.mark.parametrize(
    ("name", "words"),
    [("bad", "with WANDB_BASE_URL nonsense ("), ("dead", "wandb can't be set up (")],
)
def test_a_run_begins_with_wandb_itself_whatever_address_and_service_the_environment_names(started, name, words):
    said = (started / f"{name}.out").read_text()
    (line,) = [line for line in said.splitlines() if line.startswith("wandb online: ")]
    assert words in line and said.count("wandb is offline") == 1
    assert name == "bad" or "/nowhere/socket" in line
    assert [row["samples_seen"] for row in rows(started / name)] == [40]
    assert list((started / name / "wandb").glob("offline-run-*"))


def test_without_a_home_wandb_keeps_its_files_in_the_run(tmp_path, monkeypatch):
    made = Wandb(monkeypatch)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for kind in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", "")  # so that it is unset again afterwards
        monkeypatch.delenv(f"WANDB_{kind}_DIR")
    monkeypatch.setattr(Path, "home", homeless)
    begin(tmp_path, 0)
    assert [run["mode"] for run in made.begun] == ["offline"]
    assert os.environ["WANDB_CONFIG_DIR"] == str(tmp_path / "wandb")
