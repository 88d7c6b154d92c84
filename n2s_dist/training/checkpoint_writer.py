"""Checkpoints beside training: the loop copies its state in memory, a thread brings the copy to the disk.

One checkpoint is written at a time; the next one, the end of the run and a stop wait for it. What a kill
interrupts was never whole, so the checkpoint before stays the newest.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from n2s_dist.distributed.ranks import Ranks
from n2s_dist.utils.errors import UserError, of_all

T = TypeVar("T")


class AsyncCheckpointWriter:
    """A thread that writes one checkpoint after another. An interpreter that ends waits for the last one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint_writer")
        self._pending: Future | None = None

    def submit(self, write: Callable[[], object]) -> None:
        """Have `write` called beside the loop. What was submitted before must have been waited for."""
        assert self._pending is None
        self._pending = self._thread.submit(write)

    @property
    def failed(self) -> bool:
        """Whether something could not be written, as far as is known now."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def wait(self, ranks: Ranks) -> None:
        """Wait, on all ranks, until all is written. Raises on all of them when it could not be."""
        pending, self._pending = self._pending, None
        error = pending.exception() if pending else None
        (failed,) = ranks.all_reduce_max([error is not None])
        if error:
            raise error
        if failed:
            raise of_all(UserError("another rank could not write a checkpoint"))


def copied(state: T) -> T:
    """The same nested dicts and lists with copies of their tensors in the CPU's memory."""
    copy = _copied(state)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return copy


def _copied(state):
    if isinstance(state, Tensor):
        # Into pinned memory, which PyTorch keeps for the next time, a GPU copies at its bus's full speed.
        copy = torch.empty_like(state, device="cpu", pin_memory=state.is_cuda)
        return copy.copy_(state.detach(), non_blocking=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_copied(value) for value in state]
    return state
