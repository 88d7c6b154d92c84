"""What goes wrong on one rank of a training run, in the place where a step has just ended."""

import ctypes
import os
import signal
import time
from collections.abc import Callable

import torch

from n2s_dist.distributed import stop_signals
from n2s_dist.training import step
from n2s_dist.training.state import TrainState

SLOW_SEC = 0.2  # other programs delay a rank by tens of milliseconds
NAP_SEC = 2.0


def raises(run: TrainState) -> None:
    raise ZeroDivisionError("a mistake in the program")


def hangs_here(run: TrainState) -> None:
    time.sleep(1_000)


def holds_pythons_lock(run: TrainState) -> None:
    """As a page of a mapped file does that comes from a server that is gone: no signal ends the wait."""
    lock, mutex = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)  # zeros: nobody has it
    lock(mutex)
    lock(mutex)  # which waits for itself


def is_held(run: TrainState) -> None:
    """Until this rank gets a signal, however fast the machine is and however slow the test."""
    while not stop_signals._received:
        time.sleep(0.005)


def naps(run: TrainState) -> None:
    """For a while, in which a test gets to disturb the run."""
    time.sleep(NAP_SEC)


def flips_a_bit(run: TrainState) -> None:
    weight = next(run.model.network.parameters())
    weight.data.view(torch.int32).view(-1)[0] ^= 1


def fills_the_disk(run: TrainState) -> None:
    """From now on."""

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device", str(run.run_dir))

    os.fsync = no_space


def turns_a_loss_into_nan(run: TrainState) -> None:
    """Of the second crop in this rank's next portion."""
    true_loss = step.method_loss

    def broken(*arguments) -> torch.Tensor:
        step.method_loss = true_loss
        losses = true_loss(*arguments)
        return losses * torch.tensor([1.0, float("nan")] + [1.0] * (len(losses) - 2))

    step.method_loss = broken


def is_slow(run: TrainState) -> None:
    """From now on, in each loss."""
    true_loss = step.method_loss

    def slow(*arguments) -> torch.Tensor:
        time.sleep(SLOW_SEC)
        return true_loss(*arguments)

    step.method_loss = slow


def dies_while_saving(run: TrainState) -> None:
    """In the next checkpoint, whose first file has been written."""

    def die(descriptor: int) -> None:
        if list((run.run_dir / "checkpoints").glob(".*.partial")):
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = die


def sets_the_clock_back(run: TrainState) -> None:
    """By an hour, and again with each look at it."""
    begin, looks = time.time(), iter(range(1, 10**9))
    time.time = lambda: begin - 3_600 * next(looks)
    time.time_ns = lambda: int(time.time() * 1e9)


def befall(run: TrainState, fault: str) -> None:
    """Once the checkpoint that is written beside the loop is on the disk, which some machines take long for."""
    if run.checkpoint_writer._pending is not None:
        run.checkpoint_writer._pending.exception()  # waits
    _FAULTS[fault](run)


_FAULTS: dict[str, Callable[[TrainState], None]] = {
    f.__name__: f
    for f in (
        raises,
        hangs_here,
        holds_pythons_lock,
        is_held,
        naps,
        flips_a_bit,
        fills_the_disk,
        turns_a_loss_into_nan,
        is_slow,
        dies_while_saving,
        sets_the_clock_back,
    )
}
