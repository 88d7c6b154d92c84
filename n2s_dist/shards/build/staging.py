"""Shards being written: a plan for some images, the folder it fills, and the journal of what is done.

FOLDER/LAYOUT/            the shards, in their full size from the start; every tile has its place
FOLDER/LAYOUT.journal     a line for each finished image: its place in the list, a checksum of its tiles;
                          LAYOUT.journal-1-of-2 where several nodes build, each writing its own and reading all
"""

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from n2s_dist.shards.build.build_group import ALONE, BuildGroup
from n2s_dist.shards.build.plan import BuildOptions, ShardPlan, SplitPlan, Tiles, make_plan, tiles_of_image
from n2s_dist.shards.build.tiles import Job, Places, Source, finish_shard, write_image_tiles
from n2s_dist.shards.manifest import ShardEntry
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import sync
from n2s_dist.utils.process_pool import Workers

_SYNC_EVERY_SEC = 2.0


class Layout:
    """images: those to build from, in order; sizes: (height, width) of each. only: the shards to write, if not all.

    group: this node of those that build together; `write` and `finish` do its share.
    """

    def __init__(
        self,
        images: list[Source],
        sizes: list[tuple[int, int]],
        options: BuildOptions,
        parent: Path,
        only: frozenset[str] | None = None,
        group: BuildGroup = ALONE,
    ) -> None:
        self.images, self.sizes, self.options, self.only, self.group = images, sizes, options, only, group
        self.splits = make_plan([source.name for source in images], sizes, options)
        listing = json.dumps([[source.name for source in images], sorted(only or [])])
        self.folder = parent / hashlib.sha256(listing.encode()).hexdigest()[:16]
        self._journal = self.folder.with_suffix(
            ".journal" if group.alone else f".journal-{group.node}-of-{group.nodes}"
        )
        self._where = {
            images[image].name: (split, i) for split in self.splits for i, image in enumerate(split.images.tolist())
        }

    @property
    def _placed(self) -> list[tuple[int, Source]]:
        """This node's share of the images that have tiles here, with their places in the list."""
        return self.group.share([(i, source) for i, source in enumerate(self.images) if source.name in self._where])

    def create(self) -> None:
        """Make every shard in its full size, unless it is there already. Raises UserError when there is no room."""
        self.folder.mkdir(exist_ok=True)
        sizes = {self.folder / shard.name: shard.bytes for split in self.splits for shard in self._wanted(split)}
        need = sum(sizes.values()) - sum(path.stat().st_blocks * 512 for path in sizes if path.exists())
        if need > shutil.disk_usage(self.folder).free:
            raise UserError(f"the shards need {need / 2**20:.0f} MiB, more than {self.folder.parents[2]} has free")
        for path, size in sizes.items():
            with path.open("ab") as stream:
                stream.truncate(size)

    def write(self, pool: Workers, before: "Layout | None" = None) -> dict[str, str]:
        """Write every tile, from the images or from an earlier layout. Returns why images can't be read, by name."""
        written, failures = self._read_journal(), {}
        with self._journal.open("a", buffering=1) as journal, self._syncing():
            done = pool.map(partial(write_image_tiles, self.options), self._jobs(written, before))
            mine = len(self._placed)
            for job, result in tqdm(done, "tiles", total=mine, unit="image", disable=not self.group.is_leader):
                if isinstance(result, str):
                    failures[job.source.name] = result
                elif result != job.written:
                    journal.write(f"{job.image} {result}\n")
        return failures

    @contextlib.contextmanager
    def _syncing(self) -> Iterator[None]:
        """Meanwhile bring what is written to the disk, which has nothing else to do while images are decoded."""
        ended = threading.Event()

        def sync_again_and_again() -> None:
            while not ended.wait(_SYNC_EVERY_SEC):
                for split in self.splits:
                    for shard in self._wanted(split):
                        sync(self.folder / shard.name)

        thread = threading.Thread(target=sync_again_and_again, name="sync")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def finish(self, pool: Workers, split: SplitPlan) -> tuple[ShardEntry, ...]:
        """Write the indexes of this node's share of a split's shards and bring both to the disk.

        Returns what the manifest will say of them.
        """
        by_shard = np.argsort(split.tiles.shard, kind="stable")
        ends = np.searchsorted(split.tiles.shard[by_shard], np.arange(len(split.shards) + 1))
        wanted = self._wanted(split)

        def work() -> Iterator[tuple[ShardPlan, Tiles]]:
            for i, shard in self.group.share(list(enumerate(split.shards))):
                if shard in wanted:
                    yield shard, split.tiles.pick(by_shard[ends[i] : ends[i + 1]])

        done = pool.map(partial(finish_shard, self.folder), work())
        progress = tqdm(done, f"{split.name} checksums", unit="shard", leave=False, disable=not self.group.is_leader)
        return tuple(entry for _, entry in progress)

    def _wanted(self, split: SplitPlan) -> list[ShardPlan]:
        return [shard for shard in split.shards if self.only is None or shard.name in self.only]

    def _jobs(self, written: dict[int, int], before: "Layout | None") -> Iterator[Job]:
        for image, source in self._placed:
            places = self._places(source.name)
            if len(places.tiles):
                earlier = before._places(source.name) if before and source.name in before._where else None
                yield Job(image, source, self.sizes[image], places, written.get(image), earlier, not self.group.alone)

    def _places(self, name: str) -> Places:
        """Where the tiles of an image lie."""
        split, i = self._where[name]
        tiles = tiles_of_image(split, i)
        if self.only is not None:
            tiles = tiles.pick(np.array([split.shards[shard].name in self.only for shard in tiles.shard.tolist()]))
        return Places(self.folder, split.name, tiles)

    def _read_journal(self) -> dict[int, int]:
        """Checksum of each image that is written, by any node; a last line cut short by a kill is not a line."""
        written: dict[int, int] = {}
        for journal in sorted(self.folder.parent.glob(f"{self.folder.name}.journal*")):
            lines = (line.split() for line in journal.read_text().split("\n")[:-1])
            written |= {int(words[0]): int(words[1]) for words in lines if len(words) == 2}
        return written
