"""Stops on request: one signal to one rank, the same step on all, a checkpoint, exit code 75; nothing is lost."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from support.forked_ranks import INTERRUPTED, TOTAL_SAMPLES, Start, free_port
from support.paths import ROOT
from support.patience import HANG_SEC, SOON_SEC

from n2s_dist.distributed import stop_signals
from n2s_dist.models import checkpoint
from n2s_dist.utils.errors import EX_TEMPFAIL

LONG = [*INTERRUPTED, "--train.total_samples=800000"]


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


def wait_until(there: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + HANG_SEC
    while not there():
        assert time.monotonic() < deadline, f"no {what} within {HANG_SEC:g} s"
        time.sleep(0.005)


@pytest.mark.parametrize(("ignored", "received"), [(False, signal.SIGHUP), (True, 0)])
def test_a_terminal_that_goes_is_a_request_to_stop_but_not_with_nohup(environment, ignored, received):
    program = """
import os, signal, sys
from n2s_dist.distributed import stop_signals
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "True" else signal.SIG_DFL)
stop_signals.listen()
os.kill(os.getpid(), signal.SIGHUP)
print(int(stop_signals._received))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(ignored)], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == received


def test_a_signal_to_one_rank_stops_all_at_one_step_and_the_same_command_goes_on(fleet, tiny, undisturbed, tmp_path):
    """Twice in one run. With a flurry of further signals to all ranks until they have ended."""
    arguments, seen, last = [*tiny, *INTERRUPTED, "--run_dir", tmp_path], 0, None
    for number, rank, held_after_steps in ((signal.SIGUSR1, 1, 13), (signal.SIGHUP, 0, 7)):
        held_at = seen + 8 * held_after_steps
        ranks = fleet(2, arguments, fault="is_held", on=rank, at=held_at)
        ranks.wait_for(held_at)
        begin = time.monotonic()
        ranks.signal(number, rank)
        while any(process.is_alive() for process in ranks.ranks) and time.monotonic() < begin + SOON_SEC:
            time.sleep(0.002)
            for each in range(2):
                ranks.signal(signal.SIGTERM, each)
                ranks.signal(signal.SIGUSR1, each)
        assert ranks.wait() == [EX_TEMPFAIL, EX_TEMPFAIL], ranks.text("err")
        assert time.monotonic() - begin < SOON_SEC
        assert (last is None or f"going on from {last}" in ranks.text()) and not ranks.errors()
        assert ranks.steps(0)[0][0] == seen + 8  # nothing was lost

        note = json.loads((tmp_path / "stopped").read_text())
        last = checkpoint.newest_valid(tmp_path)
        seen = ranks.steps(0)[-1][0]
        assert ranks.steps(1)[-1][0] == seen < TOTAL_SAMPLES and last.name == f"samples-{seen:09d}"
        assert note["samples_seen"] == seen and note["signal"] in ("SIGUSR1", "SIGTERM", "SIGHUP")
        lines = [line for line in ranks.text().splitlines() if line.startswith("stopped")]
        assert lines == [f"stopped at {seen:,} samples by {note['signal']}: the same command goes on"]
        assert "Traceback" not in ranks.text("err")

    ranks = fleet(2, arguments)
    assert ranks.wait() == [0, 0], ranks.text("err")
    assert f"going on from {last}" in ranks.text() and ranks.steps(0)[0][0] == seen + 8
    assert not (tmp_path / "stopped").exists()
    assert weights(tmp_path / "checkpoints" / undisturbed.name) == weights(undisturbed)


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_signal_while_the_program_is_still_importing_stops_after_one_step(environment, tiny, tmp_path):
    """And the program says what its start took, from the command on."""
    command = [sys.executable, "-m", "n2s_dist.train", *tiny, *LONG, f"--run_dir={tmp_path}"]
    begin = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: catches(process.pid, signal.SIGUSR1), "handler")
        process.send_signal(signal.SIGUSR1)
        signalled = time.monotonic()
        out, err = process.communicate(timeout=HANG_SEC)
    took = time.monotonic() - begin
    assert process.returncode == EX_TEMPFAIL and "stopped at 8 samples by SIGUSR1" in out, err
    assert signalled - begin < 0.5 * took  # it was early
    assert checkpoint.newest_valid(tmp_path).name == "samples-000000008"
    (line,) = [line for line in out.splitlines() if line.startswith("first step after")]
    total = float(line.split()[3])
    parts = dict(part.rsplit(" ", 1) for part in line[line.index("(") + 1 : -1].split(", "))
    stopwatch = ["imports", "settings", "shards and checkpoint", "ranks", "model", "tracking", "data", "first step"]
    assert "imports" in parts and list(parts) == [lap for lap in stopwatch if lap in parts]
    unsaid = total - sum(map(float, parts.values()))  # of laps under half a second each
    assert -0.45 < unsaid < 0.5 * (len(stopwatch) - len(parts)) + 0.45 and total < took


