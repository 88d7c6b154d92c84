"""What a worker process of a build does with one image: decode, cut into tiles, write each to its place."""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from n2s_dist.images.decoded import DecodedImage
from n2s_dist.images.eight_bit import as_eight_bits, read_image
from n2s_dist.images.fast_png import imagecodecs
from n2s_dist.images.files import KINDS
from n2s_dist.images.scale import Scale
from n2s_dist.images.user_files import check_measured, check_single, open_file
from n2s_dist.noise.specification import parse_training_noise
from n2s_dist.noise.stored import bake
from n2s_dist.shards import tar_format
from n2s_dist.shards.build import plan
from n2s_dist.shards.build.plan import BuildOptions, Tiles
from n2s_dist.shards.build.sources import OpenSource, Source, opened, reading
from n2s_dist.shards.manifest import ShardEntry
from n2s_dist.utils import tar_members
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import sha256_file, sync
from n2s_dist.utils.hashing import name_key


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
class Content:
    """What was written of an image: a checksum of its tiles, and the SHA-256 of what they were made from."""

    crc32: int
    sha256: str


@dataclass(frozen=True)
class Written:
    """Tiles of an image that a journal names. size: the image's (height, width)."""

    places: Places
    size: tuple[int, int]
    content: Content


@dataclass(frozen=True)
class Job:
    """One image: what its tiles are made from, and where they go."""

    image: int  # place in the list of images
    source: Source
    size: tuple[int, int]
    places: Places
    written: Written | None = None  # at `places`
    before: Written | None = None  # elsewhere, by an earlier layout
    shared: bool = False  # whether other nodes write into the same shards


def tile_shape(size: tuple[int, int], options: BuildOptions) -> tuple[int, int, int]:
    """[H, W, C] of the tiles of an image: all of one shape, since the last ones align to the border."""
    return min(options.tile_size, size[0]), min(options.tile_size, size[1]), options.channels


def cut_tiles(job: Job, image: OpenSource, options: BuildOptions) -> Iterator[np.ndarray]:
    """Decode an image, and return its tiles one by one, with noise in them where the options say so.

    Raises UserError before the first tile.
    """
    if options.already_noisy:
        return cut_noisy_tiles(job, image, options)
    if image.picture is None:
        pixels = read_image(image.file, options.channels)
    else:
        scale = job.source.page and job.source.page.scale
        pixels = as_eight_bits(image.picture, scale, Path(job.source.path), options.channels)
    check_size(job, *pixels.shape[:2])
    return _clean_or_corrupted(job, pixels, options)


def _clean_or_corrupted(job: Job, image: np.ndarray, options: BuildOptions) -> Iterator[np.ndarray]:
    height, width, _ = tile_shape(job.size, options)
    places, noise = job.places, None
    if options.dtype(places.split) != "uint8":
        assert options.noise is not None
        noise = parse_training_noise(options.noise)
    for row, column in zip(places.tiles.row.tolist(), places.tiles.column.tolist(), strict=True):
        tile = image[row : row + height, column : column + width]
        if noise is not None:
            tile = bake(noise, tile, options.seed, name_key(job.source.name), row, column)
        yield np.ascontiguousarray(tile)


def cut_noisy_tiles(job: Job, image: OpenSource, options: BuildOptions) -> Iterator[np.ndarray]:
    """The same of an image that has its noise already, at the file's own depth. Raises UserError."""
    assert options.noise is not None
    stored = parse_training_noise(options.noise).encoding
    path = job.source.path
    picture, nodata, scale = _noisy_picture(job, image, options)
    check_size(job, *picture.pixels.shape[:2])
    if picture.alpha is not None:
        raise UserError(f"{path} has an alpha channel: save it without")
    check_measured(picture, nodata, scale, Path(path))
    pixels = picture.measured()
    if options.channels == 3 and (picture.pixels != pixels).any():
        pixels = picture.pixels  # one of its colors alone
    if pixels.shape[2] != options.channels:  # a mean of channels has other noise, a repeated one dependent noise
        kind, way = KINDS[pixels.shape[2]], "with" if pixels.shape[2] == 1 else "without"
        raise UserError(f"{path} is {kind}, and noisy images are taken as they are: build {way} --gray or leave it out")
    height, width, _ = tile_shape(job.size, options)
    places = job.places.tiles
    return (
        stored.encode(scale.to_unit(pixels[row : row + height, column : column + width]))
        for row, column in zip(places.row.tolist(), places.column.tolist(), strict=True)
    )


