"""An evaluation's cells beside the published figures: for a terminal, and as Markdown and CSV."""

import csv
import io
from collections import defaultdict
from textwrap import wrap
from typing import Any

from n2s_dist.evaluation.published import PAPERS_OWN, method_name, paper_db, read_paper, remark
from n2s_dist.evaluation.results import ResultCell, measures_of
from n2s_dist.metrics.metric import Measure


def difference(cell: ResultCell) -> float | None:
    """PSNR in dB above the method's published figure."""
    computed, published = cell.get("psnr_db"), cell["paper_db"]
    return None if computed is None or published is None else computed - published


def format_table(results: dict[str, Any]) -> str:
    """The computed cells beside the paper's own figures, at most 80 columns wide, and why others are missing."""
    lines = ["PSNR in dB; paper: of the same method; above: how far this is above that"]
    missing: dict[str, list[ResultCell]] = defaultdict(list)
    groups: dict[str, list[ResultCell]] = {}
    several = len(_networks(results["cells"])) > 1
    for cell in _by_network(results["cells"]) if several else results["cells"]:
        if "missing" in cell:
            missing[cell["missing"]].append(cell)
            continue
        above = f"{cell['noise']} ({cell['protocol']})"
        if several and cell["checkpoint"]:
            above += f"\n{cell['checkpoint'][-80:]}"
        groups.setdefault(above, []).append(cell)
    measures = measures_of(results)
    for heading, cells in groups.items():
        lines += ["", heading, *_main_lines(cells, measures[:_MAIN])]
        for first in range(_MAIN, len(measures), _FURTHER):
            lines += _further_lines(cells, measures[first : first + _FURTHER])
    for why, cells in missing.items():
        count = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}"
        lines += ["", *wrap(f"{count} not computed: {why}", 80)]
    return "\n".join(lines)


_MAIN, _FURTHER = 4, 5  # figures that lines of 80 letters hold, beside the paper's and without


def _names(cell: ResultCell) -> str:
    return f"{cell['benchmark'][:11]:<12}{cell['level']:<8}{cell['method'][:12]:<13}"


def _main_lines(cells: list[ResultCell], measures: list[Measure]) -> list[str]:
    """The first figures, and the paper's."""
    widths = [8 if each.key == "psnr_db" else 7 for each in measures]
    titles = "".join(f"{each.title[: width - 1]:>{width}}" for each, width in zip(measures, widths, strict=True))
    lines = [f"{'benchmark':<12}{'level':<8}{'method':<13}{'images':>6}{titles}{'paper':>6}{'above':>6}"]
    for cell in cells:
        figures = [
            _number(cell.get(each.key), width, each.digits) for each, width in zip(measures, widths, strict=True)
        ]
        paper = _number(cell["paper_db"], 6) + _number(difference(cell), 6, sign=True)
        lines.append(f"{_names(cell)}{cell['num_images']:>6}{''.join(figures)}{paper}")
    return lines


def _further_lines(cells: list[ResultCell], measures: list[Measure]) -> list[str]:
    """More figures of the same cells."""
    lines = [" " * 33 + "".join(f"{each.title[:8]:>9}" for each in measures)]
    return lines + [_names(cell) + "".join(_number(cell.get(m.key), 9, m.digits) for m in measures) for cell in cells]


def _networks(cells: list[ResultCell]) -> list[str]:
    """Checkpoints that figures are of; methods without one are not among them."""
    return list(dict.fromkeys(cell["checkpoint"] for cell in cells if cell.get("checkpoint") and "missing" not in cell))


def _by_network(cells: list[ResultCell]) -> list[ResultCell]:
    """Each network's cells of a noise together."""
    places, noises = [*_networks(cells), None], list(dict.fromkeys(cell["noise"] for cell in cells))
    return sorted(cells, key=lambda cell: (noises.index(cell["noise"]), places.index(cell.get("checkpoint"))))


def _number(value: float | None, width: int, digits: int = 2, sign: bool = False) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{'+' if sign else ''}{width}.{digits}f}"


