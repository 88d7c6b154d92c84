"""The shard format: plain POSIX tars of raw tiles, an index beside each, one manifest for the set.

    DIR/manifest.json             what is here: counts, tile size, channels, bytes and sha256 of each shard
    DIR/train-000000.tar          per sample KEY.npy (a tile [H, W, C]) and KEY.json (source image, row, column)
    DIR/train-000000.idx          where each component lies, in the form that DALI's webdataset reader takes
    DIR/validation-000000.tar     tiles of images that training never sees

docs/shards.md specifies it in full; tar_format.py knows the bytes, manifest.py the manifest.
"""

import contextlib
import hashlib
import io
import json
import mmap
import os
import random
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from n2s_dist.images.eight_bit import decode_image
from n2s_dist.shards import tar_format
from n2s_dist.shards.manifest import Manifest, ShardEntry, read_manifest
from n2s_dist.utils import tar_members
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import sha256_file
from n2s_dist.utils.hashing import name_key

try:
    import resource
except ImportError:  # Windows, where a mapped file does not stay open
    resource = None  # type: ignore[assignment]

_PAGE = 4096  # bytes
_PAGES_IN_ALL = 2_000  # read of all files, as far as that leaves two of each
_MAX_DESCRIBED = 10_000  # samples of a shard whose description is kept in memory


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
        self._described: dict[int, Described] = {}
        if not self.path.is_file():
            raise UserError(f"{self.path} is missing, but the manifest names it: build the shards again")
        if self.path.stat().st_size != entry.bytes:
            raise UserError(
                f"{self.path} has {self.path.stat().st_size} bytes, the manifest says {entry.bytes}: "
                "build the shards again"
            )

    @cached_property
    def _map(self) -> mmap.mmap:
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
        _ = self._map, self._spans

    def __getitem__(self, index: int) -> Sample:
        offset, size, shape, dtype, about, _ = self.describe(index)
        if shape is None:
            content = io.BytesIO(self._map[offset : offset + size])
            return Sample(decode_image(content, self.path / about[0], self.channels), *about)
        count = shape[0] * shape[1] * shape[2]
        return Sample(np.frombuffer(self._map, dtype, count, offset).reshape(shape), *about)

    def describe(self, index: int) -> Described:
        """A sample's headers, parsed once; UserError when they are damaged."""
        if index not in self._described:
            try:
                described = self._parse(index)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                reason = str(error)[:200] or type(error).__name__
                raise UserError(f"{self.path}, sample {index} is damaged ({reason}): build the shards again") from None
            if len(self._described) >= _MAX_DESCRIBED:
                self._described.clear()
            self._described[index] = described
        return self._described[index]

    def _parse(self, index: int) -> Described:
        kind, offset, size, json_offset, json_size = self._spans[index].tolist()
        text = json.loads(self._map[json_offset : json_offset + json_size].decode()) if json_size else {}
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
        offset, shape, dtype = tar_format.parse_npy(self._map, offset, size)
        if dtype != self.dtype or shape[2] != self.channels:
            raise ValueError(f"a tile of {dtype} {shape}, expected {self.dtype} with {self.channels} channels")
        return Described(offset, size, shape, dtype, about, crc32)


