#!/usr/bin/env python3
"""Turn folders or zip archives of images into webdataset shards of uint8 tiles.

tools/build_shards.py photographs/ --out shards/photographs
"""

import argparse

from n2s_dist.build import BuildOptions, build_shards
from n2s_dist.errors import run_command


def main() -> None:
    defaults = BuildOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folder or zip of PNG, JPEG or TIFF images")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the shards go")
    parser.add_argument(
        "--tile-size", type=int, default=defaults.tile_size, help="side of a tile in pixels (%(default)s)"
    )
    parser.add_argument("--gray", action="store_true", help="one channel: colour is converted to luma")
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=defaults.validation_fraction,
        metavar="F",
        help="share of the images kept apart for validation (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the shuffle and of the split (%(default)s)")
    parser.add_argument("--shard-mib", type=int, default=defaults.shard_mib, help="largest shard (%(default)s)")
    args = parser.parse_args()
    options = BuildOptions(args.tile_size, args.gray, args.validation_fraction, args.seed, args.shard_mib)
    manifest = build_shards(args.sources, args.out, options)
    for name, split in manifest.splits.items():
        mib = sum(entry.bytes for entry in split.shards) / 2**20
        print(f"{name:>10}: {split.images} images, {split.samples} tiles, {len(split.shards)} shards, {mib:.0f} MiB")


if __name__ == "__main__":
    run_command(main)
