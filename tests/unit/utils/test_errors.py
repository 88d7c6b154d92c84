"""How programs end: exit codes, one line on stderr, and tracebacks only for broken promises of our own."""

import copy
import errno
import os
import shutil
import tempfile
from types import SimpleNamespace

import pytest

from n2s_dist.utils import errors
from n2s_dist.utils.errors import RunFailed, UserError, nearest, run_command


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("seed is -1: it can't be negative"), 2, "seed is -1: it can't be negative"),
        (RunFailed("the loss is not finite"), 1, "the loss is not finite"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_expected_ends_are_one_line(cli, error, code, message):
    done = cli(raising(error))
    assert done.error(code) == f"error: {message}" and done.err == f"error: {message}\n" and done.out == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_path(cli, number):
    line = cli(raising(OSError(number, "full", "/runs/a/model.safetensors"))).error(2)
    assert "disk is full" in line and "/runs/a/model.safetensors" in line
    assert "disk is full" in cli(raising(OSError(number, "full"))).error(2)


def test_full_shared_memory_is_not_called_the_disk(cli, monkeypatch):
    """Semaphores of processes lie there, and an error of theirs names no path."""
    line = cli(raising(OSError(errno.ENOSPC, "full", "/dev/shm/sem.abc"))).error(2)
    assert "/dev/shm, memory that processes share, is full" in line and "the disk" not in line
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0 if path == "/dev/shm" else 10**9))
    assert "/dev/shm" in cli(raising(OSError(errno.ENOSPC, "full"))).error(2)
    assert "the disk is full while writing /runs/a" in cli(raising(OSError(errno.ENOSPC, "full", "/runs/a"))).error(2)


def test_no_temporary_folder_is_one_line(cli, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    line = cli(lambda: print(tempfile.gettempdir())).error(2)
    assert "no temporary folder can be written" in line and "/proc/nowhere" in line and "TMPDIR" in line


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EROFS])
def test_a_path_that_can_not_be_used_is_named(cli, number):
    line = cli(raising(OSError(number, "words", "/runs/a"))).error(2)
    assert f"/runs/a can't be used ({os.strerror(number)})" in line


@pytest.fixture
def as_rank():
    """Let this process speak as one of several ranks."""
    yield errors.speak_as
    errors.speak_as(0)


@pytest.mark.parametrize("error", [UserError("words"), RunFailed("words"), OSError(errno.ENOSPC, "words")])
def test_each_rank_says_what_it_meets_and_who_it_is(cli, as_rank, error):
    ends = []
    for rank in range(3):
        as_rank(rank)
        ends.append(cli(raising(copy.copy(error))))
    assert [end.err.split("words")[0].split("the disk")[0] for end in ends] == [
        "error: ", "error: rank 1: ", "error: rank 2: ",
    ]  # fmt: skip
    assert len({end.code for end in ends}) == 1


def test_rank_0_says_what_all_ranks_meet(cli, as_rank):
    ends = []
    for rank in range(3):
        as_rank(rank)
        ends.append(cli(raising(errors.of_all(UserError("words")))))
    assert [(end.code, end.err) for end in ends] == [(2, "error: words\n"), (2, ""), (2, "")]


def test_a_leftover_variable_silences_nobody(cli, monkeypatch):
    """A rank's number counts where ranks were launched, which their meeting finds out."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cli(raising(UserError("words"))).error() == "error: words"


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "denied"), ValueError("bug"), AssertionError("bug"), KeyError("bug")]
)
def test_anything_else_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_command(raising(error))


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_return_value_is_the_exit_code(cli, returned, code):
    done = cli(lambda: returned)
    assert (done.code, done.out, done.err) == (code, "", "")


VALID = ["seed", "run_dir", "data.shards", "data.crop_size", "train.total_samples", "train.keep_checkpoints"]
VALID += ["optimizer.learning_rate", "optimizer.clip_norm"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("data.crop_sise", "data.crop_size"),
        ("crop_sise", "data.crop_size"),
        ("dta.crop_size", "data.crop_size"),
        ("model.total_samples", "train.total_samples"),
        ("sed", "seed"),
        ("run-dir", "run_dir"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("train.epochs", "train.total_samples"),
    ],
)
def test_nearest_finds_what_was_meant(word, expected):
    assert nearest(word, VALID) == f", did you mean '{expected}'?"


@pytest.mark.parametrize("word", ["", "x", "completely.different"])
def test_nearest_says_nothing_when_nothing_is_close(word):
    assert nearest(word, VALID) == ""
