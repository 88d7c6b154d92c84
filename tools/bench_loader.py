#!/usr/bin/env python3
"""How fast random 128x128 crops come out of the loader, against other loaders on the same images.

Every loader yields float32 batches [B, 3, 128, 128] in random order and may use every core; this one
flips and transposes its crops besides. The images have DIV2K's size, 2040x1404:

    png_dataloader   torch's DataLoader; one whole PNG is decoded for each crop, as most training code does
    webdataset       webdataset's pipeline on PNG tiles of 256x256
    webdataset_raw   the same on this project's shards
    litdata          litdata's chunks of raw tiles           (where it is installed)
    mosaicml         mosaicml-streaming's shards of raw tiles (where it is installed)

They are measured in turn, several rounds of it, and each one's best round counts: whatever else the
machine is doing slows single rounds down.

Before that, the host's own work on a crop: what Python and NumPy do to find its tile, its place and its noise keys,
in microseconds of one thread. On a GPU that is what limits the loader.

    tools/bench_loader.py --json loader.json
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from bench import machine, photograph_of_size, report, say, show, turns
from bench_rivals import RIVALS, Job
from PIL import Image

from n2s_dist.loading import sample_order
from n2s_dist.loading.crop_inputs import crop_inputs
from n2s_dist.loading.crop_loader import CropLoader
from n2s_dist.noise.specification import parse_noise
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils.errors import UserError, run_command
from n2s_dist.utils.files import path_option

_HEIGHT, _WIDTH, _CROP, _BATCH = 1404, 2040, 128, 32
_BUDGET_SEC = 150
_NOISES = ("gaussian:25", "poisson:0.01", "gamma:100")


def this_loader(shards: ShardSet, noise: str | None, workers: int) -> CropLoader:
    positions = (sample_order.rank_positions(step, _BATCH, 0, 1) for step in itertools.count())
    model = parse_noise(noise) if noise else None
    return CropLoader(shards, positions, _BATCH, _CROP, model, 0, num_threads=workers)


def crops_per_sec(batches: Iterator[torch.Tensor], seconds: float, made_ahead: int) -> float:
    """Throughput, not counting the batches that were made while other loaders had their turn."""
    for _ in range(made_ahead):
        next(batches)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count == 0:
        count += len(next(batches))
    return count / elapsed


def host_microseconds(shards: ShardSet, seconds: float) -> dict[str, float]:
    """Processor time of one thread for each crop, of 64 and of 128 pixels, clean and with frozen noise."""
    found = {}
    for size, noisy in itertools.product((64, _CROP), (False, True)):
        batches = crop_inputs(shards, (512 * step + np.arange(512) for step in itertools.count()), size, 0, noisy=noisy)
        for _ in range(-(-len(shards) // 512) + 1):  # the headers of tiles are read once
            next(batches)
        count, start = 0, time.thread_time()
        while (elapsed := time.thread_time() - start) < seconds or count == 0:
            count += len(next(batches)[0])
        name = f"host_us_a_crop_of_{size}_{'noisy' if noisy else 'clean'}"
        found[name] = show(name, 1e6 * elapsed / count)
    return found


def write_images(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:04d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(np.roll(photograph_of_size(_HEIGHT, _WIDTH), 100 * number, (0, 1))).save(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=path_option, metavar="FILE", help="write ratios, figures and machine here")
    parser.add_argument("--images", type=int, default=8, help="PNGs of 2040x1404 to read (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time of each turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each loader (%(default)s)")
    args = parser.parse_args()

    if args.rounds < 1:
        raise UserError(f"--rounds is {args.rounds}: measure at least one")
    workers = machine()["cores"]
    assert isinstance(workers, int)
    # Worker processes fill the cores: threads that turn their bytes to floats would only wait for each other.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        images = write_images(Path(scratch) / "images", args.images)
        build_shards([str(images[0].parent)], f"{scratch}/shards", BuildOptions(validation_fraction=0, shard_mib=8))
        shards = ShardSet(f"{scratch}/shards")
        job = Job(images, shards, Path(scratch), _CROP, _BATCH, workers)
        host = host_microseconds(shards, args.seconds / 4)
        loaders: dict[str, Iterator[torch.Tensor]] = {}
        for name, rival in RIVALS.items():
            if rival.version:
                loaders[name] = rival.open(job)
                next(loaders[name])  # starts its workers, while this process still has no threads of DALI's
            else:
                say(f"{name} is left out, since {rival.package} is not installed: {rival.hint}")
        for noise in (None, *_NOISES):
            loaders[noise.split(":")[0] if noise else "clean"] = this_loader(shards, noise, workers)

        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for turn, bar in turns(args.rounds, _BUDGET_SEC, "rounds"):
            for name, loader in loaders.items():
                rates[name].append(crops_per_sec(loader, args.seconds, made_ahead=2 * workers + 1))
                bar.set_postfix_str(f"{name} {rates[name][-1]:,.0f} crops/s")
                if turn == args.rounds - 1:
                    show(f"{name}_crops_per_sec", max(rates[name]))
        loaders.clear()

    best = {name: max(found) for name, found in rates.items()}
    report(
        args.json,
        ratios={f"over_{name}": best["clean"] / best[name] for name in RIVALS if name in best},
        figures={f"{name}_crops_per_sec": rate for name, rate in best.items()} | host,
        machine={**machine(), **{rival.package: rival.version for rival in RIVALS.values() if rival.version}},
    )


if __name__ == "__main__":
    run_command(main)
