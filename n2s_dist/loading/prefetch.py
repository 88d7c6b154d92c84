"""Things brought before they are needed: remote shards to this node, batches beside the step that uses the last one.

    order ──► shards of the next positions, in the order of need ──► threads ──► cache ◄── training reads what is there

One process of a node does this for all of its ranks. A rank that needs a shard before it is there
fetches it itself, or waits for whoever is fetching it.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from n2s_dist.loading.remote_cache import RemoteShards
from n2s_dist.loading.sample_order import order_blocks
from n2s_dist.shards.reader import ShardSet

T = TypeVar("T")

_HORIZON = 2**20  # positions: how far shards are looked for that are not here yet
_CONNECTIONS = 4  # shards that are brought at a time: one connection rarely fills a network
_POLL_INTERVAL_SEC = 1.0  # between looks at whether the store was closed


class Prefetcher:
    """Brings shards before they are needed, in threads of its own.

    At most half of what the cache holds lies there unused. upcoming: (position, shard's name) in the
    order of need, positions never falling; no further than `horizon` positions ahead of the consumer.
    """

    def __init__(self, store: RemoteShards, upcoming: Iterator[tuple[int, str]], horizon: int) -> None:
        self._store, self._upcoming, self._horizon = store, upcoming, horizon
        self._changed = threading.Condition()
        self._unused: dict[str, int] = {}  # where each shard that was brought is needed first
        self._reached = -1
        self._closed = False
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._walk, name="prefetcher", daemon=True)

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def reached(self, position: int) -> None:
        """The consumer is about to use this position. Raises what kept a shard from being brought."""
        with self._changed:
            self._reached = position
            self._unused = {name: first for name, first in self._unused.items() if first > position}
            self._changed.notify_all()
            if self._error is not None:
                raise self._error
        if self.thread.ident is None:
            self.thread.start()

    def _walk(self) -> None:
        with self._reporting(), ThreadPoolExecutor(_CONNECTIONS, "prefetcher") as pool:
            for position, name in self._upcoming:
                with self._changed:
                    while not (self._ended() or self._may_bring(position, name)):
                        self._changed.wait(_POLL_INTERVAL_SEC)
                    if self._ended():
                        return
                    if name in self._unused or self._store.has(name):
                        continue
                    self._unused[name] = position
                pool.submit(self._bring, name)

    def _ended(self) -> bool:
        return self._closed or self._store.closed

    def _may_bring(self, position: int, name: str) -> bool:
        near = position <= self._reached + self._horizon
        return near and (name in self._unused or len(self._unused) < self._store.ahead)

    def _bring(self, name: str) -> None:
        with self._reporting():
            if not self._ended():
                with self._store.hold(name):
                    pass

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """An error becomes the consumer's."""
        try:
            yield
        except Exception as error:
            with self._changed:
                self._error, self._closed = self._error or error, True
                self._changed.notify_all()


def bring_ahead(
    shards: ShardSet,
    own: Iterator[np.ndarray],
    of_node: Iterator[np.ndarray],
    sample_index: Callable[[np.ndarray], np.ndarray],
) -> Iterator[np.ndarray]:
    """`own` batches of positions, unchanged, while other threads bring the remote shards of the node's next ones."""
    if not isinstance(shards.store, RemoteShards):
        yield from own
        return
    with Prefetcher(shards.store, upcoming_shards(shards, of_node, sample_index), _HORIZON) as prefetcher:
        for positions in own:
            prefetcher.reached(int(positions[0]))
            yield positions


def upcoming_shards(
    shards: ShardSet, positions: Iterable[np.ndarray], sample_index: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[int, str]]:
    """(position, name) of the shards that positions need, in the order of need; each once for some batches."""
    for block in order_blocks(positions):
        at = np.concatenate(block)
        numbers = shards.shard_number(sample_index(at))
        for first in np.sort(np.unique(numbers, return_index=True)[1]):
            yield int(at[first]), shards.split.shards[numbers[first]].name


def run_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made by one other thread while its predecessor is in use; errors arrive in their place."""
    thread = ThreadPoolExecutor(1, "run_ahead")
    try:
        following = thread.submit(next, items)
        while True:
            try:
                item = following.result()
            except StopIteration:
                return
            following = thread.submit(next, items)
            yield item
    finally:
        thread.shutdown(wait=False, cancel_futures=True)  # it may be waiting for a shard that nobody needs now
