"""An evaluation's cells as tables beside the published figures: what the page, the figures and wandb all show.

A cell is one entry of results.json's list `cells`: a method on one benchmark at one noise, its level known or not.
Cells of photographs that have no clean version carry no PSNR and stand in no table.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from n2s_dist.evaluation.published import PAPERS_OWN, method_name, paper_db, read_paper, remark
from n2s_dist.evaluation.results import ResultCell
from n2s_dist.noise.base import UNKNOWN
from n2s_dist.noise.specification import noise_title
from n2s_dist.reporting.tables import difference

_BENCHMARKS = {
    "bsd68": "BSD68", "set12": "Set12", "cbsd68": "CBSD68", "kodak24": "Kodak24", "kodak_full": "Kodak, whole",
    "bsd300": "BSD300", "set14": "Set14",
}  # fmt: skip
_PROTOCOLS = {"float": "", "uint8_input": "8-bit input", "own_depth": "input of more than 8 bits"}
# Published lines to see computed ones against, but for the one all are measured from.
_LANDMARKS = {
    (method_name(PAPERS_OWN), "paper, unknown level"), *((method_name(key), "paper") for key in read_paper()["bounds"]),
}  # fmt: skip
_SOURCES = {"table2": "paper", "reproduction": "", "literature": "its own paper"}


class Figure(NamedTuple):
    """One number of the table, in dB; difference_db is to the same method's published one. note: why missing or odd."""

    db: float | None
    difference_db: float | None = None
    note: str | None = None


class Row(NamedTuple):
    """A method's line; figures by benchmark. kind: "noisy", "computed" or "published"."""

    name: str
    detail: str
    kind: str
    figures: dict[str, Figure]


class Group(NamedTuple):
    """The lines of one noise."""

    noise: str
    rows: list[Row]


def benchmark_title(benchmark: str) -> str:
    return _BENCHMARKS.get(benchmark, benchmark)


def method_title(method: str) -> str:
    """ "n2s+ensemble" as "Noise2Score, self-ensemble"."""
    name, *further = method.split("+")
    return ", ".join([method_name(name), *("self-ensemble" if each == "ensemble" else each for each in further)])


def way_title(cell: ResultCell) -> str:
    """How a cell's images were denoised: "Noise2Score, unknown level"."""
    words = [method_title(cell["method"]), f"{cell['level']} level", _protocol(cell)]
    return ", ".join(filter(None, words))


def way_titles(cells: list[ResultCell]) -> list[str]:
    """Of each cell, with its checkpoint where several cells differ in nothing else."""
    named = [(cell["noise"], cell["benchmark"], way_title(cell)) for cell in cells]
    count = Counter(named)
    return [
        name[-1] + (f", {cell.get('checkpoint')}" if count[name] > 1 else "")
        for cell, name in zip(cells, named, strict=True)
    ]


def cell_title(cell: ResultCell, way: str | None = None) -> str:
    """All that tells a cell from others. way: how its images were denoised, where more is to be said of that."""
    return " · ".join([noise_title(cell["noise"]), benchmark_title(cell["benchmark"]), way or way_title(cell)])


def signed(db: float) -> str:
    """A difference in dB with its sign, as it is written in print."""
    return f"{db:+.2f}".replace("-", "−")


def has_figures(cell: ResultCell) -> bool:
    """Whether it was computed, on images whose clean version is known."""
    return cell.get("psnr_db") is not None


def compare(cells: list[ResultCell]) -> tuple[list[str], list[Group]]:
    """Benchmarks, the columns, in the paper's order; and for each noise its lines, computed ones first."""
    shown = [cell for cell in cells if has_figures(cell) or cell.get("missing")]
    benchmarks = _ordered((cell["benchmark"] for cell in shown), list(_BENCHMARKS))
    noises = _ordered((cell["noise"] for cell in shown), list(read_paper()["methods"][PAPERS_OWN]["known"]))
    return benchmarks, [
        Group(noise, [*_noisy(mine), *_computed(mine), *_published(noise, benchmarks)])
        for noise in noises
        for mine in [[cell for cell in shown if cell["noise"] == noise]]
    ]


def _ordered(names: Iterable[str], first: list[str]) -> list[str]:
    """Each name once: those of `first` in its order, then the others as they came."""
    unique = list(dict.fromkeys(names))
    return sorted(unique, key=lambda name: first.index(name) if name in first else len(first))


def _protocol(cell: ResultCell) -> str:
    protocol = str(cell.get("protocol", "float"))
    return _PROTOCOLS.get(protocol, protocol)


def _noisy(cells: list[ResultCell]) -> list[Row]:
    rows: dict[str, dict[str, Figure]] = {}
    for cell in filter(has_figures, cells):
        rows.setdefault(_protocol(cell), {}).setdefault(cell["benchmark"], Figure(cell["psnr_noisy_db"]))
    return [Row("noisy", detail, "noisy", figures) for detail, figures in rows.items()]


def _computed(cells: list[ResultCell]) -> list[Row]:
    """One line a method, level and protocol; checkpoints are told apart where a benchmark has several."""

    def line(cell: ResultCell) -> tuple[str, str, str]:
        return cell["method"], _protocol(cell), cell["level"]

    crowded = {key[:3] for key, count in Counter((*line(c), c["benchmark"]) for c in cells).items() if count > 1}
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    rows: dict[tuple[str, ...], dict[str, Figure]] = {}
    for cell in sorted(cells, key=lambda cell: (methods.index(cell["method"]), _protocol(cell), cell["level"])):
        checkpoint = str(cell.get("checkpoint") or "") if line(cell) in crowded else ""
        note = cell.get("missing")
        figure = Figure(cell.get("psnr_db"), difference(cell), f"not computed: {note}" if note else None)
        rows.setdefault((*line(cell), checkpoint), {})[cell["benchmark"]] = figure
    return [
        Row(method_title(method), ", ".join(filter(None, [f"{level} level", protocol, checkpoint])), "computed", row)
        for (method, protocol, level, checkpoint), row in rows.items()
    ]


