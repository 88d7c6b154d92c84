"""One pass over all cells of a table: shared out over ranks, measured, put together the same way on every rank.

cells ──► less what is there already ──► units ──► each rank's share ──► rows of units ──► results
"""

import os
import platform
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from n2s_dist.distributed.ranks import Ranks
from n2s_dist.evaluation.deviations import posterior_figures
from n2s_dist.evaluation.methods import Estimator
from n2s_dist.evaluation.partition import WorkUnit, cut_cell, partition
from n2s_dist.evaluation.protocols import describe
from n2s_dist.evaluation.results import describe_measures
from n2s_dist.evaluation.resume import CompletedWork, Journal, forget, read_completed
from n2s_dist.evaluation.suite import Cell
from n2s_dist.evaluation.worker import EvaluationWorker, has_pictures, image_row, shown_cells
from n2s_dist.metrics.base import measures
from n2s_dist.models import checkpoint
from n2s_dist.utils.errors import UserError, of_all


def sweep(
    cells: list[Cell],
    seed: int,
    ranks: Ranks,
    out: Path,
    estimator: Estimator | None = None,
    pictures: bool = False,
    fresh: bool = False,
) -> dict[str, Any]:
    """What results.json holds, the same on every rank. Errors of any rank stop all ranks.

    What an earlier pass into `out` has measured, stopped or not, is taken from there unless this is to be a fresh one.
    estimator: for cells of unknown level. pictures: also write images, to out/pictures; those without truth always are.
    """
    shown = {n for n in shown_cells(cells) if pictures or not cells[n].has_truth}
    versions, hardware = checkpoint.versions(), describe_hardware(ranks)
    where = versions | {"device": hardware["device"]}
    fingerprints = broadcast_from_main(ranks, lambda: list_fingerprints(cells, seed, where))
    unseen = {number for number in shown if not has_pictures(cells[number], out / "pictures")}

    def look() -> CompletedWork:
        if not fresh:
            return read_completed(out, fingerprints, shown, unseen)
        forget(out)
        return CompletedWork()

    completed = broadcast_from_main(ranks, look)
    cuts = [
        images for number, cell in enumerate(cells) if cell.denoiser for images in cut_cell(number, cell, estimator)
    ]
    todo = completed.remaining([unit for units in cuts for unit in units])
    mine = partition(todo, ranks.world_size)[ranks.rank]
    if ranks.is_main:
        for place in sorted(completed.cells):
            print(f"{cells[place].title}: taken from {out / 'results.json'}")
        if completed.rows:
            print(f"{len(completed.rows)} pieces were measured before the evaluation was stopped")
        images = {(unit.cell, unit.task.name) for unit in todo}
        print(f"{len(images)} images in {len(todo)} pieces on {ranks.world_size} rank(s)")
    worker = EvaluationWorker(cells, seed, mine, estimator, out / "pictures", shown)
    measured = measure_all(worker, mine, ranks, Journal(out, ranks.rank, fingerprints))
    join_pictures(worker, [units for units in cuts if units[0].cell not in completed.cells], ranks)
    by_image = defaultdict(list)
    for row in [*completed.rows, *ranks.gather(measured)]:
        by_image[row["cell"], row["name"]].append(row)
    entries = []
    for number, cell in enumerate(cells):
        if cell.denoiser is None:
            entries.append({**cell.identity(), "missing": cell.missing})
        elif number in completed.cells:
            entries.append({**completed.cells[number], **cell.identity()})
        else:
            assert cell.source
            sums = [by_image[number, task.image.name] for task in cell.source.tasks]
            entries.append(entry(cell, sums, fingerprints[number]))
    return {
        "seed": seed,
        "versions": versions,
        "hardware": hardware,
        "protocol": describe([cell.protocol for cell in cells]),
        "measures": describe_measures(measures()),
        "cells": entries,
    }


def entry(cell: Cell, sums: list[list[dict[str, Any]]], fingerprint: str | None) -> dict[str, Any]:
    """A computed cell of results.json. sums: what the units of each of its images gave."""
    assert cell.source and cell.denoiser
    loaded = cell.denoiser.loaded
    rows = [image_row(task, units) for task, units in zip(cell.source.tasks, sums, strict=True)]
    return {
        **cell.identity(),
        **{key: mean([row[key] for row in rows]) for key in (measure.key for measure in measures())},
        "num_images": len(rows),
        "checkpoint": cell.denoiser.checkpoint,
        "samples_seen": loaded.samples_seen if loaded else None,
        "posterior": posterior_figures([unit for units in sums for unit in units]),
        "fingerprint": fingerprint,
        "images": sorted(rows, key=lambda row: row["name"]),
    }


def mean(values: list[float | None]) -> float | None:
    """The mean of what could be measured."""
    measured = [value for value in values if value is not None]
    return float(np.mean(measured)) if measured else None


def list_fingerprints(cells: list[Cell], seed: int, where: dict[str, Any]) -> list[str | None]:
    """Of each cell that is computed."""
    contents = {cell.source: cell.source.digest() for cell in cells if cell.source and cell.denoiser}
    return [
        cell.fingerprint(seed, contents[cell.source], where) if cell.denoiser and cell.source else None
        for cell in cells
    ]


def describe_hardware(ranks: Ranks) -> dict[str, Any]:
    """What an evaluation ran on, but for the number of ranks, on which nothing depends."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    if ranks.device.type == "cuda":
        processor = torch.cuda.get_device_name(ranks.device)
    return {"device": ranks.device.type, "processor": processor, "cores": os.cpu_count()}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def measure_all(worker: EvaluationWorker, mine: list[WorkUnit], ranks: Ranks, journal: Journal) -> list[dict[str, Any]]:
    """Rows of this rank's units, each in the journal as soon as it is there."""

    def measure(unit: WorkUnit) -> dict[str, Any]:
        row = worker.measure(unit)
        journal.add(row)
        return row

    # One thread a unit: how PyTorch splits an image over threads changes its last bits.
    threads = torch.get_num_threads()
    workers = 1 if ranks.device.type == "cuda" else threads
    torch.set_num_threads(1)
    problem, measured = None, []
    try:
        with ThreadPoolExecutor(workers) as pool:
            done = pool.map(measure, mine)
            measured = list(tqdm(done, total=len(mine), unit="piece", disable=not ranks.is_main))
    except UserError as error:
        problem = str(error)
    finally:
        journal.close()
        torch.set_num_threads(threads)
    stop_all(ranks, problem)
    return measured


def broadcast_from_main(ranks: Ranks, make: Callable[[], Any]) -> Any:
    """What rank 0 makes, on every rank; its errors stop all ranks."""
    problem, made = None, None
    if ranks.is_main:
        try:
            made = make()
        except UserError as error:
            problem = str(error)
    stop_all(ranks, problem)
    return ranks.gather([made])[0]


def stop_all(ranks: Ranks, problem: str | None) -> None:
    """Raise UserError on every rank when one of them has a problem."""
    problems = [message for message in ranks.gather([problem]) if message]
    if problems:
        raise of_all(UserError(problems[0]))


def join_pictures(worker: EvaluationWorker, cuts: list[list[WorkUnit]], ranks: Ranks) -> None:
    """Write the pictures of images that were cut into tiles, each by one rank."""
    in_tiles = [units for units in cuts if len(units) > 1]
    for units in in_tiles[ranks.rank :: ranks.world_size]:
        worker.join(units)
    ranks.barrier()
