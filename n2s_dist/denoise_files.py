"""Denoise users' own image files.

n2s-denoise noisy.png denoised.png
n2s-denoise --noise gaussian:20 --ensemble --uncertainty noisy.tif denoised.tif
n2s-denoise --checkpoint runs/gaussian25 noisy/ denoised/

A file keeps its depth, 8 or 16 bits a channel, and its transparency. Noise that is not named is estimated, or is what
the network was trained on.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from n2s_dist.denoise import TILE
from n2s_dist.denoiser import Denoiser, Info, ShippedDenoiser, load_denoiser
from n2s_dist.images.files import SUFFIXES, ImageFile, list_images
from n2s_dist.images.user_files import Picture, read_picture, write_picture
from n2s_dist.noise.mixtures import Mixture
from n2s_dist.noise.specification import format_noise, format_training_noise, parse_cell_noise
from n2s_dist.uncertainty import std_picture
from n2s_dist.utils.errors import UserError, run_command


def list_work(source: Path, out: Path) -> list[tuple[ImageFile, Path]]:
    """Each image and where its denoised version goes. Raises UserError for names that can't be."""
    if source.is_file() and source.suffix.lower() in SUFFIXES:
        target = out / source.name if out.is_dir() else out
        if target.suffix.lower() not in SUFFIXES:
            raise UserError(f"{target} has no image suffix: end it in one of {', '.join(SUFFIXES)}")
        return [(ImageFile(source.parent, source.name, source.stat().st_size), target)]
    images = list_images(source)
    if out.is_file():
        raise UserError(f"{out} is a file: {source} holds several images, so OUT is a folder")
    # Denoised images are written losslessly, whatever the noisy ones were.
    work = [(image, (out / image.name).with_suffix(".png")) for image in images]
    if len({target for _, target in work}) < len(work):
        raise UserError(f"{source} holds images that differ only in their suffix: rename one of them")
    return work


def spare_sources(work: list[tuple[ImageFile, Path]]) -> None:
    """UserError where a noisy image would be overwritten."""
    sources = {image.path.resolve() for image, _ in work}
    for image, target in work:
        if target.resolve() in sources:
            raise UserError(f"{image.path} would be overwritten by its denoised version: choose another OUT")


def remark(info: Info) -> str:
    """What to know of the noise that was estimated or named; empty where there is nothing."""
    assert not isinstance(info.noise, list)  # one image at a time
    words, trained = format_noise(info.noise), info.network.model.noise
    known = format_training_noise(trained)
    if isinstance(trained, Mixture) and info.estimated and trained.is_end(info.noise):
        return f"{words} (estimated), an end of what the network knows ({known}): it may be other noise, so try --noise"
    if isinstance(trained, Mixture) and not info.estimated and not trained.holds(info.noise):
        return f"{words} is none of what the network was trained on ({known})"
    return f"{words} (estimated)" if info.estimated else ""


def remark_white(picture: Picture) -> str:
    """Advice for files of 16 bits that look as if they held fewer; empty for others."""
    if picture.pixels.dtype != np.uint16:
        return ""
    brightest = int(picture.pixels.max())
    for bits in (8, 10, 12, 14):
        white = 2**bits - 1
        if brightest <= white:
            return f"its values end at {brightest} of 65535; where white is {white} ({bits} bits), say --white {white}"
    return ""


def std_path(target: Path) -> Path:
    """Where the standard deviations of a denoised image go."""
    return target.with_name(f"{target.stem}-std.png")


