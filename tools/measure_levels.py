#!/usr/bin/env python3
"""How well noise is estimated from noisy images alone, and what the estimate costs in PSNR.

One line for each noise: the mean of |estimate / true - 1| over the images, its mean with sign and its worst; PSNR in
dB by the true and by the estimated level. With --family also how often each family is taken for which, with --scan the
paper's total variation scan beside it.

    tools/measure_levels.py --checkpoint runs/universal --images data/cbsd68 --noise gaussian:15 gaussian:25
"""

import argparse
import json
import time
from collections import Counter
from typing import Any

import numpy as np
import torch

from n2s_dist.evaluation.suite import check_channels
from n2s_dist.images.eight_bit import read_image
from n2s_dist.images.files import ImageFile, list_images
from n2s_dist.inference.noise_estimation import estimate_noise
from n2s_dist.inference.tiling import denoise_tiled
from n2s_dist.inference.total_variation import scan_total_variation
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.models import checkpoint
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.specification import parse_noise
from n2s_dist.utils.errors import UserError, run_command
from n2s_dist.utils.files import path_option, path_text
from n2s_dist.utils.hashing import frozen_rng, name_key

_USUAL = ["gaussian:15", "gaussian:25", "gaussian:50", "poisson:0.01", "poisson:0.05", "gamma:100", "gamma:50"]


def measure(
    loaded: checkpoint.Loaded, image: ImageFile, benchmark: str, noise: NoiseModel, args: argparse.Namespace
) -> dict[str, Any]:
    """One image's errors of level, PSNR in dB and family taken for likeliest; its noise is that of the evaluator."""
    pixels = read_image(image)
    check_channels(loaded.channels, image, pixels.shape[2])
    clean = pixels / 255.0
    rng = frozen_rng(args.seed, name_key(benchmark), name_key(image.name))
    noisy = noise.corrupt(clean, rng).astype(np.float32)

    def psnr(by: NoiseModel) -> float:
        return psnr_db(clean, denoise_tiled(loaded.model, noisy, by).clip(0, 1))

    before = time.process_time()
    found = estimate_noise(loaded.model, noisy, noise.family)
    row: dict[str, Any] = {"name": image.name, "estimate_sec": time.process_time() - before}
    row |= {"error": found.level / noise.level - 1, "known_db": psnr(noise), "unknown_db": psnr(found)}
    if args.family:
        row["family"] = estimate_noise(loaded.model, noisy).family
    if args.scan:
        scanned = scan_total_variation(loaded.model, noisy, noise.family)
        row |= {"scan_error": scanned.level / noise.level - 1, "scan_db": psnr(scanned)}
    return row


def summary(rows: list[dict[str, Any]], error: str, psnr: str) -> str:
    errors = np.array([row[error] for row in rows])
    known, unknown = (np.mean([row[key] for row in rows]) for key in ("known_db", psnr))
    figures = f"{100 * np.abs(errors).mean():>8.2f}{100 * errors.mean():>+8.2f}{100 * np.abs(errors).max():>8.2f}"
    return figures + f"{known:>8.2f}{unknown:>8.2f}{known - unknown:>8.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, type=path_text, metavar="RUN_DIR")
    parser.add_argument(
        "--images", required=True, type=path_option, metavar="DIR", help="clean images; its name seeds noise"
    )
    parser.add_argument("--noise", nargs="+", default=_USUAL, metavar="FAMILY:LEVEL", help="(the usual levels)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    parser.add_argument("--family", action="store_true", help="also estimate the family")
    parser.add_argument("--scan", action="store_true", help="also scan levels by total variation")
    parser.add_argument("--json", type=path_option, metavar="FILE", help="write each image's figures here")
    args = parser.parse_args()
    noises = {text: parse_noise(text) for text in args.noise}
    if args.every < 1:
        raise UserError(f"--every is {args.every}: write 1 for all images")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = checkpoint.load(checkpoint.locate(args.checkpoint), device)
    images = list_images(args.images)[:: args.every]
    print(f"{loaded.path}, {len(images)} images of {args.images}; errors in %, PSNR in dB")
    print(f"{'':<14}{'|error|':>8}{'bias':>8}{'worst':>8}{'known':>8}{'unkn.':>8}{'lost':>8}  CPU s")
    everything = {}
    for text, noise in noises.items():
        rows = [measure(loaded, image, args.images.name, noise, args) for image in images]
        everything[text] = rows
        seconds = np.mean([row["estimate_sec"] for row in rows])
        print(f"{text:<14}{summary(rows, 'error', 'unknown_db')}{seconds:>7.1f}", flush=True)
        if args.scan:
            print(f"{'  scan':<14}{summary(rows, 'scan_error', 'scan_db')}", flush=True)
        if args.family:
            taken = Counter(row["family"] for row in rows)
            print("  taken for " + ", ".join(f"{family} {count}" for family, count in taken.items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
