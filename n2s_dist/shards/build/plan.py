"""Where every tile of every image goes, known before a pixel is read.

    image sizes ──► split by image ──► tiles ──► shuffle over the split ──► shard and offset of each tile

The whole plan is some thirty bytes a tile, in arrays: the images themselves are never held.
"""

import math
from dataclasses import dataclass

import numpy as np

from n2s_dist.images.axes import check_axes
from n2s_dist.noise.calibration import calibration_of
from n2s_dist.noise.specification import format_noise, parse_training_noise, with_files_read
from n2s_dist.shards import tar_format
from n2s_dist.shards.manifest import SPLITS
from n2s_dist.utils import tar_members
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.hashing import hash64, name_key, permute

_BLOCK = 2**18  # tiles permuted at a time


@dataclass(frozen=True)
class BuildOptions:
    """tile_size in pixels, shard_mib the largest tar, validation_fraction a share of the images.

    noise: such as "gaussian:25", stored in the training tiles, or None for clean tiles.
    already_noisy: the images have that noise: none is added, and none of them can be measured against.
    white, black: of such images, the values that become 1 and 0; None for what the file says, or its type's ends.
    levels: where `noise` is ranges, parts of them such as "gaussian:5-28", or None: training images whose own noise
    lies outside are left out. The others, their noise and the validation images stay the same.
    axes: of arrays whose files do not say it, such as "TZCYX".
    """

    tile_size: int = 256
    gray: bool = False
    validation_fraction: float = 0.02
    seed: int = 0
    shard_mib: int = 256
    noise: str | None = None
    already_noisy: bool = False
    white: int | None = None
    levels: str | None = None
    black: int | None = None
    axes: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", check_axes(self.axes))
        if self.tile_size < 16:
            raise UserError(f"--tile-size is {self.tile_size}: tiles have at least 16 pixels a side")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(f"--validation-fraction is {self.validation_fraction}: give a number in [0, 1)")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}: give a whole number, not negative and below 2^63")
        if self.shard_mib < 1:
            raise UserError(f"--shard-mib is {self.shard_mib}: a shard has at least 1 MiB")
        if self.already_noisy:
            self._take_camera()
        if self.noise is not None:
            object.__setattr__(self, "noise", with_files_read(self.noise))
            if self.gray and parse_training_noise(self.noise).is_of_color:
                raise UserError(f"--noise {self.noise} is noise of color images: name another for gray ones")
        self.dtype("train")
        if self.already_noisy and not self._has_one_noise():
            raise UserError("--already-noisy takes --noise FAMILY:LEVEL: the one noise and level that the images have")
        if self.already_noisy and self.validation_fraction:
            raise UserError(
                f"--validation-fraction is {self.validation_fraction}: noisy images can't be measured against, so with "
                "--already-noisy it is 0"
            )
        if (self.white is not None or self.black is not None) and not self.already_noisy:
            raise UserError("--white and --black go with --already-noisy: other images have 8 bits, from 0 to 255")
        if self.white is not None and not (self.black or 0) < self.white < 2**32:
            raise UserError(f"--white is {self.white}: give a value above black, such as 4095")
        if self.levels is not None:
            self._check_levels(self.levels)

    @property
    def channels(self) -> int:
        return 1 if self.gray else 3

    def _take_camera(self) -> None:
        """Where the noise is a calibrated camera's: its white and black, and its noise on the scale of both."""
        camera = calibration_of(self.noise)
        if camera is None:
            return
        white = round(camera.white_level) if self.white is None else self.white
        black = max(0, math.floor(camera.black_level)) if self.black is None else self.black  # the noise has the rest
        for name, value in (("white", white), ("black", black), ("noise", format_noise(camera.noise(white, black)))):
            object.__setattr__(self, name, value)

    def _has_one_noise(self) -> bool:
        return self.noise is not None and parse_training_noise(self.noise).is_single

    def _check_levels(self, levels: str) -> None:
        noise = parse_training_noise(self.noise) if self.noise else None
        parts = parse_training_noise(levels)
        if noise is None or noise.is_single:
            raise UserError(f"--levels is {levels}: it takes --noise with ranges of levels, such as gaussian:5-55")
        if parts.is_single or not parts.is_within(noise):
            raise UserError(f"--levels is {levels}: give parts of the ranges {self.noise}, such as {self.noise}")

    def takes(self, name: str) -> bool:
        """Whether an image's own noise lies in `levels`."""
        if self.levels is None:
            return True
        noise, parts = parse_training_noise(str(self.noise)), parse_training_noise(self.levels)
        return parts.holds(noise.of_image(name_key(name), self.seed))

    def dtype(self, split: str) -> str:
        """How a split's tiles are stored. Validation tiles stay clean: PSNR is measured against them.

        Raises UserError when `noise` is not understood.
        """
        if self.noise is None or split != "train":
            return "uint8"
        return parse_training_noise(self.noise).encoding.dtype


