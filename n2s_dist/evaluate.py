"""Evaluate a checkpoint on benchmarks: corrupt, denoise by Tweedie's formula, measure.

    accelerate launch -m n2s_dist.evaluate --checkpoint runs/a --benchmark cbsd68=data/cbsd68 --out runs/a/evaluation

Each image's noise depends on (seed, benchmark, file name) alone and each image is computed by one
thread, so the table is the same to the last bit on any number of ranks and cores.
"""

import argparse
import heapq
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from n2s_dist import checkpoint
from n2s_dist.denoise import check_channels, choose_noise, denoise_whole
from n2s_dist.distributed import Ranks
from n2s_dist.errors import UserError, run_command
from n2s_dist.images import ImageFile, image_size, list_images, read_image, to_uint8, write_image
from n2s_dist.metrics import psnr_db, ssim
from n2s_dist.noise import format_noise, frozen_rng
from n2s_dist.order import name_key
from n2s_dist.score import ScoreModel
from n2s_dist.tracking import log_results

MEASURES = ("psnr_noisy_db", "psnr_db", "psnr_uint8_db", "ssim")
PROTOCOL = "float: noise neither clipped nor quantised, estimate clamped to [0, 1], PSNR per image, then the mean"


@dataclass(frozen=True)
class Task:
    """One image of one benchmark."""

    benchmark: str
    image: ImageFile
    pixels: int


def list_tasks(benchmarks: dict[str, Path]) -> list[Task]:
    tasks = []
    for name, folder in benchmarks.items():
        for image in list_images(folder):
            height, width = image_size(image)
            tasks.append(Task(name, image, height * width))
    return tasks


def share_out(tasks: list[Task], world_size: int) -> list[list[Task]]:
    """Tasks of each rank: the largest left goes to the rank with the fewest pixels so far (Graham 1969)."""
    shares: list[list[Task]] = [[] for _ in range(world_size)]
    loads = [(0, rank) for rank in range(world_size)]
    for task in sorted(tasks, key=lambda task: (-task.pixels, task.benchmark, task.image.name)):
        load, rank = heapq.heappop(loads)
        shares[rank].append(task)
        heapq.heappush(loads, (load + task.pixels, rank))
    return shares


def evaluate_image(model: ScoreModel, channels: int, seed: int, pictures: Path | None, task: Task) -> dict[str, Any]:
    """Corrupt, denoise and measure one image; optionally write its clean, noisy and denoised versions."""
    pixels = read_image(task.image)
    check_channels(channels, task.image, pixels)
    clean = pixels / 255.0
    rng = frozen_rng(seed, name_key(task.benchmark), name_key(task.image.name))
    noisy = model.noise.corrupt(clean, rng).astype(np.float32)
    estimate = np.clip(denoise_whole(model, noisy), 0, 1)
    if pictures:
        stem = task.image.name.rsplit(".", 1)[0]
        for kind, picture in (("clean", pixels), ("noisy", to_uint8(noisy)), ("denoised", to_uint8(estimate))):
            write_image(pictures / task.benchmark / f"{stem}-{kind}.png", picture)
    return {
        "name": task.image.name,
        "benchmark": task.benchmark,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "psnr_noisy_db": psnr_db(clean, noisy),
        "psnr_db": psnr_db(clean, estimate),
        "psnr_uint8_db": psnr_db(clean, to_uint8(estimate) / 255.0),
        "ssim": ssim(clean, estimate),
        "protocol": PROTOCOL.split(":")[0],
    }


def evaluate(
    loaded: checkpoint.Loaded, benchmarks: dict[str, Path], seed: int, ranks: Ranks, pictures: Path | None
) -> dict:
    """Results of all benchmarks, the same on every rank. Errors of any rank stop all ranks."""
    mine = share_out(list_tasks(benchmarks), ranks.world_size)[ranks.rank]
    measure = partial(evaluate_image, loaded.model, loaded.channels, seed, pictures)
    # One thread an image: how PyTorch splits an image over threads changes its last bits.
    workers = 1 if ranks.device.type == "cuda" else torch.get_num_threads()
    torch.set_num_threads(1)
    problem, rows = None, []
    try:
        with ThreadPoolExecutor(workers) as pool:
            rows = list(tqdm(pool.map(measure, mine), total=len(mine), unit="image", disable=not ranks.is_main))
    except UserError as error:
        problem = str(error)
    problems = [message for message in ranks.gather([problem]) if message]
    if problems:
        raise UserError(problems[0])
    rows = sorted(ranks.gather(rows), key=lambda row: (row["benchmark"], row["name"]))
    noise = format_noise(loaded.model.noise)
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


def mean(values: list[float | None]) -> float | None:
    """The mean of what could be measured."""
    measured = [value for value in values if value is not None]
    return float(np.mean(measured)) if measured else None


def published(noise: str, benchmark: str) -> dict[str, float]:
    """The paper's and the reproduction's PSNR for a table cell, where there is one."""
    table = yaml.safe_load((Path(__file__).parent / "paper.yaml").read_text())
    columns = {"paper_db": "known", "paper_supervised_db": "supervised", "reproduction_db": "reproduction"}
    found = {key: table[column].get(noise, {}).get(benchmark) for key, column in columns.items()}
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
    loaded.model.noise = choose_noise(loaded, args.noise)
    results = evaluate(loaded, benchmarks, args.seed, ranks, args.out / "pictures" if args.pictures else None)
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
