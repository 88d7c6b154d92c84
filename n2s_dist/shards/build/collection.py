"""The images that shards are built from, their sizes, and those that are left out."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from tqdm import tqdm

from n2s_dist.shards.build.build_group import ALONE, BuildGroup
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.build.sources import Measured, Size, Source, expanded, measure
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.process_pool import Workers

OnError = Literal["stop", "skip"]
_SIZES_AT_ONCE = 64


def measured(files: list[Source], options: BuildOptions, pool: Workers) -> Iterator[dict[str, Measured]]:
    """What the headers of some files after others say, by their names."""
    parts = [files[at : at + _SIZES_AT_ONCE] for at in range(0, len(files), _SIZES_AT_ONCE)]
    for part, sizes in pool.map(partial(measure, options), parts):
        yield {source.name: size for source, size in zip(part, sizes, strict=True)}


def _failures(found: dict[str, Any]) -> dict[str, str]:
    return {name: size for name, size in found.items() if isinstance(size, str)}


class Collection:
    """Images to build from, their sizes, and those that are left out because they can't be read.

    files: what they lie in. leave_out: names of images that are not wanted. group: this node of those that build
    together.
    """

    def __init__(
        self,
        files: list[Source],
        options: BuildOptions,
        on_error: OnError,
        skipped: dict[str, str] | None = None,
        group: BuildGroup = ALONE,
        leave_out: frozenset[str] = frozenset(),
    ) -> None:
        self.images, self.options, self.on_error, self.group = files, options, on_error, group
        self.skipped = dict(skipped or {})  # name -> reason
        self._leave_out = leave_out
        self._sizes: dict[str, Size] = {}

    def measure(self, pool: Workers) -> None:
        """Read the size of every image from its file's header; files of several images become these images."""
        files = self.group.share(self.kept())
        found: dict[str, Measured] = {}
        with tqdm(
            total=len(files), desc="sizes", unit="image", leave=False, disable=not self.group.is_leader
        ) as progress:
            for part in measured(files, self.options, pool):
                progress.update(len(part))
                found |= part
                if self.group.alone:
                    self.skip(_failures(found))
        for others in self.group.exchange("sizes", found):
            found |= others
        self.skip(_failures(found))
        pairs = [pair for source in self.kept() for pair in expanded(source, found[source.name])]
        pairs = [(source, size) for source, size in pairs if source.name not in self._leave_out]
        self.images = [source for source, _ in pairs]
        self._sizes = {source.name: size for source, size in pairs}

    def skip(self, failures: dict[str, str]) -> None:
        """Leave images out, or raise UserError where that is not wanted."""
        if failures and self.on_error == "stop":
            raise UserError(next(iter(failures.values())))
        self.skipped |= failures
        self.kept()

    def kept(self) -> list[Source]:
        kept = [source for source in self.images if source.name not in self.skipped]
        if not kept:
            raise UserError(f"none of the {len(self.images)} images can be read: {next(iter(self.skipped.values()))}")
        return kept

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the kept images."""
        return [self._sizes[source.name] for source in self.kept()]
