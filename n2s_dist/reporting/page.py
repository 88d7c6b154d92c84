"""An evaluation on one page: the tables, curves and pictures in an HTML file that opens from disk without a network.

report.html beside this module is the page's template. All that comes from files is escaped there; nothing of it is
ever markup.
"""

import base64
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from n2s_dist.evaluation.published import read_paper
from n2s_dist.evaluation.results import ResultCell, describe_measures, measures_of
from n2s_dist.metrics.metric import Measure
from n2s_dist.reporting import comparison, examples, figures
from n2s_dist.reporting.curves import curve, read_metrics
from n2s_dist.reporting.examples import ExampleImage
from n2s_dist.reporting.image_lists import networks_chosen, short_noise

_MAX_POINTS = 600  # of a curve on the page
# Color at full resolution: halved, as is usual, it would take half of the noise away.
_SUBSAMPLING, _QUALITY = 0, 94


class TrainingRun:
    """A training run: its curves, its configuration and what they say."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.metrics = read_metrics(folder)
        config = folder / "config.yaml"
        self.config = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""

    def facts(self) -> dict[str, str]:
        """Samples, speed and time. Time is that of the steps, from each interval's samples and speed."""
        seen, speed = curve(self.metrics, "samples_per_sec")
        _, psnr = curve(self.metrics, "val_psnr_db")
        out = {}
        if seen:
            hours, seconds = divmod(round(float((np.diff([0, *seen]) / speed).sum())), 3600)
            out["crops seen"] = f"{seen[-1]:,}"
            out["training time"] = (
                f"{hours} h {seconds // 60} min" if hours else f"{seconds // 60} min {seconds % 60} s"
            )
            out["speed"] = f"{np.median(speed):,.0f} crops/s"
        if psnr:
            out["best held-out PSNR"] = f"{max(psnr):.2f} dB"
        return out

    def curve(self, key: str) -> list[list[float]]:
        """Points [samples_seen, value], thinned to what a screen can show."""
        points = [list(point) for point in zip(*curve(self.metrics, key), strict=True)]
        kept = np.linspace(0, len(points) - 1, min(len(points), _MAX_POINTS)).round().astype(int)
        return [points[index] for index in kept]


class Pictures:
    """Pictures as data URIs, each once: the clean one serves every noise, the noisy one every method."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._index: dict[bytes, int] = {}

    def add(self, pixels: np.ndarray) -> int:
        """pixels: uint8 [h, w] or [h, w, 3]. Returns its place in `uris`."""
        key = repr(pixels.shape).encode() + pixels.tobytes()
        if key not in self._index:
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "jpeg", quality=_QUALITY, subsampling=_SUBSAMPLING)
            self._index[key] = len(self.uris)
            self.uris.append("data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode())
        return self._index[key]

    def add_all(self, example: ExampleImage) -> dict[str, int]:
        return {kind: self.add(picture) for kind, picture in zip(example.kinds, examples.visible(example), strict=True)}


def page_data(
    results: dict[str, Any], shown: list[ExampleImage], runs: list[TrainingRun], benchmarks: list, groups: list
) -> dict:
    """What the page's script draws: images of each cell, pictures, curves, distances to the paper."""
    pictures, measures = Pictures(), measures_of(results)
    with_images = [cell for cell in results["cells"] if cell.get("images")]
    marks = comparison.gap_summary(benchmarks, groups)
    return {
        "measures": describe_measures(measures),
        "cells": [
            {
                "title": comparison.cell_title(cell, way),
                "way": way,
                "rivals": [cell["noise"], cell["benchmark"]],
                "images": [
                    {
                        "name": row["name"],
                        "estimated": short_noise(row.get("estimated")),
                        "network": row.get("network"),
                        "figures": _figures(row, measures),
                    }
                    for row in cell["images"]
                ],
                "exhibits": [
                    {
                        "name": each.row["name"],
                        "size": each.pictures["denoised"].shape[1::-1],
                        "cut": None if each.is_whole else [each.top, each.left],
                        "pictures": pictures.add_all(each),
                    }
                    for each in shown
                    if each.cell is cell
                ],
            }
            for cell, way in zip(with_images, comparison.way_titles(with_images), strict=True)
        ],
        "pictures": pictures.uris,
        "curves": [
            {
                "title": panel.title,
                "log": panel.log,
                "lines": [
                    {"run": number, "name": figures.LABELS[key], "points": points}
                    for number, run in enumerate(runs)
                    for key in panel.keys
                    if (points := run.curve(key))
                ],
            }
            for panel in figures.CURVES
        ],
        "runs": [run.name for run in runs],
        "glance": [
            {
                "title": comparison.benchmark_title(name),
                "rows": [[comparison.noise_title(noise), each] for noise, each in noises.items()],
            }
            for name, noises in marks.items()
        ],
    }


def _figures(row: dict[str, Any], measures: list[Measure]) -> dict[str, float | None]:
    """What was measured of an image, with as many digits as tables show, four at least."""
    values = [(each, row.get(each.key)) for each in measures]
    return {each.key: None if value is None else round(value, max(4, each.digits)) for each, value in values}


def by_benchmark(entries: list[tuple[ResultCell, Any]]) -> dict[str, Any]:
    """Entries of cells as a table: a line for each noise and way of denoising, a column for each benchmark."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    ways = comparison.way_titles([cell for cell, _ in entries])
    for (cell, entry), way in zip(entries, ways, strict=True):
        lines.setdefault((comparison.noise_title(cell["noise"]), way), {})[cell["benchmark"]] = entry
    columns = list(dict.fromkeys(cell["benchmark"] for cell, _ in entries))
    return {"benchmarks": columns, "lines": lines} if lines else {}


def render(results: dict[str, Any], runs: list[TrainingRun], shown: list[ExampleImage]) -> str:
    """The page."""
    cells = results["cells"]
    computed = [cell for cell in cells if not cell.get("missing")]
    benchmarks, groups = comparison.compare(cells)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["noise"] = comparison.noise_title
    environment.filters["benchmark"] = comparison.benchmark_title
    environment.filters["signed"] = comparison.signed
    environment.filters["method"] = comparison.method_title
    notes = {
        (group.noise, name, figure.note): None
        for group in groups
        for row in group.rows
        if row.kind == "published"
        for name, figure in row.figures.items()
        if figure.note
    }
    return environment.get_template("report.html").render(
        results=results,
        runs=runs,
        benchmarks=benchmarks,
        groups=groups,
        notes=list(notes),
        missing=[cell for cell in cells if cell.get("missing")],
        headlines=comparison.headlines(cells),
        estimates=by_benchmark([(each.cell, each) for each in comparison.estimates(cells)]),
        posteriors=by_benchmark([(cell, cell) for cell in cells if cell.get("posterior")]),
        checkpoints=Counter(
            (str(cell.get("checkpoint") or "none"), cell.get("samples_seen"))
            for cell in computed
            if not networks_chosen(cell)
        ),
        chosen=Counter(network for cell in computed for network in networks_chosen(cell)),
        sources=read_paper()["sources"],
        data=page_data(results, shown, runs, benchmarks, groups),
    )
