"""Write a network as a file that denoises by itself, for programs without PyTorch.

n2s export universal-gray --noise gaussian:25 --out denoise.onnx
n2s export universal-gray --noise gaussian:25 --format bioimageio --white 4095 --out denoise.zip

An ONNX file serves one family of noise at any level. Its inputs are an image on the 0-1 scale and the level, its output
is the denoised image. A package of BioImage.IO serves one noise, and takes images as they are.
"""

import argparse

from n2s_dist.images.scale import Scale
from n2s_dist.inference.bioimageio import Told, export_bioimageio
from n2s_dist.inference.denoiser import choose_noise
from n2s_dist.inference.export import export_onnx
from n2s_dist.models import checkpoint
from n2s_dist.noise.calibration import on_scale_of
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.specification import format_noise
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import path_option, path_text

_SUFFIXES = {"onnx": ".onnx", "bioimageio": ".zip"}
_OF_PACKAGES = ("white", "black", "author", "license")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("network", type=path_text, metavar="NAME", help="a shipped network, a run directory, or one of its checkpoints")
    add("--noise", metavar="FAMILY:LEVEL", help="the noise that the file serves (default: the one trained on)")
    add("--format", choices=list(_SUFFIXES), default="onnx", help="(%(default)s)")
    add("--out", type=path_option, required=True, metavar="FILE", help="what is written: FILE.onnx or FILE.zip")
    package = parser.add_argument_group("options of --format bioimageio").add_argument
    package("--white", type=float, metavar="VALUE", help="what white is in the images, such as 4095 for 12 bits (1)")
    package("--black", type=float, metavar="VALUE", help="what the images have without light (0)")
    package("--author", action="append", metavar="NAME", help="an author of the package; may be repeated")
    package("--license", metavar="SPDX", help="the package's license, such as MIT or CC-BY-4.0")
    args = parser.parse_args()
    check_options(args)
    loaded = checkpoint.load(checkpoint.locate(args.network))
    noise, white, black = on_scale_of(args.noise, args.white, args.black, loaded.model.serves)
    text = format_noise(noise) if isinstance(noise, NoiseModel) else noise
    if args.format == "onnx":
        said = export_onnx(loaded, choose_noise(loaded, text), args.out)
        inputs = f"noisy [1, {loaded.channels}, H, W] and level [{said['level']}]"
        print(f"wrote {args.out}: {inputs} to denoised, sides being multiples of {said['multiple']}")
        return
    scale = Scale(black or 0.0, 1.0 if white is None else white)
    if not scale.black < scale.white:
        raise UserError(f"--black is {scale.black:g} and --white {scale.white:g}: white has to be the higher one")
    told = Told(args.author or (), args.license, scale)
    print(f"wrote {args.out}: {export_bioimageio(loaded, choose_noise(loaded, text), args.out, told)}")


def check_options(args: argparse.Namespace) -> None:
    """UserError for a suffix of another format, and for options of another."""
    suffix = _SUFFIXES[args.format]
    if args.out.suffix.lower() != suffix:
        raise UserError(f"--out is {args.out}: it should end with {suffix}")
    given = [name for name in _OF_PACKAGES if getattr(args, name) is not None]
    if given and args.format != "bioimageio":
        raise UserError(f"--{given[0]} is given, which only packages have: leave it out, or add --format bioimageio")