def launch() -> None:
    """What `accelerate launch` does with the words of the command line, without seconds of imports before it."""
    from accelerate.commands import launch as accelerate_launch

    os.setsid()  # what it starts can be ended with it
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    accelerate_launch.main()


def test_a_signal_to_the_launcher_stops_all_ranks_within_its_grace(fleet, tiny, tmp_path):
    """The launcher hides exit codes; the file that rank 0 leaves tells.

    The launch file starts two ranks, each a program of its own: for the settings that look right for two on a CPU
    accelerate starts one process, without a word.
    """
    words = ["--config_file", "launch/accelerate/2cpu.yaml", "--main_process_port", free_port(), "-m", "n2s_dist.train"]
    variables = {"PET_SIGNALS_TO_HANDLE": "SIGUSR1,SIGTERM"}
    launcher = fleet(
        1, [*words, *tiny, *LONG, "--run_dir", tmp_path], program=launch, apart={0: Start([], variables, ROOT)}
    )
    (process,), log = launcher.ranks, tmp_path / "metrics.jsonl"
    try:
        wait_until(lambda: not process.is_alive() or (log.exists() and bool(log.stat().st_size)), "metrics")
        begin = time.monotonic()
        launcher.signal(signal.SIGUSR1, 0)
        wait_until((tmp_path / "stopped").exists, "note")
        assert time.monotonic() - begin < SOON_SEC
        assert launcher.wait() == [1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    out = launcher.text()
    assert "by SIGUSR1: the same command goes on" in out
    assert "2 rank(s) on cpu, each 1 x 4 crops a step" in out and out.count("rank(s)") == 1
    note = json.loads((tmp_path / "stopped").read_text())
    assert checkpoint.newest_valid(tmp_path).name == f"samples-{note['samples_seen']:09d}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_rank_that_waits_for_one_that_hangs(fleet, tiny, tmp_path, number, code):
    """In a step's exchange, from which no handler runs."""
    arguments = [*tiny, *LONG, "--train.hang_sec=0", "--run_dir", tmp_path]
    ranks = fleet(2, arguments, fault="hangs_here", on=1, at=80, patience_sec=20)
    ranks.wait_for(80)
    time.sleep(1)  # until it waits
    begin = time.monotonic()
    ranks.signal(number, 0)
    ranks.ranks[0].join(60)
    assert ranks.ranks[0].exitcode == code and time.monotonic() - begin < SOON_SEC
    assert ranks.errors() == [
        f"error: ended by {number.name} while it waited for other ranks: the same command goes on"
    ]
    ranks.kill()


class Slowest:
    """Stands for ranks of which the slowest takes step_sec a step."""

    def __init__(self, step_sec: float) -> None:
        self.step_sec, self.looks = step_sec, 0

    def all_reduce_max(self, values: list[float]) -> list[float]:
        self.looks += 1
        return [*values[:2], max(values[2], self.step_sec)]


@pytest.mark.parametrize("step_sec", [0.001, 0.1, 3.0])
def test_ranks_look_about_twice_a_second_at_the_same_steps(step_sec):
    """Even where this rank's own clock says that steps take no time. At most twice as many steps as before."""
    ranks, agreement, between = Slowest(step_sec), stop_signals.StopCoordinator(), [0]
    for _ in range(5_000):
        looks = ranks.looks
        agreement.after_step(ranks)
        between[-1] += 1
        if ranks.looks > looks:
            between.append(0)
    assert between[0] == 1 and between[-2] == max(1, int(0.5 / step_sec))
    assert all(later <= 2 * earlier for earlier, later in pairwise(between))


def test_the_note_is_whole_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError):
        stop_signals.leave_note(tmp_path, 80, "SIGUSR1")
    assert not (tmp_path / "stopped").exists()
    stop_signals.remove_note(tmp_path)
    stop_signals.remove_note(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
