#!/usr/bin/env python3
"""How well samples of the posterior agree with clean images, and with the uncertainty.

One block for each noise: PSNR of the posterior mean and of the samples' mean, the samples' spread over the uncertainty
and over the actual error, the power in each octave over that of the clean images, and how often the truth has each rank
among the samples, over how often it should. All ratios should be 1. --picture draws the first image: clean, noisy, the
posterior mean, two samples, and the samples' standard deviation.

    tools/measure_samples.py --images data/cbsd68 --noise gaussian:25 --every 10 --picture samples.png
    tools/measure_samples.py --noise gaussian:50 --crop 128 --samples 4 --picture samples.png
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from n2s_dist.evaluation.samples import OCTAVES, SampleFigures
from n2s_dist.images.eight_bit import read_image, to_uint8
from n2s_dist.images.files import list_images
from n2s_dist.inference.network_choice import load_denoiser
from n2s_dist.inference.posterior_samples import MOST, check_wanted
from n2s_dist.inference.reference_photographs import PHOTOGRAPHS, photograph
from n2s_dist.inference.uncertainty import Posterior, std_picture
from n2s_dist.noise.specification import parse_noise
from n2s_dist.utils.errors import UserError, run_command
from n2s_dist.utils.files import path_option, path_text
from n2s_dist.utils.hashing import frozen_rng, name_key

_GAP = 4  # pixels between pictures


def clean_images(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Names and images, [H, W, C] on the 0-1 scale."""
    if args.images is None:
        images = ((name, photograph(name, 3)) for name in PHOTOGRAPHS)
    else:
        images = ((each.name, read_image(each) / 255) for each in list_images(args.images)[:: args.every])
    for name, image in images:
        top, left = (max(0, (side - args.crop) // 2) if args.crop else 0 for side in image.shape[:2])
        yield name, image[top : top + (args.crop or image.shape[0]), left : left + (args.crop or image.shape[1])]


def measure(args: argparse.Namespace, noise_text: str) -> SampleFigures:
    """Of all images together; draws the first."""
    denoise, noise, parts = load_denoiser(args.checkpoint), parse_noise(noise_text), []
    for name, clean in tqdm(list(clean_images(args)), unit="image"):
        noisy = noise.corrupt(clean, frozen_rng(args.seed, name_key(name))).astype(np.float32)
        x_hat, info = denoise(noisy, noise=noise, uncertainty=True, samples=args.samples, seed=args.seed)
        parts.append(SampleFigures.of_image(clean, Posterior(x_hat, info.std), info.samples))
        if args.picture and len(parts) == 1:
            draw(
                args.picture, [clean, noisy, x_hat, *info.samples[:2], std_picture(info.samples.std(0, ddof=1)) / 65535]
            )
    return SampleFigures.summed(parts)


def draw(path: Path, images: list[np.ndarray]) -> None:
    """Side by side, three in a row."""
    height, width, channels = images[0].shape
    sheet = np.full((2 * height + _GAP, 3 * width + 2 * _GAP, channels), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // 3 * (height + _GAP), number % 3 * (width + _GAP)
        sheet[top : top + height, left : left + width] = to_uint8(image)
    Image.fromarray(sheet if channels == 3 else sheet[..., 0]).save(path)


def report(noise_text: str, figures: SampleFigures) -> None:
    summary = figures.summary()
    means = ("psnr_mean_db", "psnr_of_samples_mean_db", "psnr_of_endless_samples_mean_db")
    psnr = ", ".join(f"{summary[key]:.2f}" for key in means)
    spread = f"{summary['spread_over_uncertainty']:.2f}, {summary['spread_over_error']:.2f}"
    print(noise_text)
    print(f"  PSNR in dB of the posterior mean, the samples' mean, that of endlessly many: {psnr}")
    print(f"  spread over uncertainty, over error: {spread}")
    print(f"  octaves, pixels a cycle: {', '.join(f'{1 / high:.0f} to {1 / low:.0f}' for low, high in OCTAVES)}")
    for key in ("power_of_mean", "power_of_samples", "ranks"):
        print(f"  {key.replace('_', ' ')}: {' '.join(f'{value:.2f}' for value in summary[key])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=path_text, metavar="RUN_DIR", help="a run or a shipped network's name (the one that fits)")
    add("--images", type=path_option, metavar="DIR", help="clean images (two photographs of scikit-image)")
    add("--noise", nargs="+", default=["gaussian:25"], metavar="FAMILY:LEVEL", help="(gaussian:25)")
    add("--samples", type=int, default=16, metavar="N", help="of each image (%(default)s)")
    add("--every", type=int, default=1, metavar="N", help="take every Nth image (%(default)s)")
    add("--crop", type=int, default=0, metavar="SIDE", help="take the middle of each, of SIDE x SIDE pixels (all)")
    add("--seed", type=int, default=0, help="of noise and samples (%(default)s)")
    add("--picture", type=path_option, metavar="FILE", help="draw the first image")
    args = parser.parse_args()
    check_wanted(args.samples, args.seed)
    if args.samples < 2 or args.crop < 0 or args.every < 1:
        raise UserError(f"take 2 to {MOST} --samples, a --crop of 0 or more, and --every of 1 or more")
    for text in args.noise:
        parse_noise(text)
    for text in args.noise:
        report(text, measure(args, text))


if __name__ == "__main__":
    run_command(main)