@dataclass(frozen=True)
class ShardPlan:
    name: str
    samples: int
    bytes: int


@dataclass(frozen=True)
class Tiles:
    """Tiles of one image or of one shard; arrays of one length."""

    image: np.ndarray  # place in the list of images
    row: np.ndarray
    column: np.ndarray
    number: np.ndarray  # of the sample in its split
    shard: np.ndarray
    offset: np.ndarray  # of the sample in its tar
    npy_size: np.ndarray
    json_size: np.ndarray

    def pick(self, chosen: np.ndarray | slice) -> "Tiles":
        return Tiles(**{name: array[chosen] for name, array in vars(self).items()})

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class SplitPlan:
    """A split's tiles, image after image: those of its i-th image are tiles[first[i] : first[i + 1]]."""

    name: str
    dtype: str
    images: np.ndarray  # places in the list of images
    first: np.ndarray
    tiles: Tiles
    shards: list[ShardPlan]
    min_height: int
    min_width: int


def choose_validation(names: list[str], fraction: float, seed: int) -> set[str]:
    """Names of the images kept apart: the nearest whole number to fraction x images, at least one unless 0."""
    if fraction == 0:
        return set()
    count = max(1, round(fraction * len(names)))
    if count >= len(names):
        raise UserError(f"--validation-fraction {fraction} of {len(names)} images leaves none to train on")
    return set(sorted(names, key=lambda name: int(hash64(seed, name_key(name))))[:count])


def describe(name: str, row: int, column: int, size: tuple[int, int], crc32: int = 0) -> dict:
    """What KEY.json says of a tile: its source image, its place there in pixels, and a checksum of its own pixels."""
    place = {"row": int(row), "column": int(column), "height": int(size[0]), "width": int(size[1])}
    return {"image": name, **place, "crc32": f"{crc32:08x}"}


def split_images(names: list[str], options: BuildOptions) -> dict[str, list[int]]:
    """Places in the list of the images of each split; some are in none."""
    validation = choose_validation(names, options.validation_fraction, options.seed)
    images = {
        "train": [i for i, name in enumerate(names) if name not in validation and options.takes(name)],
        "validation": [i for i, name in enumerate(names) if name in validation],
    }
    if not images["train"]:
        raise UserError(f"--levels {options.levels} leaves none of the images to train on: give wider ranges")
    return images


def make_plan(names: list[str], sizes: list[tuple[int, int]], options: BuildOptions) -> list[SplitPlan]:
    """Place every tile of every image in its shard. sizes: (height, width) of each image."""
    images = split_images(names, options)
    return [
        _plan_split(split, np.array(images[split], int), names, sizes, options, hash64(options.seed, number))
        for number, split in enumerate(SPLITS)
        if images[split]
    ]


