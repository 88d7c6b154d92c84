#!/usr/bin/env python3
"""PSNR on a benchmark over hours of training: how soon each run reaches which quality.

    tools/quality_over_time.py runs/gaussian25 runs/n2score_paper --benchmark cbsd68=data/cbsd68 --out quality.png

Every whole checkpoint of each run is evaluated by the evaluator's own protocol, at the noise that it was trained on, or
at --noise, which runs on several noises need. To have many, train with `--train.keep_checkpoints 100`. Hours are those
of the steps alone, on the machine that trained, read from the run's metrics.jsonl. Evaluations are kept in RUN/quality;
the same command goes on from there.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from n2s_dist.distributed.ranks import Ranks
from n2s_dist.evaluation.benchmarks import Benchmark, parse_folders
from n2s_dist.evaluation.methods import of_network
from n2s_dist.evaluation.published import paper_db
from n2s_dist.evaluation.runner import sweep
from n2s_dist.evaluation.suite import product_cells
from n2s_dist.models import checkpoint
from n2s_dist.noise.specification import format_noise, parse_noise
from n2s_dist.reporting.curves import read_metrics, run_names, training_hours
from n2s_dist.reporting.result_files import write
from n2s_dist.utils.errors import UserError, run_command
from n2s_dist.utils.files import path_option

_LEVELS_DB = (28.0, 29.0, 30.0, 30.5)


class Curve(NamedTuple):
    """Of one run: hours of training and PSNR in dB at each checkpoint, and the noise it is measured at."""

    hours: list[float]
    psnr_db: list[float]
    noise: str


def measure(run_dir: Path, benchmark: Benchmark, noise: str | None, seed: int, ranks: Ranks) -> Curve:
    """Evaluate all checkpoints of a run, oldest first. noise: None takes what it was trained on."""
    rows = read_metrics(run_dir)
    whole = [path for path in reversed(checkpoint.newest_first(run_dir)) if checkpoint.damage(path) is None]
    if not whole:
        raise UserError(f"{run_dir} holds no whole checkpoint: train it first")
    hours, psnr, cells = [], [], []
    for path in whole:
        loaded = checkpoint.load(path, ranks.device)
        cells = product_cells([benchmark], [of_network(loaded)], [noise] if noise else None, ("known",))
        out = run_dir / "quality" / (noise or "").replace(":", "-") / path.name
        results = sweep(cells, seed, ranks, out)
        if ranks.is_main:
            write(out, results)
        hours.append(training_hours(rows, loaded.samples_seen))
        psnr.append(results["cells"][0]["psnr_db"])
    return Curve(hours, psnr, cells[0].noise)


def hours_until(curve: Curve, level_db: float) -> float | None:
    """Hours until a curve first reaches a PSNR, between checkpoints in proportion; None where it does not."""
    before: tuple[float, float] | None = None
    for hours, psnr in zip(curve.hours, curve.psnr_db, strict=True):
        if psnr >= level_db:
            if before is None:
                return hours
            share = (level_db - before[1]) / (psnr - before[1])
            return before[0] + share * (hours - before[0])
        before = hours, psnr
    return None


def draw(curves: dict[str, Curve], benchmark: str) -> Figure:
    """All curves, with the paper's own figure at the noise of the first one."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(curve.hours, curve.psnr_db, marker="o", markersize=3, label=name)
        axes.annotate(f"{curve.psnr_db[-1]:.2f}", (curve.hours[-1], curve.psnr_db[-1]), (4, -3),
                      textcoords="offset points", fontsize="small")  # fmt: skip
    first = next(iter(curves.values()))
    for method, style in (("n2s", "--"), ("supervised", ":")):
        published = paper_db(first.noise, "known", benchmark, method)
        if published is not None:
            words = "the paper, self-supervised" if method == "n2s" else "the paper, supervised"
            axes.axhline(published, linestyle=style, color="gray", linewidth=1, label=f"{words}: {published:.2f}")
    axes.set_xlabel("hours of training")
    axes.set_ylabel(f"PSNR on {benchmark} (dB), {first.noise}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=path_option, metavar="RUN", help="a run directory")
    parser.add_argument("--benchmark", required=True, metavar="NAME=DIR", help="clean images")
    parser.add_argument("--noise", metavar="gaussian:SIGMA|poisson:ZETA|gamma:K", help="what the images get")
    parser.add_argument("--out", required=True, type=path_option, metavar="FILE.png")
    parser.add_argument("--seed", type=int, default=0, help="of the benchmark's noise (%(default)s)")
    args = parser.parse_args()
    if args.out.suffix != ".png":
        raise UserError(f"--out is {args.out}: it should end with .png")
    ((name, folder),) = parse_folders([args.benchmark], "--benchmark").items()
    benchmark, ranks = Benchmark.open(name, folder, None, "float"), Ranks()
    noise = format_noise(parse_noise(args.noise)) if args.noise else None
    folders = list(dict.fromkeys(args.runs))
    curves = {
        name: measure(run_dir, benchmark, noise, args.seed, ranks)
        for name, run_dir in zip(run_names(folders), folders, strict=True)
    }
    if ranks.is_main:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        draw(curves, benchmark.name).savefig(args.out, dpi=150)
        print("hours until " + "".join(f"{level:>9.1f} dB" for level in _LEVELS_DB) + "     at the end")
        for name, curve in curves.items():
            reached = [hours_until(curve, level) for level in _LEVELS_DB]
            cells = "".join(f"{'never' if hours is None else f'{hours:.2f}':>12}" for hours in reached)
            print(f"{name:<12}{cells}{curve.psnr_db[-1]:>9.2f} dB after {curve.hours[-1]:.2f} h")
        print(f"wrote {args.out}")
    ranks.close()


if __name__ == "__main__":
    run_command(main)
