"""The report's charts and pictures as PNG for a paper."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from n2s_dist.evaluation.results import ResultCell
from n2s_dist.reporting import comparison
from n2s_dist.reporting.comparison import Mark
from n2s_dist.reporting.curves import SECTIONS, Panel, curve
from n2s_dist.reporting.examples import ExampleImage
from n2s_dist.utils.files import atomic_write

CURVES: tuple[Panel, ...] = (SECTIONS["training"][0], *SECTIONS["validation"])  # of the page as well
LABELS = {
    "loss": "training", "val_loss": "held out", "val_psnr_db": "denoised", "val_psnr_noisy_db": "noisy",
}  # fmt: skip
_DPI = 200
_COLUMN_INCHES, _PAGE_INCHES = 3.4, 7.0
_FONT: dict[Any, Any] = {"font.size": 8, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False}
_DASHES: tuple[Any, ...] = ("-", "--", ":")
_MAX_ROWS = 6
_TITLES = {"clean": "clean", "noisy": "noisy", "denoised": "denoised", "std": "uncertainty",
           "sample-1": "sample", "sample-2": "another sample"}  # fmt: skip


def draw_all(
    folder: Path, cells: list[ResultCell], runs: dict[str, list[dict[str, Any]]], shown: list[ExampleImage]
) -> list[Path]:
    """Write the figures that there is something to draw for; their paths."""
    from matplotlib import rc_context

    marks = comparison.gap_summary(*comparison.compare(cells))
    scatter = [cell for cell in cells if comparison.has_figures(cell) and cell["images"]]
    drawn = [run for run in runs.values() if any(curve(run, key)[0] for panel in CURVES for key in panel.keys)]
    figures = {
        "comparison.png": lambda: draw_comparison(marks) if marks else None,
        "images.png": lambda: draw_scatter(scatter) if scatter else None,
        "curves.png": lambda: draw_curves(runs) if drawn else None,
        "pictures.png": lambda: draw_pictures(shown) if shown else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with rc_context(_FONT):
        for name, draw in figures.items():
            (folder / name).unlink(missing_ok=True)  # none is left of another evaluation
            if figure := draw():
                with atomic_write(folder / name) as partial:
                    figure.savefig(partial, dpi=_DPI)
                written.append(folder / name)
    return written


def draw_comparison(marks: dict[str, dict[str, list[Mark]]]) -> Figure:
    """For each benchmark, by noise, what was computed and published as distances to the paper's known level."""
    noises = list(dict.fromkeys(noise for rows in marks.values() for noise in rows))
    labels = list(dict.fromkeys(mark.label for rows in marks.values() for row in rows.values() for mark in row))
    computed = {mark.label: mark.computed for rows in marks.values() for row in rows.values() for mark in row}
    columns = min(2, len(marks))
    lines = -(-len(marks) // columns)
    height = lines * (0.3 + 0.32 * len(noises)) + 0.2 * -(-len(labels) // 2) + 0.5
    figure = Figure(figsize=(_PAGE_INCHES, height), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    looks = {label: _look(index, computed[label]) for index, label in enumerate(labels)}
    for panel, (benchmark, rows) in zip(axes, marks.items(), strict=False):
        panel.axvline(0, color="black", linewidth=0.8)
        for noise, row in rows.items():
            for mark in row:
                aside = 0.6 * ((labels.index(mark.label) + 0.5) / len(labels) - 0.5)  # lest one hide another
                panel.plot(mark.difference_db, noises.index(noise) + aside, **looks[mark.label])
        panel.set_yticks(range(len(noises)), [comparison.noise_title(noise) for noise in noises])
        panel.set_ylim(len(noises) - 0.5, -0.5)
        panel.grid(axis="x", alpha=0.3)
        panel.set_title(comparison.benchmark_title(benchmark))
    for panel in axes[-columns:]:
        panel.set_xlabel("dB above the paper's Noise2Score, level known")
    for panel in axes[len(marks) :]:
        panel.axis("off")
    handles = [Line2D([], [], **look, label=label) for label, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _look(index: int, filled: bool) -> dict[str, Any]:
    color = f"C{index}"
    return {
        "color": color, "marker": "o" if filled else "s", "markersize": 4.5, "linestyle": "none", "alpha": 0.9,
        "markerfacecolor": color if filled else "none",
    }  # fmt: skip


def draw_scatter(cells: list[ResultCell]) -> Figure:
    """For each benchmark, PSNR of each image denoised against noisy: the first way that each noise was denoised in."""
    benchmarks = list(dict.fromkeys(cell["benchmark"] for cell in cells))
    noises = list(dict.fromkeys(cell["noise"] for cell in cells))
    columns = min(2, len(benchmarks))
    lines = -(-len(benchmarks) // columns)
    figure = Figure(figsize=(_PAGE_INCHES, 2.5 * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, benchmark in zip(axes, benchmarks, strict=False):
        first = {cell["noise"]: cell for cell in reversed(cells) if cell["benchmark"] == benchmark}
        for noise, cell in first.items():
            noisy, denoised = ([row[key] for row in cell["images"]] for key in ("psnr_noisy_db", "psnr_db"))
            panel.scatter(noisy, denoised, s=10, alpha=0.7, color=f"C{noises.index(noise)}", linewidths=0)
        panel.set(title=comparison.benchmark_title(benchmark), xlabel="noisy PSNR (dB)", ylabel="denoised PSNR (dB)")
        panel.grid(alpha=0.3)
    for panel in axes[len(benchmarks) :]:
        panel.axis("off")
    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=4, color=f"C{i}", label=comparison.noise_title(noise))
        for i, noise in enumerate(noises)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    return figure


def draw_curves(runs: dict[str, list[dict[str, Any]]]) -> Figure:
    """Loss and held-out PSNR over samples seen; runs differ in color, metrics of a panel in line style."""
    panels = [panel for panel in CURVES if any(curve(run, key)[0] for run in runs.values() for key in panel.keys)]
    figure = Figure(figsize=(_COLUMN_INCHES * len(panels), 2.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (name, metrics) in enumerate(runs.items()):
            for style, key in zip(_DASHES, panel.keys, strict=False):
                seen, values = curve(metrics, key)
                if seen:
                    label = f"{name}, {LABELS[key]}" if len(runs) > 1 else LABELS[key]
                    axes.plot(seen, values, style, color=f"C{number}", linewidth=1.2, label=label)
        axes.set(title=panel.title, xlabel="crops seen", yscale="log" if panel.log else "linear")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    return figure


def draw_pictures(shown: list[ExampleImage]) -> Figure:
    """Clean, noisy, denoised and uncertainty in columns; the rows are of as many noises and images as there are."""
    rows: list[ExampleImage] = []
    for _ in range(min(_MAX_ROWS, len(shown))):
        noises, names = Counter(each.cell["noise"] for each in rows), Counter(each.row["name"] for each in rows)
        left = [each for each in shown if not any(each is row for row in rows)]
        rows.append(min(left, key=lambda e: (noises[e.cell["noise"]], names[e.row["name"]], -len(e.pictures))))
    kinds = [kind for kind in _TITLES if any(kind in each.pictures for each in rows)]
    ratios = [each.pictures["denoised"].shape[0] / each.pictures["denoised"].shape[1] for each in rows]
    width = _PAGE_INCHES / len(kinds)
    figure = Figure(figsize=(_PAGE_INCHES, sum(ratios) * width + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(kinds), squeeze=False, gridspec_kw={"height_ratios": ratios})
    for line, each in zip(axes, rows, strict=True):
        for panel, kind in zip(line, kinds, strict=True):
            panel.axis("off")
            if kind in each.pictures:
                picture = each.pictures[kind]
                top = max(1, int(np.max(picture))) if kind == "std" else 255
                gray = picture.mean(-1) if kind == "std" and picture.ndim == 3 else picture
                panel.imshow(gray, cmap="magma" if kind == "std" else "gray", vmin=0, vmax=top, interpolation="none")
                panel.set_title(_caption(each, kind), fontsize=7 if len(kinds) < 6 else 5.5)
    return figure


def _caption(example: ExampleImage, kind: str) -> str:
    db = {"noisy": example.row["psnr_noisy_db"], "denoised": example.row["psnr_db"]}.get(kind)
    if kind == "noisy":
        return comparison.noise_title(example.cell["noise"]) + (f": {db:.2f} dB" if db is not None else "")
    return _TITLES[kind] + (f": {db:.2f} dB" if db is not None else "")