def to_markdown(results: dict[str, Any]) -> str:
    """One table for each noise: this evaluation's lines, then every published method's."""
    cells, notes = results["cells"], _Notes()
    benchmarks = list(dict.fromkeys(cell["benchmark"] for cell in cells))
    lines = [
        "# PSNR in dB, this evaluation beside published figures",
        "",
        f"Protocol: {results['protocol']}. Seed {results['seed']}.",
        "In brackets: a computed figure minus its method's published one; for published methods, this evaluation's",
        "Noise2Score minus theirs, where both were told the level or both were not.",
    ]
    for noise in dict.fromkeys(cell["noise"] for cell in cells):
        mine = [cell for cell in cells if cell["noise"] == noise]
        lines += ["", f"## {noise}", "", f"| | {' | '.join(benchmarks)} |", "|---|" + "---:|" * len(benchmarks)]
        for title, row in {**_computed(mine, notes), **_published(noise, benchmarks, mine, notes)}.items():
            lines.append(f"| {title} | {' | '.join(row.get(name, '') for name in benchmarks)} |")
    return "\n".join([*lines, *notes.lines()]) + "\n"


class _Notes:
    """Remarks below the tables, each once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, text: str) -> str:
        return f"[{self._numbers.setdefault(text, len(self._numbers) + 1)}]"

    def lines(self) -> list[str]:
        return ["", *(f"[{number}] {text}  " for text, number in self._numbers.items())] if self._numbers else []


def _in_brackets(value: float, other: float | None) -> str:
    return "" if other is None else f" ({value - other:+.2f})"


def _computed(cells: list[ResultCell], notes: _Notes) -> dict[str, dict[str, str]]:
    """This evaluation's lines: by title, each with its figures by benchmark."""
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for cell in cells:
        if cell.get("psnr_noisy_db") is not None:
            rows[f"noisy, {cell['protocol']}"][cell["benchmark"]] = f"{cell['psnr_noisy_db']:.2f}"
    for cell in cells:
        title = f"**{_title(cell['method'])}**, {cell['level']} level, {cell['protocol']}"
        if cell["benchmark"] in rows[title]:
            title += f", {cell['checkpoint']}"
        if "missing" in cell:
            shown = notes.mark(f"not computed: {cell['missing']}")
        elif cell["psnr_db"] is None:
            shown = "no clean images"
        else:
            shown = f"**{cell['psnr_db']:.2f}**{_in_brackets(cell['psnr_db'], cell['paper_db'])}"
        rows[title][cell["benchmark"]] = shown
    return rows


def _title(method: str) -> str:
    """ "n2s+ensemble" as "Noise2Score + ensemble"."""
    name, *further = method.split("+")
    return " + ".join([method_name(name), *further])


def _published(noise: str, benchmarks: list[str], cells: list[ResultCell], notes: _Notes) -> dict[str, dict[str, str]]:
    """Every published method's lines."""
    ours = {(c["level"], c["benchmark"]): c.get("psnr_db") for c in reversed(cells) if c["method"] == PAPERS_OWN}
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    doubtful = read_paper()["doubted_methods"]
    for method in read_paper()["methods"]:
        for level in ("known", "unknown"):
            for name in benchmarks:
                title, figure = f"{method_name(method)}, {level} level, published", paper_db(noise, level, name, method)
                if figure is not None:
                    own, why = ours.get((level, name)), remark(noise, name)
                    shown = f"{figure:.2f}" + ("" if own is None else _in_brackets(own, figure))
                    rows[title][name] = f"{shown} {notes.mark(why)}" if why and method in doubtful else shown
                elif method == PAPERS_OWN and remark(noise, name):
                    rows[title][name] = notes.mark(f"unusable: {remark(noise, name)}")
    return rows


_FIELDS_BEFORE = ("noise", "level", "method", "benchmark", "protocol", "num_images")
_FIELDS_AFTER = ("paper_db", "difference_db", "checkpoint", "samples_seen", "missing")


def to_csv(results: dict[str, Any]) -> str:
    """A line for each cell, in full precision.

    After its own columns: each published method's figure at its noise, level and benchmark, and how far it is above.
    """
    methods = list(read_paper()["methods"])
    stream = io.StringIO()
    figures = [measure.key for measure in measures_of(results)]
    published = [name for method in methods for name in (f"published_{method}_db", f"above_{method}_db")]
    fields = [*_FIELDS_BEFORE, *figures, *_FIELDS_AFTER, *published]
    writer = csv.DictWriter(stream, fields, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for cell in results["cells"]:
        row = {**cell, "difference_db": difference(cell)}
        for method in methods:
            figure = paper_db(cell["noise"], cell["level"], cell["benchmark"], method)
            row[f"published_{method}_db"] = figure
            if figure is not None and cell.get("psnr_db") is not None:
                row[f"above_{method}_db"] = cell["psnr_db"] - figure
        writer.writerow(row)
    return stream.getvalue()
