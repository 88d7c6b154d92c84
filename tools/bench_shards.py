#!/usr/bin/env python3
"""How fast shards are built, against Pillow decoding the same files, and how much memory that takes.

    tools/bench_shards.py --json shards.json

The images are PNGs of 2040x1404 (DIV2K's size) pieced together from scikit-image's photographs, or from
those of a folder. The rate to compare with is cores times what one process decodes and does nothing with. Processor
time is compared as well: on a machine that is busy with other things its ratio says more.
Shards go to memory (/dev/shm) where it has room, since the raw tiles of one such image are 8.2 MiB: a disk
that writes less than that for each image a second is the limit, not the builder. --scratch measures a disk.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from bench import machine, photograph_of_size, report, say, show
from PIL import Image
from tqdm import tqdm

from n2s_dist.images.eight_bit import read_image
from n2s_dist.images.fast_png import imagecodecs
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
    for number in tqdm(range(count), "images", unit="image"):
        pixels = mosaic(source, number) if source else np.roll(photograph_of_size(_HEIGHT, _WIDTH), 97 * number, (0, 1))
        Image.fromarray(pixels).save(folder / f"{number:05d}.png")


def link_images(folder: Path, originals: Path, count: int) -> None:
    """`count` images that are hard links to the originals, many times over."""
    folder.mkdir()
    paths = sorted(originals.iterdir())
    for number in range(count):
        os.link(paths[number % len(paths)], folder / f"{number:05d}.png")


def pillow_seconds(folder: Path) -> tuple[float, float]:
    """Of one process to decode an image: seconds and seconds of processor time."""
    paths = sorted(folder.iterdir())
    start, used = time.perf_counter(), time.process_time()
    for path in tqdm(paths, "Pillow", unit="image"):
        Image.open(path).load()
    return (time.perf_counter() - start) / len(paths), (time.process_time() - used) / len(paths)


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


def touch(folder: Path, num_bytes: int) -> None:
    """Write and remove a file as large as the shards.

    Memory that a virtual machine has not used for a while comes from its host page by page, several times slower than
    any program writes. That is not the builder's time.
    """
    place, zeros = folder / "touched", bytes(2**20)
    with place.open("wb") as out:
        for _ in range(num_bytes // len(zeros)):
            out.write(zeros)
    place.unlink()


def children_seconds() -> float:
    """Processor time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def build(source: Path, out: Path) -> tuple[float, float, float]:
    """Run the builder. Returns seconds, from its start to the published set, of processor time too, and peak MiB."""
    command = [sys.executable, str(Path(__file__).with_name("build_shards.py")), str(source), "--out", str(out)]
    start, used = time.perf_counter(), children_seconds()
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
    return seconds, children_seconds() - used, max(peaks)


def _in_memory(images: int) -> bool:
    """Whether memory holds the shards of so many images, with half as much to spare."""
    memory = Path("/dev/shm")
    return memory.is_dir() and shutil.disk_usage(memory).free > 1.5 * images * 9 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=path_option, metavar="FILE", help="write ratios, figures and machine here")
    parser.add_argument("--images", type=int, default=40, help="different PNGs (%(default)s)")
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
        link_images(Path(scratch) / "links", originals, args.links)
        pillow = [pillow_seconds(originals)]
        touch(Path(scratch), args.links * _HEIGHT * _WIDTH * 3)
        seconds, used, peak = build(Path(scratch) / "links", Path(scratch) / "shards")
        pillow.append(pillow_seconds(originals))  # before and after: the machine may be shared
        decoding, decoding_used = (sum(each) / 2 for each in zip(*pillow, strict=True))
        say(f"PNGs are decoded by {'libspng' if imagecodecs() else 'Pillow: imagecodecs is not installed'}")
        ratios = {
            "over_cores_times_pillow": show("over_cores_times_pillow", args.links / seconds * decoding / cores),
            "pillow_over_builder_in_processor_time": decoding_used * args.links / used,
        }
        figures = {
            "pillow_images_per_sec_per_core": 1 / decoding,
            "build_images_per_sec": args.links / seconds,
            "build_processor_ms_an_image": 1e3 * used / args.links,
            "build_peak_mib": peak,
        }
        if args.memory_images:
            peaks = []
            for count in args.memory_images:
                link_images(Path(scratch) / f"{count}", originals, count)
                peaks.append(build(Path(scratch) / f"{count}", Path(scratch) / "shards")[2])
                figures[f"peak_mib_of_{count}_images"] = peaks[-1]
            ratios["peak_memory_many_over_few"] = peaks[1] / peaks[0]
    report(args.json, ratios=ratios, figures=figures, machine=machine())


if __name__ == "__main__":
    run_command(main)
