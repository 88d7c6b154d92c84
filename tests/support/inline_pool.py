"""A pool of one worker that works in this process: to start another one takes a second, and most tests are not of that.

Pools of several workers stay what they are.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from n2s_dist.utils import process_pool


class _Inline:
    def submit(self, function: Callable[[Any], Any], piece: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(piece))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, cancel_futures: bool) -> None:
        pass


@contextmanager
def one_worker_inline() -> Iterator[None]:
    """Pools of one worker are in here as this module has them."""

    def pool(count: int, *arguments: Any, **options: Any) -> _Inline | ProcessPoolExecutor:
        return _Inline() if count == 1 else ProcessPoolExecutor(count, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_pool, "ProcessPoolExecutor", pool)
        yield
