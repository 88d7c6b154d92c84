#!/usr/bin/env python3
"""Write the photographs that scikit-image ships as PNGs: six to train on, two held out.

tools/demo_photographs.py runs/demo/photographs
"""

import argparse
from pathlib import Path

import skimage.data

from n2s_dist.images.eight_bit import write_image
from n2s_dist.utils.errors import run_command
from n2s_dist.utils.files import path_option

PHOTOGRAPHS = {
    "train": ("coffee", "rocket", "hubble_deep_field", "stereo_motorcycle", "immunohistochemistry", "retina"),
    "held-out": ("astronaut", "chelsea"),
}


def write_photographs(folder: Path) -> None:
    """Write FOLDER/train/*.png and FOLDER/held-out/*.png, where they are not there yet."""
    for split, names in PHOTOGRAPHS.items():
        for name in names:
            path = folder / split / f"{name}.png"
            if not path.is_file():
                image = getattr(skimage.data, name)()
                write_image(path, image[0] if isinstance(image, tuple) else image)  # a stereo pair: its left view


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=path_option, help="where the photographs go")
    args = parser.parse_args()
    write_photographs(args.folder)
    counts = ", ".join(f"{len(names)} {split}" for split, names in PHOTOGRAPHS.items())
    print(f"{args.folder}: {counts} photographs")


if __name__ == "__main__":
    run_command(main)
