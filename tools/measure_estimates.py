#!/usr/bin/env python3
"""What it costs to name nothing: noise of instruments, estimated from each gray image alone, against the truth.

One line for each noise, means over images: PSNR in dB of the noisy image, told the noise, with nothing named, and told
that it is white; |estimate / true - 1| in percent, of the gain (by which the variance grows with brightness), of the
read noise (the standard deviation in the dark) and of the standard deviation at the image's own brightness; and
|estimate - true| of the correlation's width in pixels.

    tools/measure_estimates.py --images data/bsd400 --every 6 --count 68
    tools/measure_estimates.py --images data/bsd400 --noise poisson-gaussian:0.02:8 gaussian:25+blur:0.7

The usual noise is that of an sCMOS camera with 1.6 electrons of read noise and 20, 50 or 200 electrons at white, and
Poisson-Gaussian noise of five widths. One tunes by such images: give photographs that are no benchmark.
"""

import argparse
import json
from typing import Any

import numpy as np
from tqdm import tqdm

from n2s_dist.images.eight_bit import read_image
from n2s_dist.images.files import ImageFile, list_images
from n2s_dist.inference.network_choice import ShippedDenoiser
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.specification import parse_noise
from n2s_dist.utils.errors import UserError, run_command
from n2s_dist.utils.files import path_option
from n2s_dist.utils.hashing import frozen_rng, name_key

_USUAL = [
    "poisson-gaussian:0.05:20.4", "poisson-gaussian:0.02:8.16", "poisson-gaussian:0.005:2.04",
    *(f"poisson-gaussian:0.02:5{blur}" for blur in ("", "+blur:0.5", "+blur:0.7", "+blur:1", "+blur:1.5")),
]  # fmt: skip


def line_of(noise: NoiseModel, clean: np.ndarray) -> tuple[float, float]:
    """The straight line nearest to a noise's variance at an image's values: what it grows by, and the root of where it
    begins. clean: [H, W, 1] on the 0-1 scale.
    """
    variance = np.square(np.broadcast_to(noise.std(clean), clean.shape)).ravel()
    slope, start = np.polyfit(clean.ravel(), variance, 1)
    return slope, max(start, 0.0) ** 0.5


def errors(found: NoiseModel, true: NoiseModel, clean: np.ndarray) -> dict[str, float]:
    """Of an estimate: shares of the truth, of the width pixels."""
    (gain, read), (true_gain, true_read) = line_of(found, clean), line_of(true, clean)
    std, true_std = (np.sqrt(np.mean(np.square(noise.std(clean)))) for noise in (found, true))
    return {
        "gain": abs(gain / true_gain - 1) if true_gain > 1e-9 else np.nan,
        "read_noise": abs(read / true_read - 1) if true_read > 1e-9 else np.nan,
        "std": abs(std / true_std - 1),
        "width": abs(found.width - true.width),
    }


def measure(denoise: ShippedDenoiser, image: ImageFile, noise: NoiseModel, args: argparse.Namespace) -> dict[str, Any]:
    """One image's figures."""
    pixels = read_image(image, 1) / 255
    top, left = (max(0, (side - args.crop) // 2) for side in pixels.shape[:2])
    clean = pixels[top : top + args.crop, left : left + args.crop]
    noisy = noise.corrupt(clean, frozen_rng(args.seed, name_key(image.name))).astype(np.float32)

    def psnr(told: NoiseModel | None) -> tuple[float, NoiseModel]:
        x_hat, info = denoise(noisy, noise=told)
        assert isinstance(info.noise, NoiseModel)
        return psnr_db(clean, x_hat.clip(0, 1)), info.noise

    named, _ = psnr(noise)
    estimated, found = psnr(None)
    white = psnr(noise.white)[0] if noise.width else named
    figures = {"noisy_db": psnr_db(clean, noisy), "named_db": named, "nothing_named_db": estimated, "white_db": white}
    return {"name": image.name, **figures, **errors(found, noise, clean)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--images", required=True, type=path_option, metavar="DIR", help="clean images; color becomes gray")
    add("--noise", nargs="+", default=_USUAL, metavar="FAMILY:LEVEL", help="(of instruments)")
    add("--every", type=int, default=1, metavar="N", help="take every Nth image (%(default)s)")
    add("--count", type=int, metavar="N", help="take at most so many (all)")
    add("--crop", type=int, default=256, help="side of the middle that is taken, in pixels (%(default)s)")
    add("--seed", type=int, default=0, help="of the noise (%(default)s)")
    add("--json", type=path_option, metavar="FILE", help="write each image's figures here")
    args = parser.parse_args()
    noises = {text: parse_noise(text) for text in args.noise}
    images = list_images(args.images)[:: args.every][: args.count]
    if not images:
        raise UserError(f"{args.images} holds no images: give a folder of clean ones")

    denoise, rows = ShippedDenoiser(), []
    print(
        f"{'noise':<34}{'noisy':>7}{'named':>7}{'nothing':>8}{'white':>7}{'gain':>7}{'read':>7}{'std':>6}{'width':>7}"
    )
    for text, noise in noises.items():
        mine = [measure(denoise, image, noise, args) for image in tqdm(images, text, unit="image", leave=False)]
        rows += [{"noise": text, **row} for row in mine]
        mean = {key: float(np.nanmean([row[key] for row in mine])) for key in mine[0] if key != "name"}
        decibels = (
            f"{mean['noisy_db']:>7.2f}{mean['named_db']:>7.2f}{mean['nothing_named_db']:>8.2f}{mean['white_db']:>7.2f}"
        )
        percent = f"{100 * mean['gain']:>6.1f}%{100 * mean['read_noise']:>6.1f}%{100 * mean['std']:>5.1f}%"
        print(f"{text:<34}{decibels}{percent}{mean['width']:>7.3f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    run_command(main)
