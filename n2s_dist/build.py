"""Turn images into shards.

    list ──► sizes (headers only) ──► split by image ──► tiles ──► shuffle ──► offsets ──► decode and write ──► publish

Every byte's place is known from the image sizes alone, so each image is decoded once and its tiles
are written straight to their shuffled places, by any number of worker processes, with one image a
worker in memory. The result does not depend on the number of workers.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from n2s_dist import shards
from n2s_dist.errors import UserError
from n2s_dist.images import ImageFile, image_size, list_images, read_image
from n2s_dist.order import hash64, name_key, permute
from n2s_dist.shards import Manifest, ShardEntry, Split


@dataclass(frozen=True)
class BuildOptions:
    """tile_size in pixels, shard_mib the largest tar, validation_fraction a share of the images."""

    tile_size: int = 256
    gray: bool = False
    validation_fraction: float = 0.02
    seed: int = 0
    shard_mib: int = 256

    def __post_init__(self) -> None:
        if self.tile_size < 16:
            raise UserError(f"--tile-size is {self.tile_size}: tiles have at least 16 pixels a side")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(f"--validation-fraction is {self.validation_fraction}: give a number in [0, 1)")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}: give a whole number, not negative and below 2^63")
        if self.shard_mib < 1:
            raise UserError(f"--shard-mib is {self.shard_mib}: a shard has at least 1 MiB")

    @property
    def channels(self) -> int:
        return 1 if self.gray else 3


@dataclass(frozen=True)
class Tile:
    """A tile of one image: its place in the image, its sample number and where it goes in which shard."""

    row: int
    column: int
    shape: tuple[int, int, int]
    key: str
    shard: str
    offset: int


@dataclass(frozen=True)
class Plan:
    """All that is known before a pixel is read."""

    sizes: list[tuple[int, int]]
    tiles: list[list[Tile]]  # by image
    indexes: dict[str, str]  # shard name -> text of its .idx
    shard_bytes: dict[str, int]
    splits: dict[str, Split]  # shards still without bytes' hashes


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles begin along one side; the last one aligns to the border, so that no pixel is lost."""
    return [0] if length <= tile else [*range(0, length - tile, tile), length - tile]


def gather(sources: list[str]) -> tuple[list[ImageFile], list[str]]:
    """All images of all sources, and the names they go by in the shards (prefixed when there are several sources)."""
    images, names = [], []
    for source in sources:
        for image in list_images(source):
            images.append(image)
            names.append(f"{Path(source).name}/{image.name}" if len(sources) > 1 else image.name)
    if len(set(names)) < len(names):
        raise UserError("two sources have the same folder name and the same image names: rename one folder")
    return images, names


def choose_validation(names: list[str], fraction: float, seed: int) -> set[str]:
    """Names of the images kept apart: the nearest whole number to fraction x images, at least one unless 0."""
    if fraction == 0:
        return set()
    count = max(1, round(fraction * len(names)))
    if count >= len(names):
        raise UserError(f"--validation-fraction {fraction} of {len(names)} images leaves none to train on")
    return set(sorted(names, key=lambda name: int(hash64(seed, name_key(name))))[:count])


def make_plan(names: list[str], sizes: list[tuple[int, int]], options: BuildOptions) -> Plan:
    """Place every tile of every image in its shard."""
    validation = choose_validation(names, options.validation_fraction, options.seed)
    plan = Plan(sizes, [[] for _ in names], {}, {}, {})
    for number, split in enumerate(shards.SPLITS):
        members = [i for i, name in enumerate(names) if (name in validation) == (split == "validation")]
        if members:
            plan.splits[split] = _place_split(plan, split, members, names, options, int(hash64(options.seed, number)))
    return plan


def _place_split(
    plan: Plan, split: str, members: list[int], names: list[str], options: BuildOptions, shuffle_key: int
) -> Split:
    side = options.tile_size
    tiles = [
        (image, row, column, (min(side, height), min(side, width), options.channels))
        for image in members
        for height, width in [plan.sizes[image]]
        for row in tile_starts(height, side)
        for column in tile_starts(width, side)
    ]
    lines: list[str] = []
    entries: list[ShardEntry] = []
    offset = 0

    def finish_shard() -> None:
        nonlocal offset
        name = f"{split}-{len(entries):06d}.tar"
        size = shards.tar_size(offset)
        entries.append(ShardEntry(name, len(lines), size, ""))
        plan.indexes[name] = "\n".join([f"{shards.INDEX_VERSION} {len(lines)}", *lines]) + "\n"
        plan.shard_bytes[name] = size
        lines.clear()
        offset = 0

    for number, index in enumerate(permute(np.arange(len(tiles)), len(tiles), np.uint64(shuffle_key))):
        image, row, column, shape = tiles[index]
        key = f"{number:09d}"
        parts = shards.sample_parts(key, shape, describe(names[image], row, column, plan.sizes[image]))
        line, end = shards.index_line(offset, parts)
        if lines and shards.tar_size(end) > options.shard_mib * 2**20:
            finish_shard()
            line, end = shards.index_line(0, parts)
        plan.tiles[image].append(Tile(row, column, shape, key, f"{split}-{len(entries):06d}.tar", offset))
        lines.append(line)
        offset = end
    finish_shard()
    heights, widths = ({tile[3][axis] for tile in tiles} for axis in (0, 1))
    return Split(len(members), len(tiles), min(heights), min(widths), tuple(entries))