def _noisy_picture(job: Job, image: OpenSource, options: BuildOptions) -> tuple[DecodedImage, float | None, Scale]:
    """An image at its own depth, its value of missing pixels, and its scale."""
    if image.picture is not None:
        assert job.source.page
        return image.picture, image.nodata, job.source.page.scale or Scale(0, 1)
    with open_file(image.file) as file:
        check_single(file.contents, job.source.file.path)
        (picture,) = file.images()
        return picture, file.contents.nodata, file.scale_of(picture, options.white, options.black)


def check_size(job: Job, height: int, width: int) -> None:
    if (height, width) != job.size:
        raise UserError(f"{job.source.path} changed while shards were built: run the command again")


def read_tiles(places: Places, shape: tuple[int, int, int], dtype: str) -> Iterator[np.ndarray]:
    """Tiles that are written already."""
    skip = tar_members.BLOCK + len(tar_format.npy_header(shape, dtype))
    for i, offset in enumerate(places.tiles.offset.tolist()):
        yield np.fromfile(places.shard(i), dtype, int(np.prod(shape)), offset=offset + skip).reshape(shape)


def _tiles_are_there(found: Written | None, job: Job, sha256: str, options: BuildOptions) -> bool:
    """Whether tiles of this very file, as they are wanted for this job, still are where a journal says."""
    if found is None or found.size != job.size or found.content.sha256 != sha256:
        return False
    dtype = options.dtype(job.places.split)
    # Leaving an image out may have moved another between training and validation, whose pixels are not the same.
    if options.dtype(found.places.split) != dtype:
        return False
    with contextlib.suppress(OSError, ValueError):  # a shard that is gone, or too short
        tiles = read_tiles(found.places, tile_shape(job.size, options), dtype)
        return combined([crc32(tile.data) for tile in tiles]) == found.content.crc32
    return False


def write_image_tiles(options: BuildOptions, job: Job) -> Content | str:
    """Write one image's tiles to their places. Returns what was written, or why the image can't be read."""
    try:
        with reading(job.source.file), opened(job.source) as image:
            if job.written and _tiles_are_there(job.written, job, image.sha256, options):
                return job.written.content
            if job.before and _tiles_are_there(job.before, job, image.sha256, options):
                shape, dtype = tile_shape(job.size, options), options.dtype(job.places.split)
                tiles = read_tiles(job.before.places, shape, dtype)
            else:
                tiles = cut_tiles(job, image, options)
    except UserError as error:
        return str(error)
    return Content(write_tiles(job, tiles), image.sha256)


def write_tiles(job: Job, content: Iterator[np.ndarray]) -> int:
    """Write tiles to their places; returns their checksum."""
    checksums, tiles = [], job.places.tiles
    # Samples of two nodes may share a page: without this, an NFS client may write all of it, stale neighbours too.
    flags = os.O_WRONLY | (getattr(os, "O_DSYNC", 0) if job.shared else 0) | getattr(os, "O_BINARY", 0)
    for i, tile in enumerate(content):
        checksums.append(crc32(tile.data))
        description = plan.describe(job.source.name, tiles.row[i], tiles.column[i], job.size, checksums[i])
        parts = tar_format.sample_parts(plan.sample_key(tiles.number[i]), tile, description)
        assert sum(map(len, parts)) == tar_format.sample_size(int(tiles.npy_size[i]), int(tiles.json_size[i]))
        shard = job.places.shard(i)
        descriptor = os.open(shard, flags)
        try:
            write_all(descriptor, parts, int(tiles.offset[i]))
        except OSError as error:
            raise OSError(error.errno, error.strerror, shard) from None
        finally:
            os.close(descriptor)
    return combined(checksums)


def write_all(descriptor: int, parts: list, offset: int) -> None:
    """Write buffers one after the other; the kernel may take less than all of them at a time."""
    while parts:
        if hasattr(os, "pwritev"):
            written = os.pwritev(descriptor, parts, offset)
        else:  # Windows
            os.lseek(descriptor, offset, os.SEEK_SET)
            written = os.write(descriptor, parts[0])
        offset += written
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if written:
            parts[0] = memoryview(parts[0])[written:]


@cache
def _fast_crc32() -> Callable[[Any], int] | None:
    codecs = imagecodecs()
    return codecs.deflate_crc32 if codecs is not None and codecs.DEFLATE.available else None


def crc32(data: Any) -> int:
    """zlib's; by libdeflate in a seventh of the time, where imagecodecs is installed."""
    return (_fast_crc32() or zlib.crc32)(data)


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
