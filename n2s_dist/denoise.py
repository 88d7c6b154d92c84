"""Denoise users' own image files.

n2s denoise noisy.png denoised.png
n2s denoise --noise gaussian:20 --ensemble --uncertainty noisy.tif denoised.tif
n2s denoise --checkpoint runs/gaussian25 noisy/ denoised/

A file keeps its type of values, its pages, its transparency and what it says of itself. Noise that is not named is
estimated, or is what the network was trained on.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from n2s_dist.images.axes import AXES_HELP, check_axes
from n2s_dist.images.files import ImageFile
from n2s_dist.inference.files import companions, denoise_file, list_work, renamed, spare_sources
from n2s_dist.inference.network_choice import load_denoiser
from n2s_dist.inference.posterior_samples import check_wanted
from n2s_dist.inference.tiling import TILE
from n2s_dist.noise.calibration import on_scale_of
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.specification import format_noise, parse_cell_noise
from n2s_dist.utils.errors import UserError, run_command
from n2s_dist.utils.files import LONGEST_NAME, is_too_long, path_option, path_text
from n2s_dist.utils.programs import program_name


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=program_name("n2s-denoise"), description="Denoise an image or a folder of images."
    )
    parser.add_argument(
        "--checkpoint", type=path_text, metavar="RUN_DIR", help="a run directory, one of its checkpoints, the name of "
        "a shipped network, or hf://OWNER/REPO[@REVISION] (default: the shipped one for the image's channels and noise)"
    )  # fmt: skip
    parser.add_argument(
        "--noise", metavar="FAMILY:LEVEL", help="noise of the images: gaussian:SIGMA, sigma in 8-bit levels whatever "
        "the file's depth; poisson:ZETA and gamma:K of values from 0 to 1; with +blur:WIDTH, in pixels, where it is "
        "correlated, or with other terms for a network that learned them (docs/noise.md); FAMILY to estimate its "
        "level, or unknown to estimate both; camera:FILE.yaml of n2s calibrate, which says white and black as well "
        "(default: what was trained on, or unknown where that was a range)"
    )  # fmt: skip
    parser.add_argument("--ensemble", action="store_true", help="mean over 8 flips, or 4 shifts: as many times as slow")
    parser.add_argument(
        "--uncertainty", action="store_true", help="write standard deviations to OUT-std.png, 16 bits, white being "
        "0.125 of the full scale; five times as slow"
    )  # fmt: skip
    parser.add_argument(
        "--samples", type=int, default=0, metavar="N", help="also write N images that may lie behind the noisy one, "
        "drawn from the posterior, to OUT-sample1 to OUT-sampleN; each takes 20 times as long as denoising, and an "
        "image's memory"
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, help="of the samples: the same image and seed give the same ones (%(default)s)"
    )
    parser.add_argument(
        "--white", type=float, metavar="VALUE", help="what white is in the files, such as 4095 for 12 bits in files of "
        "16 (default: what the file says, or 255 or 65535 where its values go that far)"
    )  # fmt: skip
    parser.add_argument(
        "--black", type=float, metavar="VALUE", help="what the files have without light, such as 100, which many "
        "cameras add (default: what the file says, or 0)"
    )  # fmt: skip
    parser.add_argument("--axes", metavar="LETTERS", help=AXES_HELP)
    parser.add_argument(
        "--repair-hot-pixels", action="store_true", help="denoise hot and dead pixels, single values that neither "
        "noise nor light explains, from their neighbors, and say how many there are; for images as a sensor gave them"
    )  # fmt: skip
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop",
        help="what to do about images that can't be read or denoised (%(default)s)"
    )  # fmt: skip
    parser.add_argument("--tile", type=int, default=TILE, help="side of the tiles for large images (%(default)s)")
    parser.add_argument("input", type=path_option, metavar="IN", help="a noisy image, or a folder or zip of them")
    parser.add_argument("output", type=path_option, metavar="OUT", help="where the denoised image or folder goes")
    args = parser.parse_args()
    if args.tile < 16:
        raise UserError(f"--tile is {args.tile}: tiles have at least 16 pixels a side")

    check_wanted(args.samples, args.seed)
    if args.noise:
        parse_cell_noise(args.noise)  # what can't be understood is refused before anything is read
    noise, white, black = on_scale_of(args.noise, args.white, args.black)
    denoise = load_denoiser(args.checkpoint, tile=args.tile)
    if isinstance(noise, NoiseModel):  # of a camera's file
        told, *_ = on_scale_of(args.noise, white, black, denoise.serves)
        if isinstance(told, NoiseModel) and told != noise:
            known = format_noise(told)
            print(f"the camera's noise is {format_noise(noise)}, which no network here has learned: {known} is taken")
    work = list_work(args.input, args.output, check_axes(args.axes))
    spare_sources(work)
    check_companions(work, args.uncertainty, args.samples)
    for said in renamed(work):
        print(said)
    skipped = 0
    wanted = {
        name: getattr(args, name)
        for name in ("noise", "uncertainty", "ensemble", "repair_hot_pixels", "samples", "seed")
    }
    for image, target in tqdm(work, unit="image", disable=len(work) == 1):
        try:
            for said in denoise_file(image, target, denoise, white, black, **wanted):
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


def check_companions(work: list[tuple[ImageFile, Path]], uncertainty: bool, samples: int) -> None:
    """UserError where files beside the denoised images would have names that are taken or too long."""
    taken = {path.resolve() for image, target in work for path in (image.path, target)}
    for path in (beside for _, target in work for beside in sorted(companions(target, uncertainty, samples))):
        if path.resolve() in taken:
            raise UserError(f"{path} would be written beside a denoised image, and is another image: rename that one")
        if is_too_long(path.name):
            raise UserError(f"{path} would have a name of more than {LONGEST_NAME} bytes: give the image a shorter one")
        taken.add(path.resolve())


def command() -> None:
    """Console entry point."""
    run_command(main)


if __name__ == "__main__":
    command()
