"""Trackers: a metrics file that survives kills, and wandb that never asks and never blocks."""

import json
import math
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import sample_results
from support.fake_wandb import Wandb, begin

from n2s_dist.config.schema import Config
from n2s_dist.metrics.base import BUILT_IN
from n2s_dist.reporting import wandb_results
from n2s_dist.reporting.examples import caption, choose, strip
from n2s_dist.reporting.wandb_results import log_results, summary_of
from n2s_dist.training import tracking
from n2s_dist.training.command_line import read_config
from n2s_dist.training.tracking import NullTracker, Tracker, open_tracker
from n2s_dist.utils import errors

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


def test_lines_that_are_no_rows_are_dropped_on_resume(tmp_path):
    lines = ['{"samples_seen": 40}', "3", "[1]", "null", "{}", '{"samples_seen": "40"}', "\0\0", '{"samples_seen": 80}']
    written = [*(line.encode() for line in lines[:-1]), b"\xff\xfe\x80", lines[-1].encode()]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(line + b"\n" for line in written))
    Tracker(tmp_path, 80).close()
    assert [row["samples_seen"] for row in rows(tmp_path)] == [40, 80]


def test_what_a_full_disk_does_not_take_is_written_once_there_is_room(tmp_path, monkeypatch, capsys):
    """The kernel takes a part of a line; nothing cut short stays, nothing is lost, and one warning is said."""
    monkeypatch.setattr(errors, "_warned", set())
    tracker = Tracker(tmp_path, 0)
    tracker.log(40, {"loss": 0.5})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "metrics.jsonl").stat().st_size + 20, limits[1]))
    try:
        tracker.log(80, {"loss": 0.25})
        tracker.log(120, {"loss": 0.125})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [row["samples_seen"] for row in rows(tmp_path)] == [40]
    tracker.log(160, {"loss": 0.0625})
    tracker.close()
    assert [row["samples_seen"] for row in rows(tmp_path)] == [40, 80, 120, 160]
    assert capsys.readouterr().err.count("metrics.jsonl can't be written") == 1


def test_other_ranks_write_nothing(tmp_path):
    tracker = open_tracker(read_config(WITHOUT_WANDB), tmp_path, 0, is_main=False)
    assert type(tracker) is NullTracker
    tracker.log(40, {"loss": 1.0})
    tracker.picture(40, "validation", np.zeros((2, 2, 3), np.uint8))
    tracker.close()
    assert not list(tmp_path.iterdir())


def test_parts_of_a_run_that_were_logged_offline_do_not_replace_each_other(tmp_path, monkeypatch):
    """`wandb sync` uploads a run from its first line on, over what its id has there."""
    made = Wandb(monkeypatch)
    monkeypatch.setattr(tracking, "_wandb_mode", lambda: modes.pop(0))
    modes = ["offline", "offline", "online", "offline", "online"]
    for samples_seen in (0, 80, 160, 240, 320):
        begin(tmp_path, samples_seen)
    name = (tmp_path / "wandb_id").read_text()
    assert [run["id"] for run in made.begun] == [name, f"{name}-80", name, f"{name}-240", name]
    assert {run["group"] for run in made.begun} == {name}
    assert [run["resume"] for run in made.begun] == [None, None, "allow", None, "allow"]
    modes = ["offline"]
    tracking.open_wandb(Config(), tmp_path, "evaluate")
    assert made.begun[-1]["id"] == f"{name}-evaluate"


@pytest.mark.parametrize("content", ["", "\n", "\0\0\0\0", "a b", "x" * 100])
def test_an_id_that_a_full_disk_spoilt_is_made_anew(tmp_path, monkeypatch, content):
    made = Wandb(monkeypatch)
    monkeypatch.setattr(tracking, "_wandb_mode", lambda: "offline")
    (tmp_path / "wandb_id").write_text(content)
    for _ in range(2):
        begin(tmp_path, 0)
    assert len({run["id"] for run in made.begun}) == 1 and len(made.begun[0]["id"]) == 8
    assert [path.name for path in tmp_path.iterdir() if "wandb" in path.name] == ["wandb_id"]


