"""One run on one page: results, pictures and curves in an HTML file that opens from disk without a network.

    python -m n2s_dist.report --run_dir runs/demo --results runs/demo/evaluation --out runs/demo

Writes OUT/report.html and OUT/comparison.png (clean, noisy and denoised side by side).
"""

import argparse
import base64
import contextlib
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from PIL import Image

from n2s_dist.errors import UserError, run_command

_MAX_PICTURES = 6

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #777; --accent: #0a6ebd; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.lead { color: var(--quiet); margin-top: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem min(.8rem, 1.6vw); text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.mean td { font-weight: 600; }
img { max-width: 100%; border-radius: 4px; background: #fff; }
.scroll { overflow-x: auto; }
pre { border: 1px solid var(--line); border-radius: 4px; padding: .8rem; overflow-x: auto; font-size: .85rem; }
"""


def image_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the per-image table: each benchmark's images, then their mean."""
    header = ["image", "noisy dB", "denoised dB", "SSIM"]
    rows = []
    for name, benchmark in results["benchmarks"].items():
        for row in [*benchmark["images"], {"name": f"mean of {name}", **benchmark}]:
            ssim = "-" if row["ssim"] is None else f"{row['ssim']:.4f}"
            rows.append([row["name"], f"{row['psnr_noisy_db']:.2f}", f"{row['psnr_db']:.2f}", ssim])
    return header, rows


def print_table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )


def read_pictures(results_dir: Path, results: dict[str, Any]) -> list[tuple[dict[str, Any], list[np.ndarray]]]:
    """The rows that have pictures, each with its clean, noisy and denoised image; at most a handful."""
    found: list[tuple[dict[str, Any], list[np.ndarray]]] = []
    for name, benchmark in results["benchmarks"].items():
        for row in benchmark["images"]:
            stem = row["name"].rsplit(".", 1)[0]
            paths = [results_dir / "pictures" / name / f"{stem}-{kind}.png" for kind in ("clean", "noisy", "denoised")]
            if all(path.is_file() for path in paths) and len(found) < _MAX_PICTURES:
                found.append((row, [np.asarray(Image.open(path)) for path in paths]))
    return found


def draw_comparison(pictures: list[tuple[dict[str, Any], list[np.ndarray]]]) -> Figure:
    """Clean, noisy and denoised in columns, one row an image, with PSNR under each."""
    ratios = [images[0].shape[0] / images[0].shape[1] for _, images in pictures]
    figure = Figure(figsize=(12, 4 * sum(ratios) + 0.5 * len(pictures)), layout="constrained")
    axes = figure.subplots(len(pictures), 3, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for line, (row, images) in zip(axes, pictures, strict=True):
        titles = (row["name"], f"noisy, {row['psnr_noisy_db']:.2f} dB", f"denoised, {row['psnr_db']:.2f} dB")
        for panel, image, title in zip(line, images, titles, strict=True):
            panel.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
            panel.set_title(title, fontsize=12)
            panel.axis("off")
    return figure


def draw_curves(metrics: list[dict[str, float]]) -> Figure:
    """Training loss and, where images were held out, their PSNR, over samples seen."""
    panels = {
        "AR-DAE loss": {"loss": "training", "val_loss": "held out, fixed perturbation"},
        "PSNR on held-out tiles (dB)": {"val_psnr_db": "denoised", "val_psnr_noisy_db": "noisy"},
    }
    curves = {
        title: {label: [(row["samples_seen"], row[key]) for row in metrics if row.get(key) is not None]
                for key, label in keys.items()}
        for title, keys in panels.items()
    }  # fmt: skip
    drawn = {title: lines for title, lines in curves.items() if any(lines.values())}
    figure = Figure(figsize=(6 * max(1, len(drawn)), 3.6), layout="constrained")
    for panel, (title, lines) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        for label, points in lines.items():
            if points:
                panel.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "", label=label)
        panel.set(title=title, xlabel="samples seen")
        panel.grid(alpha=0.3)
        panel.legend()
    return figure


def embed(figure: Figure, alt: str) -> str:
    """A figure as an <img> that carries its own bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def html_table(header: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        kind = ' class="mean"' if cells[0].startswith("mean of ") else ""
        return f"<tr{kind}>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table>{line(header, "th")}\n{body}</table></div>'


def render(results: dict[str, Any], metrics: list[dict[str, float]], config: str, comparison: str | None) -> str:
    """The page. comparison: an <img>, or None when the evaluation wrote no pictures."""
    throughput = [row["samples_per_sec"] for row in metrics if "samples_per_sec" in row]
    facts = [f"{results['samples_seen']:,} crops seen"]
    if throughput:
        facts.append(f"{np.median(throughput):.0f} samples/s")
    parts = [
        f"<h1>Denoising {html.escape(results['noise'])}</h1>",
        f'<p class="lead">Trained on noisy images alone, {", ".join(facts)}.<br>'
        f"Protocol: {html.escape(results['protocol'])}.</p>",
        "<h2>Results</h2>",
        html_table(*image_table(results)),
    ]
    if comparison:
        parts += ["<h2>Clean, noisy, denoised</h2>", comparison]
    if any("loss" in row for row in metrics):
        parts += ["<h2>Training</h2>", embed(draw_curves(metrics), "training loss and held-out PSNR over samples seen")]
    versions = "\n".join(f"{name} {version}" for name, version in results["versions"].items())
    parts += ["<h2>Configuration</h2>", f"<pre>{html.escape(config)}</pre>", f"<pre>{html.escape(versions)}</pre>"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(results['noise'])}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def read_results(folder: Path) -> dict[str, Any]:
    try:
        results = json.loads((folder / "results.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no results.json: run n2s_dist.evaluate with --out {folder} first") from None
    except ValueError as error:
        raise UserError(
            f"{folder}/results.json is not readable as JSON ({error}): run n2s_dist.evaluate again"
        ) from None
    if not {"benchmarks", "noise", "samples_seen", "protocol", "versions"} <= results.keys():
        raise UserError(f"{folder}/results.json is not an evaluation's: run n2s_dist.evaluate again")
    return results


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl; one that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m n2s_dist.report", description="Write a run's report.")
    parser.add_argument("--run_dir", type=Path, required=True, help="a training run: its curves and configuration")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="the evaluation's --out folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where report.html goes")
    args = parser.parse_args()

    results = read_results(args.results)
    metrics, config = read_metrics(args.run_dir / "metrics.jsonl"), args.run_dir / "config.yaml"
    pictures = read_pictures(args.results, results)
    args.out.mkdir(parents=True, exist_ok=True)
    comparison = None
    if pictures:
        figure = draw_comparison(pictures)
        figure.savefig(args.out / "comparison.png", dpi=110)
        comparison = embed(figure, "clean, noisy and denoised images side by side")
    settings = yaml.safe_dump(yaml.safe_load(config.read_text()), sort_keys=False) if config.is_file() else ""
    (args.out / "report.html").write_text(render(results, metrics, settings, comparison))

    print_table(*image_table(results))
    print(f"\nreport:  {args.out / 'report.html'}")
    if pictures:
        print(f"picture: {args.out / 'comparison.png'}")


if __name__ == "__main__":
    run_command(main)
