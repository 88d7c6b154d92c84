"""The shard format: plain POSIX tars of raw tiles, an index beside each, one manifest for the set.

    DIR/manifest.json             what is here: counts, tile size, channels, bytes and sha256 of each shard
    DIR/train-000000.tar          per sample KEY.npy (a tile [H, W, C]) and KEY.json (source image, row, column)
    DIR/train-000000.idx          where each component lies, in the form that DALI's webdataset reader takes
    DIR/validation-000000.tar     tiles of images that training never sees

docs/shards.md specifies it in full; tar_format.py knows the bytes, manifest.py the manifest.
"""

import contextlib
import hashlib
import os
import random
from collections import OrderedDict
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from n2s_dist.shards.manifest import Manifest, read_manifest
from n2s_dist.shards.shard import COLUMN, HEIGHT, KEY, ROW, WIDTH, Sample, Shard
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import sha256_file

try:
    import resource
except ImportError:  # Windows, where a mapped file does not stay open
    resource = None  # type: ignore[assignment]

_PAGE = 4096  # bytes
_PAGES_IN_ALL = 2_000  # read of all files, as far as that leaves two of each


class Samples(NamedTuple):
    """Several samples side by side."""

    tiles: list[np.ndarray]  # of each what a Sample's is
    image_keys: np.ndarray  # uint64 [N]
    places: np.ndarray  # int64 [N, 2]: row and column in the source image
    sizes: np.ndarray  # int64 [N, 2]: height and width


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
        return self._shard(number)[int(self._place(index, number))]

    def take(self, indices: np.ndarray) -> Samples:
        """Several samples, most of the work done for all of them at once. indices: int64 [N]."""
        shards, numbers, known = self._look_up(indices)
        dtype, channels = np.dtype(self.split.dtype), repeat(self.manifest.channels, len(indices))
        maps = {number: shard.map for number, shard in shards.items()}
        offsets, heights, widths = known[:, : WIDTH + 1].T.tolist()
        tiles = [
            np.ndarray(shape, dtype, maps[number], offset)
            for number, shape, offset in zip(numbers, zip(heights, widths, channels, strict=True), offsets, strict=True)
        ]
        sizes = known[:, [HEIGHT, WIDTH]].astype(np.int64)
        for at in np.flatnonzero(known[:, HEIGHT] == 0).tolist():  # encoded
            tiles[at] = shards[numbers[at]][int(self._place(indices[at], numbers[at]))].tile
            sizes[at] = tiles[at].shape[:2]
        return Samples(tiles, known[:, KEY], known[:, [ROW, COLUMN]].astype(np.int64), sizes)

    def image_keys(self, indices: np.ndarray) -> np.ndarray:
        """Of the images that some samples are of: uint64 [N]. indices: int64 [N]."""
        return self._look_up(indices)[2][:, KEY]

    def _look_up(self, indices: np.ndarray) -> tuple[dict[int, Shard], list[int], np.ndarray]:
        """The shards of some samples by number, each sample's number, and what Shard.look_up says of it."""
        numbers = self.shard_number(indices)
        places = self._place(indices, numbers)
        known, listed = np.empty((len(indices), 6), np.uint64), numbers.tolist()
        shards = {}
        for number in dict.fromkeys(listed):  # in the order of the samples, as a cache expects them
            of_shard = np.flatnonzero(numbers == number)
            shards[number] = self._shard(number)
            known[of_shard] = shards[number].look_up(places[of_shard])
        return shards, listed, known

    def shard_number(self, index: int | np.ndarray) -> np.ndarray:
        """Which shard, by its place in the manifest, holds each sample: an integer of the index's shape."""
        return np.searchsorted(self._ends, index, side="right")

    def _place(self, index: int | np.ndarray, number: int | np.ndarray) -> np.ndarray:
        """The number in its shard of each sample."""
        return index - np.where(number, self._ends[number - 1], 0)

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
