"""Ranks that start in a tenth of a second: real processes, forked from a server that has imported everything once.

What they do is the program's own; on request a fault happens on one rank after a given step, or one rank
is started otherwise than the others, and every rank notes the positions that it has trained on.
"""

import contextlib
import dataclasses
import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from n2s_dist import evaluate as evaluation
from n2s_dist import train as training
from n2s_dist.distributed import meeting, stop_signals
from n2s_dist.training import loop
from n2s_dist.training.state import TrainState
from n2s_dist.utils.errors import run_command
from support.paths import ROOT
from support.patience import HANG_SEC
from support.rank_faults import befall

# What tests of stops and kills train: 50 steps of a very small network, a checkpoint every 10. They take less than a
# second: a test that comes in between holds a rank meanwhile.
TOTAL_SAMPLES = 400
INTERRUPTED = [
    f"--train.total_samples={TOTAL_SAMPLES}",
    "--train.checkpoint_every_samples=80",
    "--train.validate_every_samples=200",
    "--network.widths=[8,8]",
    "--data.crop_size=16",
]

TIMEOUT_SEC = HANG_SEC
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["support.warm_start"])


@cache
def _start_server() -> None:
    """The process that ranks are forked from; before Python 3.13 it knows its parent's modules by PYTHONPATH alone."""
    path = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- a rank --------------------------------------------------------------------------------------------


Program = str | Callable[[], None]


@dataclass(frozen=True)
class Start:
    """How one rank is started.

    folder: where it works, as on a node of its own, since paths may be relative. answers: of functions, by their dotted
    names, that say there what they would on another kind of node.
    """

    arguments: list[object] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    answers: dict[str, object] = field(default_factory=dict)
    late_sec: float = 0.0
    is_absent: bool = False


def _answer(answer: object, *_: object) -> object:
    return answer


def _rank(program: Program, start: Start, written: Path, fault: str, at: int, patience_sec: float | None) -> None:
    """One rank from beginning to end, in a fresh process. written: the stem of the files that it writes."""
    os.environ.clear()
    os.environ.update(start.variables)
    os.chdir(start.folder or Path.cwd())
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        target = os.open(written.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    record = os.open(written.with_suffix(".steps"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    true_step = loop.train_step

    def recorded_step(run: TrainState, batches) -> None:
        before = len(run.interval.positions)
        true_step(run, batches)
        positions = [int(p) for portion in run.interval.positions[before:] for p in portion]
        os.write(record, (json.dumps([run.samples_seen, positions]) + "\n").encode())
        if fault and run.samples_seen == at:
            befall(run, fault)

    loop.train_step = recorded_step
    for name, answer in start.answers.items():
        module, function = name.rsplit(".", 1)
        setattr(importlib.import_module(module), function, partial(_answer, answer))
    sys.argv = ["program", *map(str, start.arguments)]
    stop_signals.POLL_INTERVAL_SEC = 0.02  # runs of a second can be stopped in their middle as well
    if patience_sec is not None:
        meeting.PATIENCE_SEC, meeting.SAY_SEC = patience_sec, 0.1 * patience_sec
        stop_signals.MEETING_SEC = stop_signals.STUCK_SEC[signal.SIGTERM] = 0.1 * patience_sec
    # As each program does first of all.
    stop_signals.listen() if program == "train" else stop_signals.listen(remember=())
    time.sleep(start.late_sec)
    run_command({"train": training.main, "evaluate": evaluation.main}.get(program, program))


class Fleet:
    """Ranks of one training run. fault happens on rank `on` after the step that ends at `at` samples.

    program: "train", "evaluate", or a function of a module to run instead. apart: ranks that are started otherwise;
    their arguments come after those of all. patience_sec: how long ranks wait for others to come.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        count: int,
        arguments: list[str],
        fault: str = "",
        on: int = 0,
        at: int = 0,
        program: Program = "train",
        apart: dict[int, Start] | None = None,
        patience_sec: float | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        _start_server()
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "1"}
        self.ranks, self._files = [], [folder / f"rank-{rank}" for rank in range(count)]
        for rank in range(count):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, **shared}
            variables = environment | ({k: str(v) for k, v in own.items()} if count > 1 else {})
            other = (apart or {}).get(rank, Start())
            start = dataclasses.replace(
                other, arguments=[*arguments, *other.arguments], variables=variables | other.variables
            )
            given = (program, start, self._files[rank], fault if rank == on else "", at, patience_sec)
            if not other.is_absent:
                self.ranks.append(_CONTEXT.Process(target=_rank, args=given, daemon=True))
                self.ranks[-1].start()

    def signal(self, number: signal.Signals, rank: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may end between the two
            if self.ranks[rank].is_alive():
                os.kill(self.ranks[rank].pid, number)

    def wait(self) -> list[int]:
        """Exit codes, once all have ended; ends them, and the test, when that takes too long."""
        deadline = time.monotonic() + TIMEOUT_SEC
        for process in self.ranks:
            process.join(max(0, deadline - time.monotonic()))
        late = [process.is_alive() for process in self.ranks]
        self.kill()
        assert not any(late), f"ranks {late} did not end: {self.text('err')}"
        return [process.exitcode for process in self.ranks]

    def end_as_launcher(self, grace_sec: float = 8) -> list[int]:
        """As torchrun does: when one rank ends otherwise than well, SIGTERM to the others, later SIGKILL."""
        deadline = time.monotonic() + TIMEOUT_SEC
        while all(process.exitcode in (None, 0) for process in self.ranks) and any(p.is_alive() for p in self.ranks):
            assert time.monotonic() < deadline, self.text("err")
            time.sleep(0.01)
        for rank in range(len(self.ranks)):
            if self.ranks[rank].exitcode is None:
                self.signal(signal.SIGTERM, rank)
        for process in self.ranks:
            process.join(grace_sec)
        self.kill()
        return self.wait()

    def kill(self) -> None:
        for process in self.ranks:
            if process.is_alive():
                process.kill()
                process.join()

    def text(self, kind: str = "out") -> str:
        """What all ranks wrote; kind: out or err."""
        paths = [path.with_suffix(f".{kind}") for path in self._files]
        return "".join(path.read_text() for path in paths if path.exists())

    def errors(self) -> list[str]:
        return [line for line in self.text("err").splitlines() if line.startswith("error: ")]

    def steps(self, rank: int) -> list[tuple[int, list[int]]]:
        """samples_seen after each step that a rank has finished, and the positions of the step."""
        path = self._files[rank].with_suffix(".steps")
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [(seen, positions) for seen, positions in map(json.loads, lines)]

    def samples_seen(self) -> int:
        steps = self.steps(0)
        return steps[-1][0] if steps else 0

    def wait_for(self, samples_seen: int) -> None:
        """Until rank 0 has finished the step that ends there, or no rank is left."""
        deadline = time.monotonic() + TIMEOUT_SEC
        while self.samples_seen() < samples_seen and all(process.is_alive() for process in self.ranks):
            assert time.monotonic() < deadline, self.text("err")
            time.sleep(0.002)


def trained_positions(fleets: list[Fleet], starts: list[int]) -> list[int]:
    """Positions that the final weights were trained on, sorted: what each start added before the next one began.

    starts: samples_seen at which each fleet went on.
    """
    positions = []
    for fleet, begin, end in zip(fleets, starts, [*starts[1:], 10**12], strict=True):
        for rank in range(len(fleet.ranks)):
            positions += [p for seen, step in fleet.steps(rank) if begin < seen <= end for p in step]
    return sorted(positions)
