#!/usr/bin/env python3
"""What `n2s denoise` makes of photographs and micrographs whose noise nobody names, against the mean of many shots.

A line an image: PSNR in dB of the noisy image and of the denoised one, the noise that was found, and the network that
was taken for it. Then the means. `n2s evaluate --suite real` measures one network; here each image has the one that
load_denoiser() takes.

    tools/measure_photographs.py data/cc15 data/fmd
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from n2s_dist.evaluation.benchmarks import Benchmark, Task
from n2s_dist.images.eight_bit import read_image
from n2s_dist.inference.network_choice import ShippedDenoiser
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.specification import noise_title
from n2s_dist.utils.errors import run_command
from n2s_dist.utils.files import path_option


def measure(denoise: ShippedDenoiser, task: Task) -> tuple[float, float]:
    """PSNR in dB of one noisy image, and of it denoised; prints them."""
    assert task.noisy is not None and task.has_truth
    truth, noisy = read_image(task.image) / 255, read_image(task.noisy) / 255
    x_hat, info = denoise(noisy.astype(np.float32))
    assert isinstance(info.noise, NoiseModel)
    before, after = psnr_db(truth, noisy), psnr_db(truth, x_hat.clip(0, 1))
    found = noise_title(info.noise.family) + (", correlated" if info.noise.width else "")
    std = 255 * float(np.mean(info.noise.std(np.full((1, 1, task.channels), 0.5))))
    tqdm.write(f"{task.image.name:<40}{before:>8.2f}{after:>8.2f}  {found}, {std:.1f} at 0.5, {info.network.path.name}")
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", nargs="+", type=path_option, metavar="DIR", help="as n2s evaluate --suite real takes them"
    )
    args = parser.parse_args()
    benchmarks: list[tuple[Path, Benchmark]] = [
        (each, Benchmark.open_photographs(each.name, each)) for each in args.folders
    ]
    denoise = ShippedDenoiser()
    for folder, benchmark in benchmarks:
        figures = [measure(denoise, task) for task in tqdm(benchmark.tasks, folder.name, unit="image", leave=False)]
        before, after = np.mean(figures, axis=0)
        worse = sum(after < before for before, after in figures)
        print(f"{folder.name}: {len(figures)} images, {before:.2f} to {after:.2f} dB; {worse} below the noisy image")


if __name__ == "__main__":
    run_command(main)
