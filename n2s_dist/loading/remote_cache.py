"""Shards that lie elsewhere, kept on this node's disk while they are used.

    URL ──► .NAME.tar.SIZE.partial ──► bytes and sha256 as the manifest says? ──► NAME.idx, NAME.tar ──► mapped
            resumed after a kill           else fetched again, then refused       least recently used goes first

    CACHE_DIR/lock                     held while room is made
    CACHE_DIR/remote-*/NAME.tar.lock   held while NAME.tar is fetched, opened or removed
                                       (a folder for each URL and manifest)

Any number of ranks and jobs share a cache directory: each shard is fetched once, by whoever locks it
first. A lock is the kernel's and ends with its holder, however that dies; lock files stay for good.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from n2s_dist.loading.remote_files import PATIENCE, Closed, Patience, RemoteFolder
from n2s_dist.shards import tar_format
from n2s_dist.shards.manifest import Manifest, ShardEntry
from n2s_dist.shards.reader import LocalShards, Store
from n2s_dist.utils import tar_members
from n2s_dist.utils.errors import RunFailed, UserError
from n2s_dist.utils.locks import is_at, try_lock

_POLL_INTERVAL_SEC = 0.02  # between looks at a lock that somebody else holds
_MAX_OPEN = 64  # shards mapped at a time


def open_store(location: str, cache_dir: str = "", cache_gib: float = 100.0) -> Store:
    """The shards at a folder or URL. UserError when there are none, or the cache can't hold two of them."""
    if location.startswith("file://"):
        location = location.removeprefix("file://")
    if "://" not in location:
        return LocalShards(Path(location))
    return RemoteShards(location, Path(cache_dir or default_cache_dir()), int(cache_gib * 2**30), PATIENCE)


