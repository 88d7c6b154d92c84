"""Show the noise of an image: its strength by brightness, its correlation and its spectrum, as a picture and in words.

n2s inspect-noise noisy.png --out noise.png

Texture counts as noise where an image has no flat places. Noise that reaches over several pixels seems weaker than it
is.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from n2s_dist.images.axes import AXES_HELP, check_axes
from n2s_dist.images.files import ImageFile
from n2s_dist.images.user_files import open_file, read_on_scale
from n2s_dist.inference import arrays
from n2s_dist.inference.network_choice import ShippedDenoiser, load_denoiser
from n2s_dist.inference.noise_estimation import SMALLEST_SIDE
from n2s_dist.models import pretrained
from n2s_dist.noise.base import UNKNOWN, NoiseModel
from n2s_dist.noise.inspection import view_noise
from n2s_dist.reporting.noise_figure import describe_noise, draw_noise
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write, path_option


class Seen(NamedTuple):
    """An image on the 0-1 scale: float [H, W, C], in one channel where color holds a gray one.

    chroma_subsampled: whether color was stored at half its resolution.
    """

    image: np.ndarray
    chroma_subsampled: bool


def read_unit(path: Path, white: float | None, black: float | None, axes: str | None = None) -> Seen:
    """The only image of a file. Raises UserError by name."""
    if not path.exists():
        raise UserError(f"{path} does not exist: give an image")
    file = ImageFile(path.parent, path.name, 0, axes=axes)
    picture, scale = read_on_scale(file, white, black)
    with open_file(file) as opened:
        return Seen(scale.to_unit(picture.measured()), opened.contents.chroma_subsampled)


def estimate(seen: Seen) -> NoiseModel | None:
    """As n2s denoise estimates it; None where no network can."""
    if min(seen.image.shape[:2]) < SMALLEST_SIDE or not pretrained.offered():
        return None
    denoiser = load_denoiser()
    assert isinstance(denoiser, ShippedDenoiser)
    images = arrays.opened(seen.image, chroma_subsampled=seen.chroma_subsampled)
    (found,), _, _ = denoiser.noises_of(images, UNKNOWN)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("image", type=path_option, metavar="IMAGE", help="a noisy image")
    add("--out", type=path_option, required=True, metavar="FILE.png", help="the picture")
    add("--white", type=float, metavar="VALUE", help="what white is in the file, as of n2s denoise")
    add("--black", type=float, metavar="VALUE", help="what black is")
    add("--axes", metavar="LETTERS", help=AXES_HELP)
    add("--no-network", action="store_true", help="do not compare with what n2s denoise estimates, which takes longest")
    args = parser.parse_args()
    if args.out.suffix.lower() != ".png":
        raise UserError(f"--out is {args.out}: it should end with .png")
    if args.out.resolve() == args.image.resolve():
        raise UserError(f"{args.image} would be overwritten by its picture: choose another --out")

    seen = read_unit(args.image, args.white, args.black, check_axes(args.axes))
    if (view := view_noise(seen.image)) is None:
        raise UserError(f"{args.image} has too few places with noise in them: give a larger image, or a noisier one")
    found = None if args.no_network else estimate(seen)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out) as partial:
        draw_noise(seen.image, view, found).savefig(partial, dpi=100)
    print("\n".join([*describe_noise(view, found), f"wrote {args.out}"]))
