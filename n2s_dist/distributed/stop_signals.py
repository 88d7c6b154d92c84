"""How a run is stopped from outside: a signal, one step at which all ranks stop, a checkpoint, exit code 75.

    SIGUSR1 or SIGTERM ──► any rank ──► all ranks agree on a step ──► checkpoint ──► RUN_DIR/stopped ──► exit 75

SIGHUP does the same, which comes when a terminal goes, unless nohup has it ignored.

The signal may reach one rank or all, from a person, from Slurm or from torchrun; it counts from the
moment the program starts. At least one step is taken, so that a run that is stopped again and again
gets ahead. Further signals, also during the save, change nothing. SIGINT interrupts at once.

Python runs a signal's handler only once the call that the main thread is in returns, which it does not while it waits
for a rank that never comes. So a thread sees to it that SIGINT and SIGTERM end such a rank all the same. Before the
ranks have met, SIGTERM ends a rank that waits for others, since there is nothing to save.

torchrun and `accelerate launch` end with exit code 1 whatever their ranks ended with. So rank 0 leaves
RUN_DIR/stopped (JSON: samples_seen, signal) once the checkpoint is on the disk, and removes it when it
starts. A batch script that finds it after the launcher has ended lets the same command go on. It had
better remove the file itself before the start, in case the program ends before it comes to that.

The launcher passes on the signals that torchrun's --signals-to-handle names, or PET_SIGNALS_TO_HANDLE in
the environment of `accelerate launch` (by default SIGTERM, SIGINT, SIGHUP and SIGQUIT, so add SIGUSR1,
which else ends the launcher and leaves its ranks behind; what TORCHELASTIC_SIGNALS_TO_HANDLE says is
overwritten), and kills ranks that are still there 30 s later. With a single process `accelerate launch`
passes nothing on.

This module imports nothing that takes time, so that it can listen before anything else is imported.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Protocol

from n2s_dist.utils.files import atomic_write

# Windows has SIGTERM alone.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGTERM", "SIGHUP") if hasattr(signal, name))
POLL_INTERVAL_SEC = 0.5  # between two looks at whether some rank was asked to stop
MEETING_SEC = 5.0  # for others to come after SIGTERM, before a rank that waits for them ends
# For a handler to run. SIGTERM: launchers kill after 30 s; another rank may be writing a checkpoint until then.
STUCK_SEC: dict[int, float] = {signal.SIGINT: 3.0, signal.SIGTERM: 20.0}
_received = 0
_told_to_end_at: float | None = None  # when SIGTERM first came
_handled_at = 0.0  # when a handler last ran
_leaving = False


class Together(Protocol):
    """What agreeing needs of ranks."""

    def all_reduce_max(self, values: list[float]) -> list[float]: ...


class StopStatus(NamedTuple):
    """What all ranks know after a look."""

    signal_name: str = ""  # of a signal that some rank received
    failed: bool = False  # some rank could not do what it does beside the loop


def listen(remember: Iterable[signal.Signals] = SIGNALS) -> None:
    """From here on the first of these signals is remembered, and none ends the process.

    SIGINT interrupts, also a call that does not return; so does SIGTERM such a call, where it is to be remembered.
    """
    for number in remember:
        if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _remember)
    signal.signal(signal.SIGINT, _interrupt)
    if not hasattr(signal, "pthread_kill"):  # Windows, where a call that waits for others is interrupted anyway
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


def _remember(number: int, frame: FrameType | None) -> None:
    global _received, _told_to_end_at, _handled_at
    _handled_at = time.monotonic()
    _received = _received or number
    if number == signal.SIGTERM and _told_to_end_at is None:
        _told_to_end_at = _handled_at


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _handled_at
    _handled_at = time.monotonic()
    raise KeyboardInterrupt


def _watch(reading: int) -> None:
    """In a thread: end the process when its main thread does not come to handle SIGINT or SIGTERM."""
    is_asked = False
    while True:
        number = os.read(reading, 1)[0]
        if number == signal.SIGINT:
            _end_unless_handled(number, time.monotonic())
        elif number == signal.SIGTERM and not is_asked:
            is_asked = True
            threading.Thread(target=_ask_again, name="signals-2", daemon=True).start()


def _ask_again() -> None:
    """The main thread may have handled SIGTERM and begin to wait for others only then."""
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    while not _leaving:
        asked = time.monotonic()
        signal.pthread_kill(main_thread, signal.SIGTERM)
        _end_unless_handled(signal.SIGTERM, asked)
        time.sleep(1)


def _end_unless_handled(number: int, asked: float) -> None:
    while _handled_at < asked and not _leaving:
        if time.monotonic() > asked + STUCK_SEC[number]:
            name = signal.Signals(number).name
            # A progress bar may stand on the line.
            said = f"\nerror: ended by {name} while it waited for other ranks: the same command goes on\n"
            os.write(2, said.encode())
            os._exit(128 + number)
        time.sleep(0.05)


def told_to_end() -> bool:
    """Whether SIGTERM came so long ago that a rank that only waits for others had better end."""
    return _told_to_end_at is not None and time.monotonic() > _told_to_end_at + MEETING_SEC


def ignore() -> None:
    """Let signals pass until the process has ended, even while the interpreter takes itself down."""
    global _leaving
    _leaving = True
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopCoordinator:
    """All ranks look together, at the same steps, about twice a second; never less often than each second step's time.

    A look is one reduction over ranks. It brings the time a step took on the slowest rank as well, from
    which all ranks derive when they look next.
    """

    def __init__(self) -> None:
        self._between = self._left = 1  # steps
        self._looked = time.monotonic()

    def after_step(self, ranks: Together, failed: bool = False) -> StopStatus:
        """Call after each step, on all ranks. failed: whether this rank's work beside the loop has failed."""
        self._left -= 1
        if self._left:
            return StopStatus()
        now = time.monotonic()
        number, any_failed, step_sec = ranks.all_reduce_max([_received, failed, (now - self._looked) / self._between])
        # At most twice as many as before: a GPU's first steps are only queued, which takes no time.
        wanted = int(POLL_INTERVAL_SEC / max(step_sec, 1e-6))
        self._between = self._left = max(1, min(wanted, 2 * self._between))
        self._looked = now
        return StopStatus(signal.Signals(int(number)).name if number else "", bool(any_failed))


def leave_note(run_dir: Path, samples_seen: int, signal_name: str) -> None:
    """Tell whoever started the launcher that the run stopped because it was asked to."""
    with atomic_write(run_dir / "stopped") as partial:
        partial.write_text(json.dumps({"samples_seen": samples_seen, "signal": signal_name}) + "\n")


def remove_note(run_dir: Path) -> None:
    (run_dir / "stopped").unlink(missing_ok=True)
