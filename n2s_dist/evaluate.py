"""Evaluate a checkpoint on benchmarks: corrupt, denoise by Tweedie's formula, measure.

    accelerate launch -m n2s_dist.evaluate --checkpoint runs/a --benchmark cbsd68=data/cbsd68 --out runs/a/evaluation

Each image's noise depends on (seed, benchmark, file name) alone, how a large one is cut into tiles on its size and
the network alone, and each tile is computed by one thread, so the table is the same to the last bit on any number of
ranks and cores.
"""

import argparse
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from n2s_dist import checkpoint
from n2s_dist.denoise import Reach, choose_noise
from n2s_dist.distributed import Ranks
from n2s_dist.errors import UserError, run_command
from n2s_dist.measure import MEASURES, Bench, image_row
from n2s_dist.noise import NoiseModel, format_noise
from n2s_dist.paper import paper_db
from n2s_dist.shares import Piece, cut, list_tasks, share_out
from n2s_dist.tracking import log_results

PROTOCOL = "float: noise neither clipped nor quantised, estimate clamped to [0, 1], PSNR per image, then the mean"


def evaluate(
    loaded: checkpoint.Loaded,
    noise_model: NoiseModel,
    benchmarks: dict[str, Path],
    seed: int,
    ranks: Ranks,
    pictures: Path | None,
) -> dict:
    """Results of all benchmarks, the same on every rank. Errors of any rank stop all ranks."""
    tasks = list_tasks(benchmarks)
    reach = Reach.of(loaded.model)
    cuts = {task.name: cut(task, reach) for task in tasks}
    pieces = [piece for parts in cuts.values() for piece in parts]
    mine = share_out(pieces, ranks.world_size)[ranks.rank]
    if ranks.is_main:
        print(f"{len(tasks)} images in {len(pieces)} pieces on {ranks.world_size} rank(s)")
    bench = Bench(loaded.model, noise_model, loaded.channels, seed, pictures, mine)
    # One thread a piece: how PyTorch splits an image over threads changes its last bits.
    workers = 1 if ranks.device.type == "cuda" else torch.get_num_threads()
    torch.set_num_threads(1)
    problem, measured = None, []
    try:
        with ThreadPoolExecutor(workers) as pool:
            done = pool.map(bench.measure, mine)
            measured = list(tqdm(done, total=len(mine), unit="piece", disable=not ranks.is_main))
    except UserError as error:
        problem = str(error)
    stop_all(ranks, problem)
    by_image = defaultdict(list)
    for row in ranks.gather(measured):
        by_image[row["benchmark"], row["name"]].append(row)
    if pictures:
        join_pictures(bench, list(cuts.values()), ranks)
    protocol = {"protocol": PROTOCOL.split(":")[0]}
    rows = [image_row(task, loaded.channels, by_image[task.name]) | protocol for task in tasks]
    rows = sorted(rows, key=lambda row: (row["benchmark"], row["name"]))
    noise = format_noise(noise_model)
    results: dict[str, Any] = {
        "checkpoint": str(loaded.path),
        "samples_seen": loaded.samples_seen,
        "noise": noise,
        "seed": seed,
        "protocol": PROTOCOL,
        "versions": checkpoint.versions(),
        "benchmarks": {},
    }
    for name in benchmarks:
        images = [row for row in rows if row["benchmark"] == name]
        means = {key: mean([row[key] for row in images]) for key in MEASURES}
        results["benchmarks"][name] = {"num_images": len(images), **means, **published(noise, name), "images": images}
    return results


def stop_all(ranks: Ranks, problem: str | None) -> None:
    """Raise UserError on every rank when one of them has a problem."""
    problems = [message for message in ranks.gather([problem]) if message]
    if problems:
        raise UserError(problems[0])


def join_pictures(bench: Bench, cuts: list[list[Piece]], ranks: Ranks) -> None:
    """Write the pictures of images that were cut into tiles, each by one rank."""
    in_tiles = [pieces for pieces in cuts if len(pieces) > 1]
    for pieces in in_tiles[ranks.rank :: ranks.world_size]:
        bench.join(pieces)
    ranks.barrier()


