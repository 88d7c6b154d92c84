"""An evaluation's figures in the wandb run that training began."""

from pathlib import Path
from typing import Any

import numpy as np

from n2s_dist.config.schema import Config
from n2s_dist.evaluation.published import PAPERS_OWN
from n2s_dist.evaluation.results import ResultCell
from n2s_dist.metrics.metric import Measure
from n2s_dist.reporting.tables import difference
from n2s_dist.training.tracking import one_line, open_wandb


def log_results(
    config: Config,
    run_dir: Path,
    cells: list[ResultCell],
    measures: list[Measure],
    pictures: list[tuple[str, np.ndarray]],
) -> None:
    """Add an evaluation's means, tables and pictures to the wandb run that training began, if it began one.

    cells: of results.json, those that were computed by this run's network. measures: the figures that these hold.
    pictures: captions and uint8 [H, W, 3].
    """
    if not (config.tracking.wandb and (run_dir / "wandb_id").exists()):
        return
    run = open_wandb(config, run_dir, "evaluate")
    if run is None:
        return
    try:
        _log(run, config, cells, measures, pictures)
    except Exception as error:  # wandb raises many
        print(f"wandb failed ({one_line(error)}); the tables are in the files of the evaluation")


def _log(
    run: Any,
    config: Config,
    cells: list[ResultCell],
    measures: list[Measure],
    pictures: list[tuple[str, np.ndarray]],
) -> None:
    import wandb

    found = tables_of(cells, measures)
    tables = {name: wandb.Table(columns=list(columns), data=rows) for name, (columns, rows) in found.items()}
    images = [wandb.Image(picture, caption=caption) for caption, picture in pictures]
    run.log(tables | ({"pictures": images} if images else {}))
    run.summary.update(summary_of(cells, measures, config))
    run.finish()


def tables_of(cells: list[ResultCell], measures: list[Measure]) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Columns and rows of `cells`, the means beside the published figures, and of `results`, a row an image."""
    names, keys = ["noise", "level", "method", "protocol", "benchmark"], [measure.key for measure in measures]
    computed = [(cell, [cell[name] for name in names]) for cell in cells if not cell.get("missing")]
    means = [[*key, *(cell.get(each) for each in keys), cell["paper_db"], difference(cell)] for cell, key in computed]
    images = [
        [*key, image["name"], *(image.get(each) for each in keys), image.get("estimated")]
        for cell, key in computed
        for image in cell["images"]
    ]
    return {
        "cells": ([*names, *keys, "paper_db", "difference_db"], means),
        "results": ([*names, "image", *keys, "estimated"], images),
    }


def summary_of(cells: list[ResultCell], measures: list[Measure], config: Config) -> dict[str, float]:
    """The means as BENCHMARK/MEASURE for the network at work on what it was trained on.

    What is different of any other cell follows the benchmark: "cbsd68,gaussian:50,unknown/psnr_db".
    """
    usual = {"noise": config.noise, "level": "known", "method": PAPERS_OWN, "protocol": "float"}
    return {
        ",".join([cell["benchmark"], *(cell[key] for key, value in usual.items() if cell[key] != value)]) + f"/{each}":
        value
        for cell in cells
        if not cell.get("missing")
        for each, *_ in measures
        if (value := cell.get(each)) is not None
    }  # fmt: skip
