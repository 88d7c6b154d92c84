"""One shard: a memory-mapped tar, and what its headers say of each sample."""

import io
import json
import mmap
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from n2s_dist.images.eight_bit import decode_image
from n2s_dist.shards import tar_format
from n2s_dist.shards.manifest import ShardEntry
from n2s_dist.utils import tar_members
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.hashing import name_key

OFFSET, HEIGHT, WIDTH, ROW, COLUMN, KEY = range(6)  # what Shard.look_up says of each sample


class Sample(NamedTuple):
    """A tile and where in its source image it lies."""

    tile: np.ndarray  # [H, W, C]; a read-only view of the memory-mapped tar, unless it had to be decoded
    image: str
    image_key: int  # 64-bit hash of the image's name: noise is keyed by it
    row: int
    column: int


class Described(NamedTuple):
    """What a sample's headers say: where its image lies and what it shows.

    shape None: encoded, not raw. crc32: of the tile, as written by the builder; None in other programs' tars.
    """

    offset: int
    size: int
    shape: tuple[int, int, int] | None
    dtype: str
    about: tuple[str, int, int, int]
    crc32: str | None


class Shard:
    """One tar, memory-mapped when first touched. Pixels are views of the page cache, never copies.

    Samples of other programs may hold a PNG or JPEG instead of a raw tile, which is decoded each time
    it is read, and no description, for which the sample's own name then stands.
    """

    def __init__(self, path: Path, entry: ShardEntry, channels: int, dtype: str = "uint8") -> None:
        self.path, self.entry, self.channels, self.dtype = path, entry, channels, dtype
        self._known = np.zeros((entry.samples, 6), np.uint64)  # zeros take no memory before they are touched
        if not self.path.is_file():
            raise UserError(f"{self.path} is missing, but the manifest names it: build the shards again")
        if self.path.stat().st_size != entry.bytes:
            raise UserError(
                f"{self.path} has {self.path.stat().st_size} bytes, the manifest says {entry.bytes}: "
                "build the shards again"
            )

    @cached_property
    def map(self) -> mmap.mmap:
        with self.path.open("rb") as stream:
            return tar_members.mapped(stream)

    @cached_property
    def _spans(self) -> np.ndarray:
        path = self.path.with_suffix(".idx")
        try:
            spans = tar_format.parse_index(path.read_text(), self.entry.bytes)
            if len(spans) != self.entry.samples:
                raise ValueError(f"{len(spans)} samples, the manifest says {self.entry.samples}")
        except (OSError, ValueError, OverflowError) as error:
            raise UserError(f"{path} does not match its shard ({error}): build the shards again") from None
        return spans

    def read_ahead(self) -> None:
        """Map the tar and read its index now: what is mapped can be read even when its file is removed."""
        _ = self.map, self._spans

    def __getitem__(self, index: int) -> Sample:
        offset, size, shape, dtype, about, _ = self.describe(index)
        if shape is None:
            content = io.BytesIO(self.map[offset : offset + size])
            return Sample(decode_image(content, self.path / about[0], self.channels), *about)
        count = shape[0] * shape[1] * shape[2]
        return Sample(np.frombuffer(self.map, dtype, count, offset).reshape(shape), *about)

    def look_up(self, indices: np.ndarray) -> np.ndarray:
        """Of some samples: offset, height and width of the tile, row, column, key of its image: uint64 [N, 6].

        Height 0 where the tile is encoded. Headers are parsed once. UserError when they are damaged.
        """
        known = self._known[indices]
        for at in np.flatnonzero(known[:, HEIGHT] == 0).tolist():
            index = int(indices[at])
            offset, _, shape, _, (_, key, row, column), _ = self.describe(index)
            known[at] = (offset, *(shape or (0, 0))[:2], row, column, key)
            self._known[index] = known[at]
        return known

    def describe(self, index: int) -> Described:
        """A sample's headers; UserError when they are damaged."""
        try:
            return self._parse(index)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = str(error)[:200] or type(error).__name__
            raise UserError(f"{self.path}, sample {index} is damaged ({reason}): build the shards again") from None

    def _parse(self, index: int) -> Described:
        kind, offset, size, json_offset, json_size = self._spans[index].tolist()
        text = json.loads(self.map[json_offset : json_offset + json_size].decode()) if json_size else {}
        if not text.keys() & {"image", "row", "column"}:
            text = {"image": f"{self.path.name}/{index}", "row": 0, "column": 0}
        image, row, column = text["image"], text["row"], text["column"]
        if not (isinstance(image, str) and type(row) is int and type(column) is int and min(row, column) >= 0):
            raise ValueError("a description with another image, row or column than text and two whole numbers")
        if max(row, column) >= 2**31:
            raise ValueError(f"a tile at row {row}, column {column}")
        about, crc32 = (image, name_key(image), row, column), text.get("crc32")
        if tar_format.IMAGE_SUFFIXES[kind] != "npy":
            return Described(offset, size, None, "uint8", about, None)
        offset, shape, dtype = tar_format.parse_npy(self.map, offset, size)
        if dtype != self.dtype or shape[2] != self.channels:
            raise ValueError(f"a tile of {dtype} {shape}, expected {self.dtype} with {self.channels} channels")
        return Described(offset, size, shape, dtype, about, crc32)
