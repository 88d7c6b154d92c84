"""Draw the curves of one or several runs as a PNG, from their metrics.jsonl alone.

    n2s plot runs/a runs/b --out curves.png

Runs differ in color, metrics that share a panel in line style. A run may still be going on.
"""

import argparse
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from n2s_dist.reporting.curves import SECTIONS, Panel, curve, read_metrics, run_names
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write, path_option

_COLUMNS = 4
_STYLES: tuple[Any, ...] = ("-", "--", ":")
_COLORS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]


def draw(runs: dict[str, list[dict[str, Any]]]) -> Figure:
    """A section below the other, its panels in rows; panels of which no run has anything are left out."""
    sections = {
        name: drawn
        for name, panels in SECTIONS.items()
        if (drawn := [p for p in panels if any(curve(rows, key)[0] for rows in runs.values() for key in p.keys)])
    }
    lines = {name: -(-len(panels) // _COLUMNS) for name, panels in sections.items()}
    figure = Figure(figsize=(5 * _COLUMNS, 3.4 * sum(lines.values()) + 0.7), layout="constrained")
    parts = figure.subfigures(len(sections), 1, height_ratios=list(lines.values()), squeeze=False)[:, 0]
    for part, (name, panels) in zip(parts, sections.items(), strict=True):
        part.suptitle(name, x=0.01, ha="left", fontweight="bold")
        axes = part.subplots(lines[name], _COLUMNS, squeeze=False).ravel()
        for place, panel in zip(axes, panels, strict=False):
            draw_panel(place, panel, runs)
        for place in axes[len(panels) :]:
            place.axis("off")
    handles = [Line2D([], [], color=_COLORS[i % len(_COLORS)], label=name) for i, name in enumerate(runs)]
    figure.legend(handles=handles, loc="outside upper right", ncols=min(len(runs), 6), frameon=False)
    return figure


def draw_panel(axes: Axes, panel: Panel, runs: dict[str, list[dict[str, Any]]]) -> None:
    for number, rows in enumerate(runs.values()):
        for style, key in zip(_STYLES, panel.keys, strict=False):
            seen, values = curve(rows, key)
            marker = "." if len(seen) < 30 else ""
            # Of a list, one thin line a rank.
            width = 0.8 if values and isinstance(values[0], list) else 1.5
            axes.plot(seen, values, style, color=_COLORS[number % len(_COLORS)], marker=marker, linewidth=width)
    if len(panel.keys) > 1:
        styles = [Line2D([], [], color="gray", linestyle=s, label=k) for s, k in zip(_STYLES, panel.keys, strict=False)]
        axes.legend(handles=styles, fontsize="small")
    axes.set_title(panel.title, fontsize="medium")
    axes.set_xlabel("samples seen", fontsize="small")
    axes.grid(alpha=0.3)
    if panel.log:
        axes.set_yscale("log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=path_option, metavar="RUN", help="a run directory")
    parser.add_argument("--out", type=path_option, required=True, metavar="FILE.png")
    args = parser.parse_args()

    if args.out.suffix != ".png":
        raise UserError(f"--out is {args.out}: it should end with .png")
    folders = list(dict.fromkeys(args.runs))
    runs = dict(zip(run_names(folders), map(read_metrics, folders), strict=True))
    if not any(runs.values()):
        raise UserError(f"{', '.join(map(str, folders))}: nothing was logged yet")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out) as partial:
        draw(runs).savefig(partial, dpi=100)
    print(f"wrote {args.out}")