@pytest.mark.parametrize(("fails", "mode"), [(1, "offline"), (2, None)])
def test_whatever_wandb_fails_with_is_a_line_each_and_training_begins(tmp_path, monkeypatch, capsys, fails, mode):
    made = Wandb(monkeypatch, fails)
    monkeypatch.setattr(tracking, "_wandb_mode", lambda: "online")
    monkeypatch.setenv("WANDB_SERVICE", "3-99999-unix-/nowhere/socket")
    begin(tmp_path, 0)
    said = capsys.readouterr().out.splitlines()
    assert (
        said[0] == "wandb online: ValueError: Run ID cannot be empty second line" and "WANDB_SERVICE" not in os.environ
    )
    assert [run["mode"] for run in made.begun] == ["online", "offline"]
    assert said[-1].startswith("wandb is offline" if mode else "wandb is left out: curves go to metrics.jsonl alone")


@pytest.mark.parametrize("address", ["nonsense", "http://localhost:port", "http://[::1"])
def test_an_address_of_no_server_is_named_and_the_run_is_offline(tmp_path, monkeypatch, capsys, address):
    made = Wandb(monkeypatch)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setattr("wandb.setup", lambda: SimpleNamespace(settings=SimpleNamespace(base_url=address)))
    if address == "nonsense":  # as wandb does for what is no URL at all
        monkeypatch.setattr("wandb.setup", lambda: int(address))
    begin(tmp_path, 0)
    assert [run["mode"] for run in made.begun] == ["offline"]
    if address != "http://[::1":
        assert f"WANDB_BASE_URL {address}" in capsys.readouterr().out


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
    monkeypatch.setattr(wandb_results, "open_wandb", lambda *_: run)
    return run


def test_an_evaluation_goes_to_wandb_with_its_tables_and_pictures(wandb_run, tmp_path):
    cells = sample_results.write(tmp_path)["cells"]
    shown = [(caption(each), strip(each)) for each in choose(tmp_path, cells)]
    log_results(Config(), tmp_path, cells, list(BUILT_IN), shown)
    assert not wandb_run.logged  # training began no wandb run
    (tmp_path / "wandb_id").write_text("0123")
    log_results(Config(), tmp_path, cells, list(BUILT_IN), shown)
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
    assert wandb_run.summary == summary_of(cells, list(BUILT_IN), Config())


def test_an_evaluation_that_wandb_does_not_take_says_so_and_is_over(wandb_run, tmp_path, capsys):
    def fail() -> None:
        raise ConnectionError("gone")

    wandb_run.finish = fail
    (tmp_path / "wandb_id").write_text("0123")
    log_results(Config(), tmp_path, sample_results.write(tmp_path)["cells"], list(BUILT_IN), [])
    assert "wandb failed (ConnectionError: gone)" in capsys.readouterr().out


def test_the_summary_names_a_benchmark_alone_for_what_was_trained():
    def cell(**changes):
        usual = {"noise": "gaussian:25", "level": "known", "method": "n2s", "protocol": "float", "benchmark": "set12"}
        return usual | dict.fromkeys(("psnr_noisy_db", "psnr_uint8_db", "ssim")) | {"psnr_db": 29.0} | changes

    unknown = cell(noise="gamma:50", level="unknown", psnr_db=1.0)
    cells = [cell(), unknown, cell(method="n2s+ensemble"), cell(missing="why")]
    assert summary_of(cells, list(BUILT_IN), Config()) == {
        "set12/psnr_db": 29.0, "set12,gamma:50,unknown/psnr_db": 1.0, "set12,n2s+ensemble/psnr_db": 29.0,
    }  # fmt: skip
