"""Trackers: a metrics file that survives kills, and wandb that never asks and never blocks."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import sample_results

from n2s_dist.config.command_line import read_config
from n2s_dist.config.schema import Config
from n2s_dist.reporting import wandb_results
from n2s_dist.reporting.examples import caption, choose, strip
from n2s_dist.reporting.wandb_results import log_results, summary_of
from n2s_dist.training.tracking import NullTracker, Tracker, open_tracker

WITHOUT_WANDB = ["--tracking.wandb=false"]


def rows(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_one_json_object_a_line_as_soon_as_logged(tmp_path):
    tracker = open_tracker(read_config(WITHOUT_WANDB), tmp_path, 0, is_main=True)
    tracker.log(40, {"loss": 0.5, "learning_rate": 1e-3})
    assert rows(tmp_path) == [{"samples_seen": 40, "loss": 0.5, "learning_rate": 1e-3}]  # before it is closed
    tracker.log(80, {"loss": 0.25})
    tracker.picture(80, "validation", np.zeros((2, 2, 3), np.uint8))
    tracker.close()
    assert rows(tmp_path)[1:] == [{"samples_seen": 80, "loss": 0.25}]


def test_not_a_number_and_infinity_become_null(tmp_path):
    tracker = Tracker(tmp_path, 0)
    tracker.log(40, {"loss": math.nan, "psnr": math.inf, "low": -math.inf, "rate": 1.0})
    tracker.close()
    expected = {"samples_seen": 40, "loss": None, "psnr": None, "low": None, "rate": 1.0}
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON")) == expected


def test_lines_past_the_checkpoint_are_forgotten_on_resume(tmp_path):
    tracker = Tracker(tmp_path, 0)
    for seen in (40, 80, 80, 120, 160):
        tracker.log(seen, {"loss": seen / 10})
    tracker.close()
    tracker = Tracker(tmp_path, 80)
    tracker.log(120, {"loss": -1.0})
    tracker.close()
    assert [(row["samples_seen"], row["loss"]) for row in rows(tmp_path)] == [(40, 4), (80, 8), (80, 8), (120, -1)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_line_that_a_kill_cut_short_is_dropped_and_the_rest_survives(tmp_path, cut):
    whole = '{"samples_seen": 40, "loss": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + '{"samples_seen": 80, "loss": 0.5}'[:cut])
    tracker = Tracker(tmp_path, 80)
    tracker.log(120, {"loss": 0.25})
    tracker.close()
    assert rows(tmp_path) == [{"samples_seen": 40, "loss": 1.0}, {"samples_seen": 120, "loss": 0.25}]


def test_other_ranks_write_nothing(tmp_path):
    tracker = open_tracker(read_config(WITHOUT_WANDB), tmp_path, 0, is_main=False)
    assert type(tracker) is NullTracker
    tracker.log(40, {"loss": 1.0})
    tracker.picture(40, "validation", np.zeros((2, 2, 3), np.uint8))
    tracker.close()
    assert not list(tmp_path.iterdir())


def test_wandb_without_a_key_goes_offline_and_keeps_its_id(tmp_path, environment):
    """In a process without key, home or terminal: nothing may be asked. Two starts share one id; a second joins it."""
    program = """
import pathlib, sys
import numpy as np
from n2s_dist.config.schema import Config
from n2s_dist.reporting.examples import caption, choose, strip
from n2s_dist.training.tracking import open_tracker
run_dir = pathlib.Path(sys.argv[1])
for samples_seen in (0, 40):
    tracker = open_tracker(Config(), run_dir, samples_seen, is_main=True)
    tracker.log(samples_seen + 40, {"loss": 1.0})
    tracker.picture(samples_seen + 40, "validation", np.zeros((2, 2, 3), np.uint8))
    tracker.close()
    print("id", (run_dir / "wandb_id").read_text().strip())
"""
    home, run_dir = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    run_dir.mkdir()
    bare = {k: v for k, v in environment.items() if not k.startswith(("WANDB_", "NETRC", "XDG_"))} | {"HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(run_dir)],
        env=bare, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wandb is offline" in done.stdout and "(1)" not in done.stdout + done.stderr  # no numbered choices
    ids = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("id ")}
    assert len(ids) == 1 and ids != {""}
    runs = sorted(path.name for path in (run_dir / "wandb").glob("offline-run-*"))
    assert runs and all(next(iter(ids)) in name for name in runs)
    assert [row["samples_seen"] for row in rows(run_dir)] == [40, 80]
    assert not (tmp_path / "wandb").exists()


@pytest.fixture
def wandb_run(monkeypatch):
    """A wandb run that keeps what it is given; tables and pictures are wandb's own."""

    class Run:
        def __init__(self) -> None:
            self.logged, self.summary, self.finished = {}, {}, False

        def log(self, row: dict) -> None:
            self.logged |= row

        def finish(self) -> None:
            self.finished = True

    run = Run()
    monkeypatch.setattr(wandb_results, "open_wandb", lambda config, run_dir, job: run)
    return run


def test_an_evaluation_goes_to_wandb_with_its_tables_and_pictures(wandb_run, tmp_path):
    cells = sample_results.write(tmp_path)["cells"]
    shown = [(caption(each), strip(each)) for each in choose(tmp_path, cells)]
    log_results(Config(), tmp_path, cells, shown)
    assert not wandb_run.logged  # training began no wandb run
    (tmp_path / "wandb_id").write_text("0123")
    log_results(Config(), tmp_path, cells, shown)
    assert wandb_run.finished and wandb_run.logged.keys() == {"cells", "results", "pictures"}

    def table(name: str) -> list[dict]:
        return [dict(zip(wandb_run.logged[name].columns, row, strict=True)) for row in wandb_run.logged[name].data]

    computed = [cell for cell in cells if not cell.get("missing")]
    first = table("cells")[0]
    assert {key: first[key] for key in ("noise", "level", "benchmark", "psnr_db", "paper_db")} == {
        key: cells[0][key] for key in ("noise", "level", "benchmark", "psnr_db", "paper_db")
    }
    assert first["difference_db"] == cells[0]["psnr_db"] - 30.85 and len(table("cells")) == len(computed)
    images = [(row["image"], row["psnr_db"]) for row in table("results")]
    assert images == [(row["name"], row["psnr_db"]) for cell in computed for row in cell["images"]]
    pictures = wandb_run.logged["pictures"]
    assert len(pictures) == len(shown) == 3 * 4 + 2 * 2 + 1
    assert any(each._caption.endswith("known level, coffee.png: clean, noisy, denoised, std") for each in pictures)
    assert wandb_run.summary == summary_of(cells, Config())


def test_the_summary_names_a_benchmark_alone_for_what_was_trained():
    def cell(**changes):
        usual = {"noise": "gaussian:25", "level": "known", "method": "n2s", "protocol": "float", "benchmark": "set12"}
        return usual | dict.fromkeys(("psnr_noisy_db", "psnr_uint8_db", "ssim")) | {"psnr_db": 29.0} | changes

    unknown = cell(noise="gamma:50", level="unknown", psnr_db=1.0)
    cells = [cell(), unknown, cell(method="n2s+ensemble"), cell(missing="why")]
    assert summary_of(cells, Config()) == {
        "set12/psnr_db": 29.0, "set12,gamma:50,unknown/psnr_db": 1.0, "set12,n2s+ensemble/psnr_db": 29.0,
    }  # fmt: skip
