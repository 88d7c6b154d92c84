"""What an earlier evaluation measured counts only if it was measured by today's metrics."""

import json
from pathlib import Path

from n2s_dist.evaluation.resume import FOLDER, read_completed
from n2s_dist.metrics.base import measures

FIGURES = {"psnr_noisy_db": 20.0, "psnr_db": 30.0, "psnr_uint8_db": 30.0, "ssim": 0.9}
UNIT = {"cell": "digest", "name": "a.png", "box": [0, 0, 8, 8], "channels": 3, "estimated": None, "kept": False}


def left(out: Path, figures: dict, *units: dict) -> tuple[set[int], list[dict]]:
    """Which cells are taken from an evaluation that ended with these figures, and which units of one that did not."""
    cell = {"fingerprint": "digest", **figures, "images": [{"name": "a.png", **figures}]}
    (out / "results.json").write_text(json.dumps({"cells": [cell]} if figures else {}))
    (out / FOLDER).mkdir(exist_ok=True)
    (out / FOLDER / "0.jsonl").write_text("".join(json.dumps(unit) + "\n" for unit in units))
    completed = read_completed(out, ["digest"], set(), set())
    return set(completed.cells), completed.rows


def test_cells_and_units_of_todays_metrics_are_taken(tmp_path):
    assert left(tmp_path, FIGURES) == ({0}, [])
    unit = {**UNIT, "sums": FIGURES}
    assert left(tmp_path, {}, unit) == (set(), [{**unit, "cell": 0}])


def test_cells_and_units_that_lack_a_metric_are_measured_again(tmp_path, plug_in):
    plug_in("mae_metric")
    assert left(tmp_path, FIGURES, {**UNIT, "sums": FIGURES}) == (set(), [])
    whole = {**FIGURES, "mae": 3.0}
    assert left(tmp_path, whole) == ({0}, [])
    assert len(left(tmp_path, {}, {**UNIT, "sums": whole})[1]) == 1
    assert "mae" in [measure.key for measure in measures()]


def test_a_cell_whose_images_alone_lack_it_is_measured_again(tmp_path, plug_in):
    plug_in("mae_metric")
    cell = {"fingerprint": "digest", **FIGURES, "mae": 3.0, "images": [{"name": "a.png", **FIGURES}]}
    (tmp_path / "results.json").write_text(json.dumps({"cells": [cell]}))
    assert read_completed(tmp_path, ["digest"], set(), set()).cells == {}


def test_units_of_more_metrics_are_measured_again(tmp_path):
    """Metrics decide how images are cut, so these units may be other ones."""
    assert left(tmp_path, {}, {**UNIT, "sums": {**FIGURES, "mae": 3.0}}) == (set(), [])
    assert left(tmp_path, {**FIGURES, "mae": 3.0}) == ({0}, [])


def test_units_written_before_metrics_had_a_registry_count(tmp_path):
    old = {**UNIT, "noisy": 1.0, "estimate": 2.0, "uint8": 3.0, "ssim": 4.0}
    _, (row,) = left(tmp_path, {}, old)
    assert row["sums"] == {"psnr_noisy_db": 1.0, "psnr_db": 2.0, "psnr_uint8_db": 3.0, "ssim": 4.0}