def describe(name: str, row: int, column: int, size: tuple[int, int]) -> dict:
    """What KEY.json says of a tile: its source image and its place there, in pixels."""
    return {"image": name, "row": row, "column": column, "height": size[0], "width": size[1]}


def write_image_tiles(folder: Path, job: tuple[ImageFile, str, tuple[int, int], list[Tile]]) -> None:
    """Decode one image and write its tiles to their places."""
    image, name, size, tiles = job
    pixels = read_image(image, tiles[0].shape[2])
    if pixels.shape[:2] != size:
        raise UserError(f"{image.source / image.name} changed while shards were built: run the command again")
    for tile in tiles:
        height, width, _ = tile.shape
        content = np.ascontiguousarray(pixels[tile.row : tile.row + height, tile.column : tile.column + width])
        sample = shards.sample_bytes(tile.key, content, describe(name, tile.row, tile.column, size))
        with (folder / tile.shard).open("r+b") as stream:
            stream.seek(tile.offset)
            stream.write(sample)


def fingerprint(images: list[ImageFile], names: list[str], options: BuildOptions) -> str:
    """Identifies what shards were built from: the images' names and sizes, and the options."""
    listing = [[name, image.num_bytes] for name, image in zip(names, images, strict=True)]
    return hashlib.sha256(json.dumps([listing, vars(options)], sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears under its name only when all in it is complete; removed when anything fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir()
    try:
        yield partial_folder
        for path in partial_folder.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        partial_folder.rename(target)
    except BaseException:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise


def build_shards(sources: list[str], out: str | Path, options: BuildOptions, workers: int | None = None) -> Manifest:
    """Build the shards of `sources` (folders or zip archives) in `out`, or reuse them if they are there already.

    Raises UserError for anything the user can mend; nothing half-written is left behind.
    """
    out = Path(out).absolute()
    images, names = gather(sources)
    origin = fingerprint(images, names, options)
    if (out / "manifest.json").is_file():
        manifest = shards.read_manifest(out)
        if manifest.source_fingerprint != origin:
            raise UserError(f"{out} holds shards of other images or options: delete it or choose another --out")
        print(f"{out} already holds these shards: nothing to do")
        return manifest
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and holds no shards: choose another --out")

    parent = next(p for p in out.parents if p.exists())
    if not parent.is_dir():
        raise UserError(f"{parent} is not a folder: choose another --out")

    plan = make_plan(names, [image_size(image) for image in tqdm(images, "sizes", unit="image", leave=False)], options)
    need = sum(plan.shard_bytes.values())
    if need > shutil.disk_usage(parent).free:
        raise UserError(f"the shards need {need / 2**20:.0f} MiB, more than {parent} has free")

    with new_folder(out) as folder:
        for name, size in plan.shard_bytes.items():
            with (folder / name).open("wb") as stream:
                stream.truncate(size)
            (folder / name).with_suffix(".idx").write_text(plan.indexes[name])
        jobs = list(zip(images, names, plan.sizes, plan.tiles, strict=True))
        workers = min(workers or len(os.sched_getaffinity(0)), len(jobs))
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            done = pool.map(partial(write_image_tiles, folder), jobs, chunksize=1)
            for _ in tqdm(done, "tiles", total=len(jobs), unit="image"):
                pass
        splits = {
            name: Split(
                **{
                    **vars(split),
                    "shards": tuple(
                        ShardEntry(s.name, s.samples, s.bytes, shards.sha256_file(folder / s.name))
                        for s in split.shards
                    ),
                }
            )
            for name, split in plan.splits.items()
        }
        manifest = Manifest(options.tile_size, options.channels, None, options.seed, origin, splits)
        (folder / "manifest.json").write_text(manifest.to_json())
    return manifest