def default_cache_dir() -> Path:
    """Where shards are kept when nobody says where. Raises UserError for a user without a home folder."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "n2s_dist"
    try:
        return Path.home() / ".cache" / "n2s_dist"
    except RuntimeError:
        raise UserError(
            "data.cache_dir is empty, and no home folder is known to keep shards in: name a folder"
        ) from None


class RemoteShards:
    """The shards at a URL, through a cache directory of at most capacity_bytes that others may share.

    What is mapped stays readable when its file is removed; until it is closed, disk and capacity
    differ by it.
    """

    def __init__(self, url: str, cache_dir: Path, capacity_bytes: int, patience: Patience = PATIENCE) -> None:
        self._stop = threading.Event()
        self._remote = RemoteFolder(url, patience, self._stop)
        self.location: Path | str = self._remote.url
        text = self._remote.read("manifest.json")
        self.manifest = Manifest.from_json(text.decode(errors="replace"), f"{self.location}/manifest.json")
        self._entries = {entry.name: entry for split in self.manifest.splits.values() for entry in split.shards}
        largest = max((_room(entry) for entry in self._entries.values()), default=1)
        if capacity_bytes < 2 * largest:
            raise UserError(
                f"data.cache_gib is {capacity_bytes / 2**30:.4g}: it must hold at least two shards of {self.location}, "
                f"{2 * largest / 2**30:.4g}"
            )
        self.ahead = capacity_bytes // (2 * largest)  # shards that may lie here unused
        self.most_open = min(_MAX_OPEN, capacity_bytes // largest)
        self._capacity, self._cache_dir = capacity_bytes, cache_dir.expanduser().absolute()
        self._digest = hashlib.sha256(text).hexdigest()
        key = hashlib.sha256(f"{self.location}\n".encode() + text).hexdigest()
        self._folder = self._cache_dir / f"remote-{key[:16]}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with try_lock(self._cache_dir / "lock"):
                pass
        except OSError as error:
            raise UserError(f"data.cache_dir {cache_dir} can't be written ({error}): choose another") from None
        self._given_up: dict[str, RunFailed] = {}

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def close(self) -> None:
        """Whatever is being fetched or waited for ends with Closed."""
        self._stop.set()

    def digests(self) -> dict[str, str]:
        """Of the manifest alone: shards are checked against it when they come."""
        return {"manifest.json": self._digest[:12]}

    def has(self, name: str) -> bool:
        """Whether the shard is here; one that is counts as used just now."""
        try:
            os.utime(self._folder / name)
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[Path]:
        """The shard's file, fetched if it is not here; nobody removes it within.

        Raises RunFailed, with the URL and the last reason, when patience ends.
        """
        path = self._folder / name
        with self._locked(name):
            if name in self._given_up:
                raise self._given_up[name]
            try:
                self._bring(self._entries[name], path)
            except RunFailed as error:
                self._given_up[name] = error
                raise
            os.utime(path)
            yield path

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        lock = self._folder / f"{name}.lock"
        while True:
            with try_lock(lock) as ours:
                if ours:
                    yield
                    return
            self._wait(_POLL_INTERVAL_SEC)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Closed(f"shards of {self.location} are no longer read: the run has ended")

    def _bring(self, entry: ShardEntry, path: Path) -> None:
        """Make the shard be here, whole and checked. The lock is ours."""
        index, partial = path.with_suffix(".idx"), self._folder / f".{entry.name}.{_room(entry)}.partial"
        while _size(path) != entry.bytes:
            path.unlink(missing_ok=True)
            while not self._reserve(partial, _room(entry)):
                self._wait(10 * _POLL_INTERVAL_SEC)
            # Locked itself as well: should somebody clear away lock files, no two still write to one file.
            with try_lock(partial, "a+b") as file:
                if file is None:
                    self._wait(_POLL_INTERVAL_SEC)
                else:
                    self._remote.fetch(entry.name, entry.bytes, entry.sha256, file)
                    if is_at(file, partial):
                        _write_index(partial, index)
                        partial.rename(path)
        if not index.is_file():
            _write_index(path, index)

    def _reserve(self, partial: Path, need: int) -> bool:
        """Make room and take it, by a partial file whose name says how much it will take.

        False when what fills the cache is just being fetched or opened by others: try again soon.
        """
        while True:
            with try_lock(self._cache_dir / "lock") as ours:
                if ours:
                    return self._make_room(partial, need)
            self._wait(_POLL_INTERVAL_SEC)

    def _make_room(self, partial: Path, need: int) -> bool:
        # In these folders alone: a directory may hold other tars besides.
        patterns = ("remote-*/*.tar", "remote-*/.*.partial")
        files = [file for pattern in patterns for file in self._cache_dir.glob(pattern) if file != partial]
        sizes = {file: taken for file in files if (taken := _taken(file))}
        used, missing, busy = sum(sizes.values()), need - (_size(partial) or 0), False

        def full() -> bool:
            return used + need > self._capacity

        def disk_full() -> bool:
            return missing > shutil.disk_usage(self._folder).free

        for file in sorted(sizes, key=_last_used):
            if not full() and not disk_full():
                break
            shard = _shard_of(file)
            with try_lock(shard.with_name(f"{shard.name}.lock")) as ours:
                if ours:
                    file.unlink(missing_ok=True)
                    shard.with_suffix(".idx").unlink(missing_ok=True)
                    used -= sizes[file]
                busy = busy or not ours
        if disk_full() and not busy:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))
        if full() or disk_full():
            partial.unlink(missing_ok=True)  # two that wait could each keep what the other one needs
            return False
        partial.touch()
        return True


def _room(entry: ShardEntry) -> int:
    """Bytes that a shard and its index take at most, unless keys are unusually long."""
    return entry.bytes + 128 * (entry.samples + 1)


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _taken(file: Path) -> int:
    """Bytes that a cached shard takes, with its index, or that a partial one has reserved; 0 if there is no such."""
    if file.suffix == ".partial":
        reserved = file.name.rsplit(".", 2)[-2]
        return int(reserved) if reserved.isdecimal() else 0
    return (_size(file) or 0) + (_size(file.with_suffix(".idx")) or 0)


def _shard_of(file: Path) -> Path:
    """The shard that a cached file is, or will be: .a.tar.123.partial becomes a.tar."""
    return file.with_name(file.name.removeprefix(".").rsplit(".", 2)[0]) if file.suffix == ".partial" else file


def _last_used(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _write_index(tar: Path, path: Path) -> None:
    """Index a tar that was checked.

    The manifest has no checksum of the index that lies beside the original, and one that is wrong but of
    the right form would give tiles other images' names. Walking the headers takes a small part of the
    time that fetching the tar took.
    """
    try:
        text = tar_format.index_text(tar_format.walk(tar))
    except tar_members.BrokenTar as error:
        raise UserError(f"{path.with_suffix('.tar')} is not a tar ({error}): build the shards again") from None
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
