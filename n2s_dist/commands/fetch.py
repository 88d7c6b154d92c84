"""Fetch data sets by name, or take them over from an archive or a folder that is here already.

n2s fetch kodak24 cbsd68            downloads to data/kodak24 and data/cbsd68
n2s fetch div2k_train --from DIV2K_train_HR.zip

Interrupted in any way, the same command goes on. docs/datasets.md lists the data sets.
"""

import argparse

from n2s_dist.datasets.catalogue import find_dataset
from n2s_dist.datasets.download import Connection
from n2s_dist.datasets.fetch import fetch
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import path_text


def main() -> None:
    defaults = Connection()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="data sets, such as kodak24: see shards/*.yaml")
    parser.add_argument(
        "--out", type=path_text, default="data", metavar="DIR", help="NAME goes below this folder (%(default)s)"
    )
    parser.add_argument(
        "--from", dest="source", type=path_text, metavar="PATH", help="its archive or its folder, instead of a download"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=defaults.timeout_sec,
        metavar="SEC",
        help="longest silence of a server in seconds (%(default)g)",
    )
    parser.add_argument(
        "--tries", type=int, default=defaults.tries, help="attempts in a row without progress (%(default)s)"
    )
    args = parser.parse_args()
    network = Connection(args.timeout, args.tries)
    datasets = [find_dataset(name) for name in dict.fromkeys(args.names)]
    if args.source is not None and len(datasets) > 1:
        raise UserError("--from goes with one data set: give one NAME")
    for dataset in datasets:
        folder = fetch(dataset.name, args.out, args.source, network)
        print(f"{folder}: {dataset.images} images; licence: {dataset.licence}")
