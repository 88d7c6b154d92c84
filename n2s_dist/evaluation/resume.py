"""What an evaluation need not do again: units of one that was stopped, and whole cells of one that ended.

    OUT/.pieces/RANK.jsonl     a line for each unit that a rank has measured, until results.json is there
    OUT/results.json           cells, each with the fingerprint of all that its figures depend on

Numbers pass through JSON unchanged, so a table that was stopped and resumed is the same to the last bit.
"""

import contextlib
import json
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from n2s_dist.evaluation.partition import WorkUnit
from n2s_dist.metrics.base import measures

FOLDER = ".pieces"


@dataclass(frozen=True)
class CompletedWork:
    """What is there already. cells: by their place among all; rows: of units, by EvaluationWorker.measure."""

    cells: dict[int, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def remaining(self, units: list[WorkUnit]) -> list[WorkUnit]:
        """Those that are still to be measured."""
        measured = {(row["cell"], row["name"], *row["box"]) for row in self.rows}
        return [
            unit
            for unit in units
            if unit.cell not in self.cells and (unit.cell, unit.task.image.name, *unit.box) not in measured
        ]


def read_completed(out: Path, fingerprints: list[str | None], shown: set[int], unseen: set[int]) -> CompletedWork:
    """What an evaluation into `out` left of cells with these fingerprints.

    shown: places of cells whose pictures are wanted, `unseen` those of them that lack some: what has no pictures
    beside it does not count for these. Cells that lack one of today's metrics don't count either, nor do units that
    other metrics have measured: metrics decide how images are cut.
    """
    wanted = {measure.key for measure in measures()}
    places = {fingerprint: place for place, fingerprint in enumerate(fingerprints) if fingerprint}
    cells = {}
    for cell in _read_cells(out / "results.json"):
        place = places.get(str(cell.get("fingerprint")))
        if place is not None and place not in unseen and all(wanted <= row.keys() for row in [cell, *cell["images"]]):
            cells[place] = cell
    rows = {}  # a unit measured twice, by an evaluation that was to show more than the one before, counts once
    for path in sorted((out / FOLDER).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a kill cut it short
                row = json.loads(line)
                place = places.get(row["cell"])
                if place is None or place in cells or _sums(row).keys() != wanted:
                    continue
                if place not in shown or row["kept"]:
                    rows[place, row["name"], *row["box"]] = {**row, "cell": place, "sums": _sums(row)}
    return CompletedWork(cells, list(rows.values()))


# What units held in place of "sums" before metrics had a registry.
_BEFORE = {"psnr_noisy_db": "noisy", "psnr_db": "estimate", "psnr_uint8_db": "uint8", "ssim": "ssim"}


def _sums(row: dict[str, Any]) -> dict[str, float | None]:
    """What was measured of a unit, by today's keys."""
    return row["sums"] if "sums" in row else {key: row.get(name) for key, name in _BEFORE.items()}


def _read_cells(path: Path) -> list[dict[str, Any]]:
    """Of results.json; none where it is missing or something else."""
    try:
        return [cell for cell in json.loads(path.read_text())["cells"] if isinstance(cell, dict)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


class Journal:
    """One rank's lines; several threads may add to it. fingerprints: of all cells, None for those not computed."""

    def __init__(self, out: Path, rank: int, fingerprints: list[str | None]) -> None:
        self._fingerprints, self._lock = fingerprints, threading.Lock()
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        self._stream = (out / FOLDER / f"{rank}.jsonl").open("a")
        self._stream.write("\n")  # after a line that a kill cut short

    def add(self, row: dict[str, Any]) -> None:
        """A unit's row, as EvaluationWorker.measure makes it."""
        line = json.dumps({**row, "cell": self._fingerprints[row["cell"]]})
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def forget(out: Path) -> None:
    """Remove the units: results.json holds what they add up to, or all are to be measured again."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)
