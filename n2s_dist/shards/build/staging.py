"""Shards being written: a plan for some images, the folder it fills, and the journal of what is done.

FOLDER/LAYOUT/            the shards, in their full size from the start; every tile has its place
FOLDER/LAYOUT.images      the names and sizes that the plan is made from
FOLDER/LAYOUT.journal     a line for each finished image: its place in the list, a checksum of its tiles, its SHA-256;
                          LAYOUT.journal-1-of-2 where several nodes build, each writing its own and reading all

Leaving out, adding or replacing an image changes the place of every tile, and makes another layout. It takes over the
tiles of the images that an earlier one in the same folder has finished.
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

from n2s_dist.images.files import ImageFile
from n2s_dist.shards.build.build_group import ALONE, BuildGroup
from n2s_dist.shards.build.plan import BuildOptions, ShardPlan, SplitPlan, Tiles, make_plan, tiles_of_image
from n2s_dist.shards.build.sources import Source
from n2s_dist.shards.build.tiles import Content, Job, Places, Written, finish_shard, write_image_tiles
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
        names = [[source.name, *size] for source, size in zip(images, sizes, strict=True)]
        self._listing = json.dumps([names, sorted(only or [])])
        self.folder = parent / hashlib.sha256(self._listing.encode()).hexdigest()[:16]
        self._journal = self.folder.with_suffix(
            ".journal" if group.alone else f".journal-{group.node}-of-{group.nodes}"
        )
        self._where = {
            images[image].name: (split, i) for split in self.splits for i, image in enumerate(split.images.tolist())
        }
        self._written = self._read_journal()

    @property
    def _placed(self) -> list[tuple[int, Source]]:
        """This node's share of the images that have tiles here, with their places in the list."""
        return self.group.share([(i, source) for i, source in enumerate(self.images) if source.name in self._where])

    def create(self) -> None:
        """Make every shard in its full size, unless it is there already. Raises UserError when there is no room."""
        self.folder.mkdir(exist_ok=True)
        images = self.folder.with_suffix(".images")
        if not images.exists():
            unfinished = images.with_suffix(f".images-{self.group.node}")
            unfinished.write_text(self._listing)
            unfinished.replace(images)
        sizes = {self.folder / shard.name: shard.bytes for split in self.splits for shard in self._wanted(split)}
        need = sum(sizes.values()) - sum(path.stat().st_blocks * 512 for path in sizes if path.exists())
        if need > shutil.disk_usage(self.folder).free:
            work = self.folder.parents[1]
            beside = f"; {work} holds what an earlier try has finished" if self._others() else ""
            raise UserError(f"the shards need {need / 2**20:.0f} MiB, more than {work.parent} has free{beside}")
        for path, size in sizes.items():
            with path.open("ab") as stream:
                stream.truncate(size)

    def write(self, pool: Workers) -> tuple[dict[str, str], int]:
        """Write every tile of this node's share, from the images or from what an earlier layout has of them.

        Returns why images can't be read, by name, and the sum of the others' contents (`fingerprint_of_content`).
        """
        failures, contents = {}, 0
        with self._journal.open("a", buffering=1) as journal, self._syncing():
            done = pool.map(partial(write_image_tiles, self.options), self._jobs())
            mine = len(self._placed)
            for job, result in tqdm(done, "tiles", total=mine, unit="image", disable=not self.group.is_leader):
                if isinstance(result, str):
                    failures[job.source.name] = result
                    continue
                contents += fingerprint_of_content(job.source.name, result.sha256)
                if not (job.written and result == job.written.content):
                    journal.write(f"{job.image} {result.crc32} {result.sha256}\n")
        return failures, contents

    @contextlib.contextmanager
    def _syncing(self) -> Iterator[None]:
        """Meanwhile bring what is written to the disk, which has nothing else to do while images are decoded."""
        ended, errors = threading.Event(), []

        def sync_again_and_again() -> None:
            try:
                while not ended.wait(_SYNC_EVERY_SEC):
                    for split in self.splits:
                        for shard in self._wanted(split):
                            sync(self.folder / shard.name)
            except OSError as error:  # a disk says but once that it has lost something
                errors.append(error)

        thread = threading.Thread(target=sync_again_and_again, name="sync")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if errors:
            raise errors[0]

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

    def _jobs(self) -> Iterator[Job]:
        others = self._others()
        for image, source in self._placed:
            places = self._places(source.name)
            if len(places.tiles):
                before = next((found for layout in others if (found := layout._find(source.name))), None)
                here = self._find(source.name)
                yield Job(image, source, self.sizes[image], places, here, before, not self.group.alone)

    def _find(self, name: str) -> Written | None:
        """The tiles of an image, if a journal says that they are written here."""
        if name not in self._where:
            return None
        split, i = self._where[name]
        image = int(split.images[i])
        content = self._written.get(image)
        return Written(self._places(name), self.sizes[image], content) if content else None

    def _others(self) -> "list[Layout]":
        """Other layouts in the same folder, of which there is some work left."""
        found = []
        for path in sorted(self.folder.parent.glob("*.images")):
            names, only = json.loads(path.read_text())
            if path.stem != self.folder.name and path.with_suffix("").is_dir() and not only:
                images = [Source(ImageFile(Path(), name, 0), name) for name, _, _ in names]
                sizes = [(height, width) for _, height, width in names]
                layout = Layout(images, sizes, self.options, self.folder.parent)
                if layout.folder.name == path.stem and layout._written:
                    found.append(layout)
        return found

    def _places(self, name: str) -> Places:
        """Where the tiles of an image lie."""
        split, i = self._where[name]
        tiles = tiles_of_image(split, i)
        if self.only is not None:
            tiles = tiles.pick(np.array([split.shards[shard].name in self.only for shard in tiles.shard.tolist()]))
        return Places(self.folder, split.name, tiles)

    def _read_journal(self) -> dict[int, Content]:
        """What is written of each image, by any node; a last line cut short by a kill is not a line."""
        written: dict[int, Content] = {}
        for journal in sorted(self.folder.parent.glob(f"{self.folder.name}.journal*")):
            lines = (line.split() for line in journal.read_text().split("\n")[:-1])
            written |= {int(words[0]): Content(int(words[1]), words[2]) for words in lines if len(words) == 3}
        return written


def fingerprint_of_content(name: str, sha256: str) -> int:
    """What an image adds to the fingerprint of all: their sum, which has no order, so nodes can add up their parts."""
    return int(hashlib.sha256(f"{sha256} {name}".encode("utf-8", "surrogateescape")).hexdigest(), 16)


def fingerprint_of_all(contents: int) -> str:
    """64 hexadecimal digits for a sum of fingerprint_of_content."""
    return f"{contents % 2**256:064x}"
