"""One pass over all cells of a table: shared out over ranks, measured, put together the same way on every rank.

cells ──► less what is there already ──► pieces ──► each rank's share ──► rows of pieces ──► results
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

from n2s_dist import checkpoint
from n2s_dist.cells import Cell
from n2s_dist.distributed import Ranks
from n2s_dist.errors import UserError, of_all
from n2s_dist.journal import Earlier, Journal, forget, read_earlier
from n2s_dist.measure import Bench, has_pictures, image_row, posterior_figures, shown_cells
from n2s_dist.methods import Estimator
from n2s_dist.protocols import describe
from n2s_dist.shares import Piece, cut_cell, share_out
from n2s_dist.tables import MEASURES


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
    fingerprints = agree(ranks, lambda: list_fingerprints(cells, seed, where))
    unseen = {number for number in shown if not has_pictures(cells[number], out / "pictures")}

    def look() -> Earlier:
        if not fresh:
            return read_earlier(out, fingerprints, shown, unseen)
        forget(out)
        return Earlier()

    earlier = agree(ranks, look)
    cuts = [
        images for number, cell in enumerate(cells) if cell.denoiser for images in cut_cell(number, cell, estimator)
    ]
    todo = earlier.lacks([piece for pieces in cuts for piece in pieces])
    mine = share_out(todo, ranks.world_size)[ranks.rank]
    if ranks.is_main:
        for place in sorted(earlier.cells):
            print(f"{cells[place].title}: taken from {out / 'results.json'}")
        if earlier.rows:
            print(f"{len(earlier.rows)} pieces were measured before the evaluation was stopped")
        images = {(piece.cell, piece.task.name) for piece in todo}
        print(f"{len(images)} images in {len(todo)} pieces on {ranks.world_size} rank(s)")
    bench = Bench(cells, seed, mine, estimator, out / "pictures", shown)
    measured = measure_all(bench, mine, ranks, Journal(out, ranks.rank, fingerprints))
    join_pictures(bench, [pieces for pieces in cuts if pieces[0].cell not in earlier.cells], ranks)
    by_image = defaultdict(list)
    for row in [*earlier.rows, *ranks.gather(measured)]:
        by_image[row["cell"], row["name"]].append(row)
    entries = []
    for number, cell in enumerate(cells):
        if cell.denoiser is None:
            entries.append({**cell.identity(), "missing": cell.missing})
        elif number in earlier.cells:
            entries.append({**earlier.cells[number], **cell.identity()})
        else:
            assert cell.source
            sums = [by_image[number, task.image.name] for task in cell.source.tasks]
            entries.append(entry(cell, sums, fingerprints[number]))
    return {
        "seed": seed,
        "versions": versions,
        "hardware": hardware,
        "protocol": describe([cell.protocol for cell in cells]),
        "cells": entries,
    }


def entry(cell: Cell, sums: list[list[dict[str, Any]]], fingerprint: str | None) -> dict[str, Any]:
    """A computed cell of results.json. sums: what the pieces of each of its images gave."""
    assert cell.source and cell.denoiser
    loaded = cell.denoiser.loaded
    rows = [image_row(task, pieces) for task, pieces in zip(cell.source.tasks, sums, strict=True)]
    return {
        **cell.identity(),
        **{key: mean([row[key] for row in rows]) for key in MEASURES},
        "num_images": len(rows),
        "checkpoint": cell.denoiser.checkpoint,
        "samples_seen": loaded.samples_seen if loaded else None,
        "posterior": posterior_figures([piece for pieces in sums for piece in pieces]),
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


def measure_all(bench: Bench, mine: list[Piece], ranks: Ranks, journal: Journal) -> list[dict[str, Any]]:
    """Rows of this rank's pieces, each in the journal as soon as it is there."""

    def measure(piece: Piece) -> dict[str, Any]:
        row = bench.measure(piece)
        journal.add(row)
        return row

    # One thread a piece: how PyTorch splits an image over threads changes its last bits.
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


def agree(ranks: Ranks, make: Callable[[], Any]) -> Any:
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


def join_pictures(bench: Bench, cuts: list[list[Piece]], ranks: Ranks) -> None:
    """Write the pictures of images that were cut into tiles, each by one rank."""
    in_tiles = [pieces for pieces in cuts if len(pieces) > 1]
    for pieces in in_tiles[ranks.rank :: ranks.world_size]:
        bench.join(pieces)
    ranks.barrier()
