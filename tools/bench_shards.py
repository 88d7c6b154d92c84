#!/usr/bin/env python3
"""How fast shards are built, against Pillow decoding the same files, and how much memory that takes.

    tools/bench_shards.py --json shards.json

The images are PNGs of 2040x1404 (DIV2K's size) pieced together from scikit-image's photographs, or from
those of a folder. The rate to compare with is cores times what one process decodes and does nothing with.
Shards go to memory (/dev/shm) where it has room, since the raw tiles of one such image are 8.2 MiB: a disk
that writes less than that for each image a second is the limit, not the builder. --scratch measures a disk.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from bench import machine, photograph_of_size, report
from PIL import Image

from n2s_dist.images.eight_bit import read_image
from n2s_dist.images.files import list_images
from n2s_dist.utils.errors import run_command
from n2s_dist.utils.files import path_option, path_text

_HEIGHT, _WIDTH = 1404, 2040


def mosaic(folder: Path, number: int) -> np.ndarray:
    """A uint8 photograph [1404, 2040, 3] pieced together from a folder's, in an order that `number` picks."""
    images = list_images(folder)
    rng = np.random.default_rng(number)
    out = np.zeros((_HEIGHT, _WIDTH, 3), np.uint8)
    row = 0
    while row < _HEIGHT:
        column, height = 0, _HEIGHT
        while column < _WIDTH:
            piece = read_image(images[rng.integers(len(images))], 3)[: _HEIGHT - row, : _WIDTH - column]
            height = min(height, len(piece))
            out[row : row + height, column : column + piece.shape[1]] = piece[:height]
            column += piece.shape[1]
        row += height
    return out


def make_images(folder: Path, count: int, source: Path | None) -> None:
    for number in range(count):
        pixels = mosaic(source, number) if source else np.roll(photograph_of_size(_HEIGHT, _WIDTH), 97 * number, (0, 1))
        Image.fromarray(pixels).save(folder / f"{number:05d}.png")


def link_images(folder: Path, originals: Path, count: int) -> None:
    """`count` images that are hard links to the originals, many times over."""
    folder.mkdir()
    paths = sorted(originals.iterdir())
    for number in range(count):
        os.link(paths[number % len(paths)], folder / f"{number:05d}.png")


def pillow_images_per_sec(folder: Path) -> float:
    """Images decoded by one process."""
    paths = sorted(folder.iterdir())
    start = time.perf_counter()
    for path in paths:
        Image.open(path).load()
    return len(paths) / (time.perf_counter() - start)


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in children for found in family(int(child)))]


def peak_mib(pid: int) -> float:
    """The sum of the most memory that each process of a family has held so far."""
    total = 0
    for member in family(pid):
        try:
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return total / 1024


def build(source: Path, out: Path) -> tuple[float, float]:
    """Run the builder. Returns seconds, from the first image to the published set, and peak memory in MiB."""
    command = [sys.executable, str(Path(__file__).with_name("build_shards.py")), str(source), "--out", str(out)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--validation-fraction", "0"], stdout=subprocess.DEVNULL)
    peaks = [0.0]

    def watch() -> None:
        while process.poll() is None:
            peaks.append(peak_mib(process.pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        raise SystemExit("error: the builder failed")
    seconds = time.perf_counter() - start
    watcher.join()
    shutil.rmtree(out)
    return seconds, max(peaks)


def _in_memory(images: int) -> bool:
    """Whether memory holds the shards of so many images, with half as much to spare."""
    memory = Path("/dev/shm")
    return memory.is_dir() and shutil.disk_usage(memory).free > 1.5 * images * 9 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=path_option, metavar="FILE", help="write ratios, figures and machine here")
    parser.add_argument("--images", type=int, default=60, help="different PNGs (%(default)s)")
    parser.add_argument("--links", type=int, default=800, help="images to build, links to these (%(default)s, DIV2K's)")
    parser.add_argument("--source", type=path_option, metavar="DIR", help="photographs to piece them together from")
    parser.add_argument(
        "--memory-images", type=int, nargs=2, metavar=("FEW", "MANY"), help="compare peak memory as well"
    )
    parser.add_argument("--scratch", type=path_text, metavar="DIR", help="where images and shards are put meanwhile")
    args = parser.parse_args()
    if args.scratch is None and _in_memory(max([args.links, *(args.memory_images or [])])):
        args.scratch = "/dev/shm"

    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        originals = Path(scratch) / "originals"
        originals.mkdir()
        make_images(originals, args.images, args.source)
        cores = int(machine()["cores"])
        rates = [pillow_images_per_sec(originals)]
        link_images(Path(scratch) / "links", originals, args.links)
        seconds, peak = build(Path(scratch) / "links", Path(scratch) / "shards")
        rates.append(pillow_images_per_sec(originals))  # before and after: the machine may be shared
        pillow = cores * sum(rates) / 2
        ratios = {"over_cores_times_pillow": args.links / seconds / pillow}
        figures = {
            "pillow_images_per_sec_per_core": pillow / cores,
            "build_images_per_sec": args.links / seconds,
            "build_peak_mib": peak,
        }
        if args.memory_images:
            peaks = []
            for count in args.memory_images:
                link_images(Path(scratch) / f"{count}", originals, count)
                peaks.append(build(Path(scratch) / f"{count}", Path(scratch) / "shards")[1])
                figures[f"peak_mib_of_{count}_images"] = peaks[-1]
            ratios["peak_memory_many_over_few"] = peaks[1] / peaks[0]
    report(args.json, ratios=ratios, figures=figures, machine=machine())


if __name__ == "__main__":
    run_command(main)