def denoise_file(
    image: ImageFile, target: Path, denoise: Denoiser | ShippedDenoiser, white: int | None, **wanted: Any
) -> list[str]:
    """Denoise one file into another, at its own depth; returns what to know of it.

    white: the value that is 1 on the 0-1 scale, or None for the highest. wanted: what a denoiser takes.
    Raises UserError that names the file.
    """
    picture = read_picture(image)
    scale = np.float32(picture.white(white, image.path))
    try:
        x_hat, info = denoise(picture.pixels if white is None else picture.pixels / scale, **wanted)
    except UserError as error:
        raise UserError(f"{image.path}: {error}") from None
    if white is not None:
        highest = max(scale, picture.pixels.max())
        x_hat = np.rint(np.clip(x_hat * scale, 0, highest)).astype(picture.pixels.dtype)
    write_picture(target, Picture(x_hat, picture.alpha))
    if info.std is not None:
        write_picture(std_path(target), Picture(std_picture(info.std), None))
    remarks = remark(info), remark_white(picture) if white is None else ""
    return [said for said in remarks if said]


def main() -> None:
    parser = argparse.ArgumentParser(prog="n2s-denoise", description="Denoise an image or a folder of images.")
    parser.add_argument(
        "--checkpoint", metavar="RUN_DIR", help="a run directory, one of its checkpoints, or the name of a shipped "
        "network (default: the shipped one for the image's channels and noise)"
    )  # fmt: skip
    parser.add_argument(
        "--noise", metavar="FAMILY:LEVEL", help="noise of the images: gaussian:SIGMA, sigma in 8-bit levels whatever "
        "the file's depth; poisson:ZETA and gamma:K of values from 0 to 1; FAMILY to estimate its level, or unknown to "
        "estimate both (default: what was trained on, or unknown where that was a range)"
    )  # fmt: skip
    parser.add_argument("--ensemble", action="store_true", help="mean over 8 flips, or 4 shifts: as many times as slow")
    parser.add_argument(
        "--uncertainty", action="store_true", help="write standard deviations to OUT-std.png, 16 bits, white being "
        "0.125 of the full scale; five times as slow"
    )  # fmt: skip
    parser.add_argument(
        "--white", type=int, metavar="VALUE", help="what white is in the files, such as 4095 for 12 bits in files of "
        "16 (default: 255 or 65535)"
    )  # fmt: skip
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop",
        help="what to do about images that can't be read or denoised (%(default)s)"
    )  # fmt: skip
    parser.add_argument("--tile", type=int, default=TILE, help="side of the tiles for large images (%(default)s)")
    parser.add_argument("input", type=Path, metavar="IN", help="a noisy image, or a folder or zip of them")
    parser.add_argument("output", type=Path, metavar="OUT", help="where the denoised image or folder goes")
    args = parser.parse_args()
    if args.tile < 16:
        raise UserError(f"--tile is {args.tile}: tiles have at least 16 pixels a side")

    if args.noise:
        parse_cell_noise(args.noise)  # what can't be understood is refused before anything is read
    denoise = load_denoiser(args.checkpoint, tile=args.tile)
    work = list_work(args.input, args.output)
    spare_sources(work)
    if args.uncertainty and {std_path(target) for _, target in work} & {target for _, target in work}:
        raise UserError(f"{args.input} holds an image whose name ends in -std, as those of --uncertainty do: rename it")
    skipped = 0
    wanted = {"noise": args.noise, "uncertainty": args.uncertainty, "ensemble": args.ensemble}
    for image, target in tqdm(work, unit="image", disable=len(work) == 1):
        try:
            for said in denoise_file(image, target, denoise, args.white, **wanted):
                tqdm.write(f"{image.path}: {said}")
        except UserError as error:
            if args.on_error == "stop":
                raise
            skipped += 1
            tqdm.write(f"skipped: {error}")
    if skipped == len(work):
        raise UserError(f"none of the {len(work)} images of {args.input} could be denoised")
    wrote = str(work[0][1]) if len(work) == 1 else f"{len(work) - skipped} images to {args.output}"
    print(f"wrote {wrote}, skipped {skipped}" if skipped else f"wrote {wrote}")


def command() -> None:
    """Console entry point."""
    run_command(main)


if __name__ == "__main__":
    command()
