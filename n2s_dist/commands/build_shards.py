"""Turn images into webdataset shards of uint8 tiles.

n2s build-shards photographs/ more.zip even-more.tar --out shards/photographs

Interrupted in any way, the same command goes on. Several nodes that share a file system may build together: each runs
the same command with its own --node.
"""

import argparse

from n2s_dist.images.axes import AXES_HELP
from n2s_dist.shards.build.build_group import BuildGroup
from n2s_dist.shards.build.builder import build_shards, preview
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.utils.files import path_text


def main() -> None:
    default = BuildOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        type=path_text,
        metavar="SOURCE",
        help="folder, zip or tar of images, a stack, or a fetched data set",
    )
    add("--out", required=True, type=path_text, metavar="DIR", help="where the shards go")
    add("--tile-size", type=int, default=default.tile_size, help="side of a tile in pixels (%(default)s)")
    add("--gray", action="store_true", help="one channel: color is converted to luma")
    add("--validation-fraction", type=float, metavar="F",
        help=f"share of the images kept apart for validation ({default.validation_fraction})")  # fmt: skip
    add("--seed", type=int, default=default.seed, help="of shuffle, split and noise (%(default)s)")
    add("--shard-mib", type=int, default=default.shard_mib, help="largest shard (%(default)s)")
    add("--noise", metavar="FAMILY:LEVEL", help="store the training tiles with this noise in them, such as "
        "gaussian:25; correlated, +blur:WIDTH or +blur:ACROSSxDOWN in pixels, +rows:SHARE and +columns:SHARE of the "
        "variance, +channels:CORRELATION")  # fmt: skip
    add("--levels", metavar="FAMILY:LOWEST-HIGHEST",
        help="with --noise of ranges: parts of them, to leave out training images of other noise")  # fmt: skip
    add("--already-noisy", action="store_true", help="the images have the --noise: none is added, none are set apart")
    add("--white", type=int, metavar="VALUE",
        help="with --already-noisy: what white is, such as 4095 for 12 bits in files of 16 (255 or 65535)")  # fmt: skip
    add("--black", type=int, metavar="VALUE",
        help="with --already-noisy: what the images have without light, which many cameras add (0)")  # fmt: skip
    add("--axes", metavar="LETTERS", help=AXES_HELP)
    add("--on-error", choices=("stop", "skip"), default="stop",
        help="what to do about images that can't be read; skip lists them in skipped.jsonl (%(default)s)")  # fmt: skip
    add("--workers", type=int, metavar="N", help="processes, each with one image in memory (one a core)")
    add("--dry-run", action="store_true", help="say what would be built, and write nothing")
    add("--nodes", type=int, default=1, metavar="N", help="how many nodes build together (%(default)s)")
    add("--node", type=int, default=0, metavar="I", help="which of them this is, from 0 (%(default)s)")
    add("--session", default="", metavar="WORD", help="with --nodes: the same on all nodes, another one for each try")
    args = parser.parse_args()
    group = BuildGroup(args.node, args.nodes, args.session)
    fraction = args.validation_fraction
    if fraction is None:
        fraction = 0.0 if args.already_noisy else default.validation_fraction
    options = BuildOptions(
        args.tile_size, args.gray, fraction, args.seed, args.shard_mib, args.noise, args.already_noisy, args.white,
        args.levels, args.black, args.axes,
    )  # fmt: skip
    if args.dry_run:
        preview(args.sources, args.out, options, args.workers, args.on_error)
        return
    manifest = build_shards(args.sources, args.out, options, args.workers, args.on_error, group)
    if not group.is_leader:
        print(f"node {group.node} of {group.nodes} did its share")
        return
    for name, split in manifest.splits.items():
        mib = sum(entry.bytes for entry in split.shards) / 2**20
        print(f"{name:>10}: {split.images} images, {split.samples} tiles, {len(split.shards)} shards, {mib:.0f} MiB")
    if manifest.skipped:
        print(f"{manifest.skipped:>10} images skipped: see {args.out}/skipped.jsonl")
