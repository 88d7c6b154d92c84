"""Write a network as an ONNX file that denoises by itself, for programs without PyTorch.

n2s export universal-gray --noise gaussian:25 --out denoise.onnx

The file serves one family of noise at any level. Its inputs are an image on the 0-1 scale and the level, its output is
the denoised image.
"""

import argparse

from n2s_dist.inference.denoiser import choose_noise
from n2s_dist.inference.export import export_onnx
from n2s_dist.models import checkpoint
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import path_option, path_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("network", type=path_text, metavar="NAME", help="a shipped network, a run directory, or one of its checkpoints")
    add("--noise", metavar="FAMILY:LEVEL", help="the family that the file serves (default: the one trained on)")
    add("--out", type=path_option, required=True, metavar="FILE.onnx", help="what is written")
    args = parser.parse_args()
    if args.out.suffix.lower() != ".onnx":
        raise UserError(f"--out is {args.out}: it should end with .onnx")
    loaded = checkpoint.load(checkpoint.locate(args.network))
    said = export_onnx(loaded, choose_noise(loaded, args.noise), args.out)
    print(
        f"wrote {args.out}: noisy [1, {loaded.channels}, H, W] and level [{said['level']}] to denoised, sides being "
        f"multiples of {said['multiple']}"
    )