def _plan_split(
    split: str,
    images: np.ndarray,
    names: list[str],
    sizes: list[tuple[int, int]],
    options: BuildOptions,
    shuffle_key: np.ndarray,
) -> SplitPlan:
    side, dtype = options.tile_size, options.dtype(split)
    heights, widths = np.array([sizes[i] for i in images], np.int32).T
    down, across = -(-heights // side), -(-widths // side)
    first = np.concatenate([[0], np.cumsum(down.astype(np.int64) * across)])
    count = int(first[-1])
    owner = np.repeat(np.arange(len(images), dtype=np.int32), np.diff(first))
    place = (np.arange(count) - first[owner]).astype(np.int32)
    # The last tile of a row or column aligns to the border, so that no pixel is lost.
    row = np.minimum(place // across[owner] * side, np.maximum(heights - side, 0)[owner])
    column = np.minimum(place % across[owner] * side, np.maximum(widths - side, 0)[owner])

    npy_size, json_size = np.empty(count, np.int64), np.empty(count, np.int32)
    for i, image in enumerate(images):
        shape = (min(side, int(heights[i])), min(side, int(widths[i])), options.channels)
        npy_size[first[i] : first[i + 1]] = (
            len(tar_format.npy_header(shape, dtype)) + np.prod(shape) * np.dtype(dtype).itemsize
        )
        json_size[first[i] : first[i + 1]] = (
            len(tar_format.description_json(describe(names[image], 0, 0, sizes[image]))) - 2
        )
    json_size += _digits(row) + _digits(column)

    shuffled = np.concatenate(
        [permute(np.arange(at, min(at + _BLOCK, count)), count, shuffle_key) for at in range(0, count, _BLOCK)]
    )
    ends = np.cumsum(tar_format.sample_size(npy_size, json_size)[shuffled])
    room = tar_format.samples_room(options.shard_mib * 2**20)
    shards: list[ShardPlan] = []
    number, shard, offset = np.empty(count, np.int64), np.empty(count, np.int32), np.empty(count, np.int64)
    begin = 0
    while begin < count:
        base = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, base + room, side="right")))
        members = shuffled[begin:end]
        number[members], shard[members] = np.arange(begin, end), len(shards)
        offset[members] = np.concatenate([[0], ends[begin : end - 1] - base])
        shards.append(
            ShardPlan(f"{split}-{len(shards):06d}.tar", end - begin, tar_format.tar_size(int(ends[end - 1]) - base))
        )
        begin = end
    tiles = Tiles(images.astype(np.int32)[owner], row, column, number, shard, offset, npy_size, json_size)
    smallest = int(min(side, heights.min())), int(min(side, widths.min()))
    return SplitPlan(split, dtype, images, first, tiles, shards, *smallest)


def _digits(numbers: np.ndarray) -> np.ndarray:
    """How many characters each non-negative number takes."""
    return 1 + np.searchsorted(10 ** np.arange(1, 10), numbers, side="right").astype(np.int32)


def tiles_of_image(plan: SplitPlan, i: int) -> Tiles:
    """The tiles of the split's i-th image."""
    return plan.tiles.pick(slice(plan.first[i], plan.first[i + 1]))


def index_lines(tiles: Tiles) -> list[tar_format.TarSample]:
    """What a shard's index says of its tiles, in the order of their numbers."""
    samples = []
    ordered = tiles.pick(np.argsort(tiles.number))
    for number, offset, npy_size, json_size in zip(
        ordered.number.tolist(),
        ordered.offset.tolist(),
        ordered.npy_size.tolist(),
        ordered.json_size.tolist(),
        strict=True,
    ):
        key = sample_key(number)
        parts, at = [], offset
        for suffix, size in (("npy", npy_size), ("json", json_size)):
            at += tar_members.BLOCK
            parts.append(tar_members.Component(suffix, at, size, f"{key}.{suffix}"))
            at += tar_format.padded(size)
        samples.append(tar_format.TarSample(key, tuple(parts)))
    return samples


def sample_key(number: int) -> str:
    return f"{number:09d}"
