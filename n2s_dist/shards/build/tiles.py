"""What a worker process of a build does with one image: decode, cut into tiles, write each to its place."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from n2s_dist.images.files import KINDS, ImageFile, image_size, pixels_of, read
from n2s_dist.images.user_files import read_picture
from n2s_dist.noise.specification import parse_training_noise
from n2s_dist.noise.stored import bake
from n2s_dist.shards import tar_format
from n2s_dist.shards.build import plan
from n2s_dist.shards.build.plan import BuildOptions, Tiles
from n2s_dist.shards.manifest import ShardEntry
from n2s_dist.utils import tar_members
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import sha256_file, sync
from n2s_dist.utils.hashing import name_key


@dataclass(frozen=True)
class Source:
    """An image to build from, and the name it goes by in the shards."""

    file: ImageFile
    name: str


@dataclass(frozen=True)
class Places:
    """Where tiles of one image lie."""

    folder: Path
    split: str
    tiles: Tiles

    def shard(self, i: int) -> str:
        """The path of the shard that holds tile i."""
        return f"{self.folder}/{self.split}-{self.tiles.shard[i]:06d}.tar"


@dataclass(frozen=True)
class Job:
    """One image: what its tiles are made from, and where they go."""

    image: int  # place in the list of images
    source: Source
    size: tuple[int, int]
    places: Places
    written: int | None = None  # checksum of its tiles at `places`, when the journal has the image
    before: Places | None = None  # where an earlier layout has the same tiles
    shared: bool = False  # whether other nodes write into the same shards


def measure(sources: list[Source]) -> list[tuple[int, int] | str]:
    """(height, width) of each image, or why it can't be read."""
    sizes: list[tuple[int, int] | str] = []
    for source in sources:
        try:
            sizes.append(image_size(source.file))
        except UserError as error:
            sizes.append(str(error))
    return sizes


def tile_shape(size: tuple[int, int], options: BuildOptions) -> tuple[int, int, int]:
    """[H, W, C] of the tiles of an image: all of one shape, since the last ones align to the border."""
    return min(options.tile_size, size[0]), min(options.tile_size, size[1]), options.channels


def cut_tiles(job: Job, options: BuildOptions) -> Iterator[np.ndarray]:
    """Decode an image and cut its tiles, with noise in them where the options say so. Raises UserError."""
    if options.already_noisy:
        yield from cut_noisy_tiles(job, options)
        return
    image = read(job.source.file, options.channels)
    check_size(job, image.height, image.width)
    height, width, _ = tile_shape(job.size, options)
    places, noise = job.places, None
    if options.dtype(places.split) != "uint8":
        assert options.noise is not None
        noise = parse_training_noise(options.noise)
    for row, column in zip(places.tiles.row.tolist(), places.tiles.column.tolist(), strict=True):
        tile = pixels_of(image.crop((column, row, column + width, row + height)))
        if noise is not None:
            tile = bake(noise, tile, options.seed, name_key(job.source.name), row, column)
        yield np.ascontiguousarray(tile)


def cut_noisy_tiles(job: Job, options: BuildOptions) -> Iterator[np.ndarray]:
    """The same of an image that has its noise already, at the file's own depth. Raises UserError."""
    assert options.noise is not None
    stored = parse_training_noise(options.noise).encoding
    path, picture = job.source.file.path, read_picture(job.source.file)
    check_size(job, *picture.pixels.shape[:2])
    if picture.alpha is not None:
        raise UserError(f"{path} has an alpha channel: save it without")
    if picture.channels != options.channels:  # a mean of channels has other noise, a repeated one dependent noise
        kind, way = KINDS[picture.channels], "with" if picture.channels == 1 else "without"
        raise UserError(f"{path} is {kind}, and noisy images are taken as they are: build {way} --gray or leave it out")
    height, width, _ = tile_shape(job.size, options)
    white = picture.white(options.white, path)
    for row, column in zip(job.places.tiles.row.tolist(), job.places.tiles.column.tolist(), strict=True):
        yield stored.encode(picture.pixels[row : row + height, column : column + width] / white)


def check_size(job: Job, height: int, width: int) -> None:
    if (height, width) != job.size:
        raise UserError(f"{job.source.file.path} changed while shards were built: run the command again")


def read_tiles(places: Places, shape: tuple[int, int, int], dtype: str) -> Iterator[np.ndarray]:
    """Tiles that are written already."""
    skip = tar_members.BLOCK + len(tar_format.npy_header(shape, dtype))
    for i, offset in enumerate(places.tiles.offset.tolist()):
        yield np.fromfile(places.shard(i), dtype, int(np.prod(shape)), offset=offset + skip).reshape(shape)


def write_image_tiles(options: BuildOptions, job: Job) -> int | str:
    """Write one image's tiles to their places. Returns their checksum, or why the image can't be read."""
    shape, dtype = tile_shape(job.size, options), options.dtype(job.places.split)
    if job.written is not None:
        checksums = [zlib.crc32(tile.data) for tile in read_tiles(job.places, shape, dtype)]
        if combined(checksums) == job.written:
            return job.written
    checksums, tiles = [], job.places.tiles
    # Samples of two nodes may share a page: without this, an NFS client may write all of it, stale neighbours too.
    flags = os.O_WRONLY | (os.O_DSYNC if job.shared else 0)
    try:
        # Leaving an image out may have moved another between training and validation, whose pixels are not the same.
        before = job.before if job.before and options.dtype(job.before.split) == dtype else None
        content = read_tiles(before, shape, dtype) if before else cut_tiles(job, options)
        for i, tile in enumerate(content):
            checksums.append(zlib.crc32(tile.data))
            description = plan.describe(job.source.name, tiles.row[i], tiles.column[i], job.size, checksums[i])
            parts = tar_format.sample_parts(plan.sample_key(tiles.number[i]), tile, description)
            assert sum(map(len, parts)) == tar_format.sample_size(int(tiles.npy_size[i]), int(tiles.json_size[i]))
            descriptor = os.open(job.places.shard(i), flags)
            try:
                write_all(descriptor, parts, int(tiles.offset[i]))
            finally:
                os.close(descriptor)
    except UserError as error:
        return str(error)
    return combined(checksums)


def write_all(descriptor: int, parts: list, offset: int) -> None:
    """Write buffers one after the other; the kernel may take less than all of them at a time."""
    while parts:
        written = os.pwritev(descriptor, parts, offset)
        offset += written
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if written:
            parts[0] = memoryview(parts[0])[written:]


def combined(checksums: list[int]) -> int:
    """One checksum for several."""
    return zlib.crc32(np.array(checksums, np.uint32).data)


def finish_shard(folder: Path, work: tuple[plan.ShardPlan, Tiles]) -> ShardEntry:
    """Write a shard's index, bring both to the disk, and say what the manifest will."""
    shard, tiles = work
    path = folder / shard.name
    path.with_suffix(".idx").write_text(tar_format.index_text(plan.index_lines(tiles)))
    sync(path)
    sync(path.with_suffix(".idx"))
    return ShardEntry(shard.name, shard.samples, shard.bytes, sha256_file(path))
