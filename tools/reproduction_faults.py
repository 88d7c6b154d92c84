#!/usr/bin/env python3
"""What each fault of the public reproduction costs: short runs that differ in one thing.

    tools/reproduction_faults.py --images data/bsd400 --benchmark data/cbsd68 --out runs/faults

Every row trains for the same number of crops from the same seed and is evaluated by the same protocol (floats, nothing
clipped). Runs are kept in the output folder; the same command goes on from there.
"""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from bench import machine
from PIL import Image
from torch import Tensor

from n2s_dist.distributed.ranks import Ranks
from n2s_dist.evaluation.benchmarks import Benchmark
from n2s_dist.evaluation.methods import of_network
from n2s_dist.evaluation.runner import sweep
from n2s_dist.evaluation.suite import product_cells
from n2s_dist.images.eight_bit import read_image
from n2s_dist.images.files import list_images
from n2s_dist.models import checkpoint
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import train
from n2s_dist.utils.errors import run_command
from n2s_dist.utils.files import path_option, path_text

_CROP = 64
_PAPERS_LAW = ("--ardae.coordinates=image", "--ardae.sigma_a=[0.05,0.001]")


class Row(NamedTuple):
    """A run: what it is called, its settings, and which faults no setting can bring about."""

    name: str
    options: tuple[str, ...] = ()
    relu: bool = False
    clipped: bool = False
    fixed_crop: bool = False


ROWS = (
    Row("gaussian25, no fault"),
    Row("the score can't be negative (a ReLU ends the network)", relu=True),
    Row("one fixed crop an image", fixed_crop=True),
    Row("noisy images clipped to [0, 1] in training", clipped=True),
    Row("batches of one crop", ("--train.global_batch_size=1", "--train.device_batch_size=1")),
    Row("the paper's law: sigma_a from 0.05 to 0.001, in y", _PAPERS_LAW),
    Row("the same, never annealed: sigma_a 0.05", ("--ardae.coordinates=image", "--ardae.sigma_a=[0.05,0.05]")),
    Row(
        "the paper's law with all five faults",
        (
            "--ardae.coordinates=image", "--ardae.sigma_a=[0.05,0.05]", "--train.global_batch_size=1",
            "--train.device_batch_size=1",
        ),
        relu=True, clipped=True, fixed_crop=True,
    ),
)  # fmt: skip


def faults(row: Row, training: bool) -> ExitStack:
    """The row's faults, in force until the stack is closed."""
    stack = ExitStack()
    forward, given = ScoreModel.forward, ScoreModel.given

    def clamped(model: ScoreModel, noisy: Tensor, noise: object) -> tuple[Tensor, Tensor]:
        return given(model, noisy.clamp(0, 1), noise)  # type: ignore[arg-type]

    def positive(model: ScoreModel, w: Tensor, sigma_a: Tensor, condition: Tensor) -> Tensor:
        return torch.relu(forward(model, w, sigma_a, condition))

    if row.clipped and training:
        stack.enter_context(mock.patch.object(ScoreModel, "given", clamped))
    if row.relu:
        stack.enter_context(mock.patch.object(ScoreModel, "forward", positive))
    return stack


def middle_crops(images: Path, folder: Path) -> None:
    """Write the middle of each image, as large as a crop, and nothing else of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in list_images(images):
        pixels = read_image(image, 3)
        top, left = ((side - _CROP) // 2 for side in pixels.shape[:2])
        name = Path(image.name).with_suffix(".png").name
        Image.fromarray(pixels[top : top + _CROP, left : left + _CROP]).save(folder / name)


def mean_psnr_db(run_dir: Path, benchmark: Path, seed: int) -> float:
    """Mean PSNR in dB of a run's last checkpoint over a folder of clean images, by the evaluator."""
    denoiser = of_network(checkpoint.load(checkpoint.locate(run_dir)))
    source = Benchmark.open(benchmark.name, benchmark, None, "float")
    results = sweep(product_cells([source], [denoiser], None, ("known",)), seed, Ranks(), run_dir / "evaluation")
    return results["cells"][0]["psnr_db"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=path_option, metavar="DIR", help="color images to train on")
    parser.add_argument(
        "--benchmark", required=True, type=path_option, metavar="DIR", help="clean images to measure on"
    )
    parser.add_argument(
        "--out", required=True, type=path_option, metavar="DIR", help="where shards, runs and faults.json go"
    )
    parser.add_argument(
        "--config", type=path_text, default="configs/gaussian25.yaml", help="the run without a fault (%(default)s)"
    )
    parser.add_argument("--total-samples", type=int, default=20_000, help="crops in each run (%(default)s)")
    args = parser.parse_args()

    middle_crops(args.images, args.out / "middles")
    build_shards([str(args.images)], args.out / "shards", BuildOptions())
    build_shards([str(args.out / "middles")], args.out / "fixed", BuildOptions(tile_size=_CROP))
    found = {}
    for number, row in enumerate(ROWS):
        run_dir = args.out / f"run-{number}"
        shards = args.out / ("fixed" if row.fixed_crop else "shards")
        options = ["--config", args.config, "--run_dir", str(run_dir), "--data.shards", str(shards)]
        options += [f"--data.crop_size={_CROP}", f"--train.total_samples={args.total_samples}", *row.options]
        config = read_config([*options, "--tracking.wandb=false"])
        with faults(row, training=True):
            train(config)
        with faults(row, training=False):
            found[row.name] = mean_psnr_db(run_dir, args.benchmark, config.seed)
        print(f"{found[row.name]:6.2f} dB  {found[row.name] - found[ROWS[0].name]:+6.2f}  {row.name}", flush=True)
        about = {"benchmark": args.benchmark.name, "crops": args.total_samples, "psnr_db": found, "machine": machine()}
        (args.out / "faults.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