class Store(Protocol):
    """Where the shards of a set are: a folder here, or one elsewhere that loading/remote_cache.py brings them from."""

    location: Path | str
    manifest: Manifest
    most_open: int  # shards that a ShardSet keeps mapped; 0 keeps all, and opens them at once

    def hold(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """The whole, checked shard on this machine's disk, once it is there; it stays while it is held."""

    def close(self) -> None:
        """End all waiting for shards."""

    def digests(self) -> dict[str, str]:
        """By the names of files, what any other set has otherwise: to be compared between nodes."""


class LocalShards:
    """Shards in a folder, as they were built."""

    most_open = 0

    def __init__(self, folder: Path) -> None:
        self.location: Path | str = folder
        self.manifest = read_manifest(folder)
        allow_open_files(sum(len(split.shards) for split in self.manifest.splits.values()))

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[Path]:
        yield Path(self.location) / name

    def close(self) -> None:
        pass

    def digests(self) -> dict[str, str]:
        """Of the manifest, and of a few pages of each shard and index: a copy may be older than its manifest."""
        folder = Path(self.location)
        names = [entry.name for split in self.manifest.splits.values() for entry in split.shards]
        files = [folder / name for tar in names for name in (tar, Path(tar).with_suffix(".idx").name)]
        pages = max(2, _PAGES_IN_ALL // max(1, len(files)))
        return {"manifest.json": sha256_file(folder / "manifest.json")[:12]} | {
            path.name: _sampled_digest(path, pages) for path in files
        }


def _sampled_digest(path: Path, pages: int) -> str:
    """Of a file's size, its first page and others at places that depend on its size alone."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            places = random.Random(size).sample(range(max(1, size // _PAGE)), min(pages - 1, max(1, size // _PAGE)))
            total = hashlib.sha256(f"{size}".encode())
            for place in [0, *places]:
                stream.seek(place * _PAGE)
                total.update(stream.read(_PAGE))
            return total.hexdigest()[:12]
    except FileNotFoundError:
        return "missing"


def allow_open_files(count: int) -> None:
    """Raise the process's limit on open files where `count` mapped shards would exceed it. Raises UserError."""
    if resource is None:
        return
    need = count + 512  # for all else
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or need <= soft:
        return
    if hard != resource.RLIM_INFINITY and need > hard:
        raise UserError(
            f"{count} shards take {need} open files, all else included, and a process may have {hard} here: raise that "
            "limit (ulimit -Hn), or build larger shards (--shard-mib)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


class ShardSet:
    """All samples of one split, by index in [0, len)."""

    def __init__(self, shards: str | Path | Store, split: str = "train") -> None:
        self.store: Store = LocalShards(Path(shards)) if isinstance(shards, str | Path) else shards
        self.folder, self.manifest = self.store.location, self.store.manifest
        if split not in self.manifest.splits:
            raise UserError(f"{self.folder} has no '{split}' split; its manifest names {list(self.manifest.splits)}")
        self.split = self.manifest.splits[split]
        self.noise = self.manifest.noise if self.split.dtype != "uint8" else None
        self._open: OrderedDict[int, Shard] = OrderedDict()  # least recently used first
        self._ends = np.cumsum([entry.samples for entry in self.split.shards])
        if not self.store.most_open:
            for number in range(len(self.split.shards)):
                self._shard(number)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        assert 0 <= index < len(self)
        number = int(self.shard_number(index))
        return self._shard(number)[index - (int(self._ends[number - 1]) if number else 0)]

    def take(self, indices: np.ndarray) -> list[Sample]:
        """Several samples; their shards are looked up at once."""
        numbers = self.shard_number(indices)
        places = indices - np.where(numbers, self._ends[numbers - 1], 0)
        return [self._shard(number)[place] for number, place in zip(numbers.tolist(), places.tolist(), strict=True)]

    def shard_number(self, index: int | np.ndarray) -> np.ndarray:
        """Which shard, by its place in the manifest, holds each sample: an integer of the index's shape."""
        return np.searchsorted(self._ends, index, side="right")

    def _shard(self, number: int) -> Shard:
        """An open shard. Tiles of one that is closed again stay readable: they hold its mapping."""
        shard = self._open.get(number)
        if shard is None:
            entry, most = self.split.shards[number], self.store.most_open
            with self.store.hold(entry.name) as path:
                shard = Shard(path, entry, self.manifest.channels, self.split.dtype)
                if most:
                    shard.read_ahead()
            if most and len(self._open) >= most:
                self._open.popitem(last=False)
            self._open[number] = shard
        self._open.move_to_end(number)
        return shard
