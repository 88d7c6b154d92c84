#!/usr/bin/env python3
"""How fast crops come out of the loader, against a torch DataLoader on whole images.

The rival decodes one 2040x1404 PNG (the size of DIV2K's) for each 128x128 crop, as most training code
does; this loader crops memory-mapped tiles of the same images. Both use every core, in one run.

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
from bench import machine, photograph_of_size, report
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from n2s_dist import order
from n2s_dist.build import build_shards
from n2s_dist.errors import run_command
from n2s_dist.loader import CropLoader
from n2s_dist.noise import parse_noise
from n2s_dist.plan import BuildOptions
from n2s_dist.shards import ShardSet

_HEIGHT, _WIDTH, _CROP, _BATCH = 1404, 2040, 128, 32


class PngCrops(Dataset):
    """A random crop of a freshly decoded PNG for each index."""

    def __init__(self, paths: list[Path], length: int) -> None:
        self.paths, self.length = paths, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        rng = np.random.default_rng(index)
        image = np.asarray(Image.open(self.paths[rng.integers(len(self.paths))]))
        row, column = rng.integers(_HEIGHT - _CROP), rng.integers(_WIDTH - _CROP)
        crop = image[row : row + _CROP, column : column + _CROP].astype(np.float32) / 255
        return torch.from_numpy(crop).permute(2, 0, 1).contiguous()


def crops_per_sec(batches: Iterator[torch.Tensor], seconds: float) -> float:
    """Throughput after the first batch, over at least one batch."""
    next(batches)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count == 0:
        count += len(next(batches))
    return count / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write ratios, figures and machine here")
    parser.add_argument("--images", type=int, default=8, help="PNGs of 2040x1404 to read (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured time for each loader (%(default)s)")
    args = parser.parse_args()

    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        for number in range(args.images):
            Image.fromarray(np.roll(photograph_of_size(_HEIGHT, _WIDTH), 100 * number, (0, 1))).save(
                folder / f"{number:04d}.png"
            )
        build_shards([str(folder)], f"{scratch}/shards", BuildOptions(validation_fraction=0))
        shards, cores = ShardSet(f"{scratch}/shards"), machine()["cores"]
        assert isinstance(cores, int)

        rival = PngCrops(sorted(folder.iterdir()), 1_000_000)
        batches = iter(DataLoader(rival, batch_size=_BATCH // 4, num_workers=cores))
        figures["png_dataloader_crops_per_sec"] = crops_per_sec(batches, 2 * args.seconds)
        del batches

        for noise in (None, "gaussian:25", "poisson:0.01", "gamma:100"):
            positions = (order.rank_positions(step, _BATCH, 0, 1) for step in itertools.count())
            model = parse_noise(noise) if noise else None
            loader = CropLoader(shards, positions, _BATCH, _CROP, model, 0, num_threads=cores)
            name = noise.split(":")[0] if noise else "clean"
            figures[f"{name}_crops_per_sec"] = crops_per_sec(loader, args.seconds)

    ratio = figures["clean_crops_per_sec"] / figures["png_dataloader_crops_per_sec"]
    report(args.json, ratios={"over_png_dataloader": ratio}, figures=figures, machine=machine())


if __name__ == "__main__":
    run_command(main)