def mean(values: list[float | None]) -> float | None:
    """The mean of what could be measured."""
    measured = [value for value in values if value is not None]
    return float(np.mean(measured)) if measured else None


def published(noise: str, benchmark: str) -> dict[str, float]:
    """The paper's and the reproduction's PSNR for a table cell, where there is one."""
    columns = {"paper_db": "n2s", "paper_supervised_db": "supervised", "reproduction_db": "reproduction"}
    found = {key: paper_db(noise, "known", benchmark, method) for key, method in columns.items()}
    return {key: value for key, value in found.items() if value is not None}


def format_table(results: dict[str, Any]) -> str:
    """The results beside the published figures, at most 80 columns wide."""
    lines = [
        f"{results['noise']}, PSNR in dB, {results['samples_seen']:,} samples",
        f"{'benchmark':<14}{'images':>6}{'noisy':>8}{'denoised':>10}{'8-bit':>8}{'SSIM':>8}{'paper':>8}{'differ.':>9}{'reprod.':>9}",
    ]
    for name, row in results["benchmarks"].items():
        paper, reproduction = row.get("paper_db"), row.get("reproduction_db")
        lines.append(
            f"{name[:14]:<14}{row['num_images']:>6}{row['psnr_noisy_db']:>8.2f}{row['psnr_db']:>10.2f}"
            f"{row['psnr_uint8_db']:>8.2f}"
            + (f"{row['ssim']:>8.4f}" if row["ssim"] is not None else f"{'-':>8}")
            + (f"{paper:>8.2f}{row['psnr_db'] - paper:>+9.2f}" if paper else f"{'-':>8}{'-':>9}")
            + (f"{reproduction:>9.2f}" if reproduction else f"{'-':>9}")
        )
    return "\n".join(lines)


def parse_benchmarks(words: list[str]) -> dict[str, Path]:
    """Read NAME=DIR options."""
    benchmarks: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--benchmark {word} is not understood: write NAME=DIR, such as cbsd68=data/cbsd68")
        if name in benchmarks:
            raise UserError(f"--benchmark {name} is given twice")
        benchmarks[name] = Path(folder)
    return benchmarks


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m n2s_dist.evaluate", description="Evaluate a checkpoint on benchmarks."
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN_DIR", help="a run directory or one of its checkpoints"
    )
    parser.add_argument("--which", choices=["last", "best"], default="last", help="checkpoint of a run (%(default)s)")
    parser.add_argument("--benchmark", action="append", required=True, metavar="NAME=DIR", help="may be repeated")
    parser.add_argument("--noise", metavar="FAMILY:LEVEL", help="noise to evaluate at (default: what was trained on)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results.json goes")
    parser.add_argument("--seed", type=int, default=0, help="of the benchmarks' noise (%(default)s)")
    parser.add_argument(
        "--pictures", action="store_true", help="write clean, noisy and denoised images to DIR/pictures"
    )
    parser.add_argument("--no-wandb", action="store_true", help="do not log the table, even if training did")
    args = parser.parse_args()
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}: it can't be negative")

    benchmarks = parse_benchmarks(args.benchmark)
    path = checkpoint.locate(args.checkpoint, args.which)
    list_tasks(benchmarks)  # names missing and empty folders before ranks start
    ranks = Ranks()
    loaded = checkpoint.load(path, ranks.device)
    noise = choose_noise(loaded, args.noise)
    results = evaluate(loaded, noise, benchmarks, args.seed, ranks, args.out / "pictures" if args.pictures else None)
    if ranks.is_main:
        args.out.mkdir(parents=True, exist_ok=True)
        partial_file = args.out / ".results.json.partial"
        partial_file.write_text(json.dumps(results, indent=1) + "\n")
        partial_file.replace(args.out / "results.json")
        print(format_table(results))
        print(f"wrote {args.out / 'results.json'}")
        if not args.no_wandb:
            log_results(loaded.config, path.parent.parent, results["benchmarks"], MEASURES)
    ranks.close()


if __name__ == "__main__":
    run_command(main)