def _published(noise: str, benchmarks: list[str]) -> list[Row]:
    rows, doubtful = [], read_paper()["doubted_methods"]
    for key, method in read_paper()["methods"].items():
        for level in ("known", "unknown"):
            found = {
                name: Figure(db, note=remark(noise, name) if db is None or key in doubtful else None)
                for name in benchmarks
                for db in [paper_db(noise, level, name, key)]
                if db is not None or (noise in method.get(level, {}) and remark(noise, name))
            }
            detail = f"paper, {level} level" if key == PAPERS_OWN else _SOURCES[method["source"]]
            if any(figure.db is not None for figure in found.values()):
                rows.append(Row(method["name"], detail, "published", found))
    return rows


class Mark(NamedTuple):
    """A method's distance to the paper's Noise2Score of known level, in dB, at one noise and benchmark."""

    label: str
    computed: bool
    difference_db: float


def gap_summary(benchmarks: list[str], groups: list[Group]) -> dict[str, dict[str, list[Mark]]]:
    """By benchmark and noise, where the paper has a figure: what was computed, and the paper's other two columns."""
    out: dict[str, dict[str, list[Mark]]] = {name: {} for name in benchmarks}
    for name in benchmarks:
        for noise, rows in groups:
            paper = paper_db(noise, "known", name)
            marks = [
                Mark(", ".join(filter(None, [row.name, row.detail])), row.kind == "computed", db - paper)
                for row in rows
                if row.kind == "computed" or (row.name, row.detail) in _LANDMARKS
                for db in [row.figures.get(name, Figure(None)).db]
                if paper is not None and db is not None
            ]
            if any(mark.computed for mark in marks):
                out[name][noise] = marks
    return {name: noises for name, noises in out.items() if noises}


class Headline(NamedTuple):
    """One number worth a line of its own."""

    label: str
    value: str
    detail: str


def headlines(cells: list[ResultCell]) -> list[Headline]:
    """What a hurried reader should know; only what the cells can tell."""
    computed = [cell for cell in cells if not cell.get("missing")]
    images = sum(cell["num_images"] for cell in computed)
    out = [Headline("cells computed", f"{len(computed)} of {len(cells)}", f"{images:,} images denoised")]
    gains = [cell["psnr_db"] - cell["psnr_noisy_db"] for cell in filter(has_figures, computed)]
    if gains:
        spread = f"{signed(min(gains))} to {signed(max(gains))} dB"
        out.append(Headline("gain over the noisy images", f"{signed(float(np.mean(gains)))} dB", spread))
    for level in ("known", "unknown"):
        own = [
            c for c in computed if c["method"] == PAPERS_OWN and c["level"] == level and c.get("protocol") == "float"
        ]
        to_paper = [found for found in map(difference, own) if found is not None]
        if to_paper:
            above = sum(each > 0 for each in to_paper)
            label, value = f"against the paper, {level} level", f"{signed(float(np.mean(to_paper)))} dB"
            out.append(Headline(label, value, f"mean of {len(to_paper)} cells, {above} of them above"))
    gained = [row.gained_db for row in estimates(cells) if row.gained_db is not None]
    if gained:
        worst = f"{signed(min(gained))} dB in the worst of {len(gained)} cells"
        out.append(Headline("level estimated, against known", f"{signed(float(np.mean(gained)))} dB", worst))
    ratios = [cell["posterior"]["mse_ratio"] for cell in computed if cell.get("posterior")]
    if ratios:
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}; 1 is perfect"
        out.append(Headline("uncertainty, predicted over actual", f"{np.mean(ratios):.2f}", spread))
    return out


class LevelEstimate(NamedTuple):
    """How well an unknown level was found over a benchmark, and what that cost against knowing it."""

    cell: ResultCell
    error: float | None  # mean |estimated / true - 1| over images whose family was found
    family_found: float  # share of images
    gained_db: float | None  # on the cell of known level; below zero as a rule


def estimates(cells: list[ResultCell]) -> list[LevelEstimate]:
    """A line for each computed cell of unknown level whose images say what was estimated, and whose noise is known."""
    known = {_twin(cell): cell["psnr_db"] for cell in cells if cell["level"] == "known" and has_figures(cell)}
    rows = []
    for cell in cells:
        guesses = [image["estimated"] for image in cell.get("images", []) if image.get("estimated")]
        if cell["level"] != "unknown" or cell["noise"] == UNKNOWN or not guesses or not has_figures(cell):
            continue
        family, _, true = cell["noise"].partition(":")
        found = [level for kind, _, level in (guess.partition(":") for guess in guesses) if kind == family]
        errors = [abs(float(level) / float(true) - 1) for level in found if _is_number(level) and _is_number(true)]
        best = known.get(_twin(cell))
        gained = None if best is None else cell["psnr_db"] - best
        rows.append(LevelEstimate(cell, float(np.mean(errors)) if errors else None, len(found) / len(guesses), gained))
    return rows


def _twin(cell: ResultCell) -> tuple[str, ...]:
    """What a cell of known and one of unknown level have in common."""
    return cell["noise"], cell["benchmark"], cell["method"], cell.get("protocol", "float")


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
