"""Worker processes that hold one piece of work each, and end when the process that started them does."""

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TypeVar

from n2s_dist.utils.cores import usable_cores
from n2s_dist.utils.errors import RunFailed

T = TypeVar("T")
R = TypeVar("R")


def _end_with_parent(parent: int) -> None:
    """Pool workers wait for work for ever, even when their parent was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Workers:
    """A pool whose `map` keeps no more than twice as many pieces of work in memory as there are workers."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or usable_cores()
        context = multiprocessing.get_context("spawn")  # a forked copy of threads that others hold can hang
        # Workers multiply no matrices: without this, NumPy starts a thread for every core in each of them.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # glibc gives an image's memory back to the kernel after each image, and the next one has to be touched anew.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 * 2**20))
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(256 * 2**20))
        self._pool = ProcessPoolExecutor(self.count, context, initializer=_end_with_parent, initargs=(os.getpid(),))

    def map(self, function: Callable[[T], R], work: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Each piece of work and its result, in order; raises what the function raises.

        RunFailed when a worker dies.
        """
        pending: deque = deque()
        try:
            for piece in work:
                pending.append((piece, self._pool.submit(function, piece)))
                if len(pending) > 2 * self.count:
                    done, result = pending.popleft()
                    yield done, result.result()
            while pending:
                done, result = pending.popleft()
                yield done, result.result()
        except BrokenProcessPool:
            raise RunFailed("a worker process was killed, perhaps for memory: run the same command again") from None
        finally:
            for _, result in pending:
                result.cancel()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
