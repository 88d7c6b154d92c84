"""Check shards: sizes, checksums, tars, indexes and every sample. Exit code 1 when something is wrong.

n2s verify-shards shards/photographs
n2s verify-shards shards/photographs --repair photographs/
n2s verify-shards tars-of-another-program/ --write-index
"""

import argparse

from n2s_dist.shards.verify import repair_shards, verify_shards, write_index
from n2s_dist.utils.files import path_text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=path_text, metavar="DIR", help="a folder of shards")
    add(
        "--repair",
        nargs="+",
        type=path_text,
        metavar="SOURCE",
        help="build damaged shards anew from the images they were built from",
    )
    add("--write-index", action="store_true", help="first write indexes and a manifest for tars of another program")
    add("--workers", type=int, metavar="N", help="processes (one a core)")
    args = parser.parse_args()
    if args.write_index:
        manifest = write_index(args.folder)
        samples = sum(split.samples for split in manifest.splits.values())
        print(f"wrote indexes and {args.folder}/manifest.json for {samples} samples")
    faults = verify_shards(args.folder, args.workers)
    for fault in faults:
        print(fault)
    if faults and args.repair:
        for name in repair_shards(args.folder, args.repair, faults, args.workers):
            print(f"built {name} anew")
        faults = verify_shards(args.folder, args.workers)
        for fault in faults:
            print(f"still wrong: {fault}")
    print(f"{args.folder}: {f'{len(faults)} faults' if faults else 'all is well'}")
    return 1 if faults else 0
