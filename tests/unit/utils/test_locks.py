"""Locks on files: one holder at a time, or several that share, and none on a file that is no longer there."""

import ctypes
import errno
import fcntl
import sys

import pytest
from support import fake_windows

from n2s_dist.utils import locks
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.locks import alone_in, try_lock


@pytest.fixture(params=["fcntl", "windows"])
def kind(request, monkeypatch):
    """Locks of this platform, and those of Windows by a fake of its calls."""
    if request.param == "windows":
        monkeypatch.setattr(locks, "fcntl", None)
        for name in ("WinDLL", "get_last_error", "WinError"):
            monkeypatch.setattr(ctypes, name, None, raising=False)
        monkeypatch.setitem(sys.modules, "msvcrt", None)
        fake_windows.install()


def test_one_holds_a_lock_or_several_share_it(kind, tmp_path):
    path = tmp_path / "new/a.lock"
    with try_lock(path) as lock, try_lock(path) as second, try_lock(path, shared=True) as third:
        assert lock and second is None and third is None
    with try_lock(path, shared=True) as lock, try_lock(path, shared=True) as second, try_lock(path) as third:
        assert lock and second and third is None
    with try_lock(path) as lock:
        assert lock


def test_a_lock_on_a_file_that_was_replaced_is_none(tmp_path, monkeypatch):
    path, flock = tmp_path / "a.lock", fcntl.flock

    def late(file, operation) -> None:
        flock(file, operation)
        path.unlink()
        path.touch()

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        with try_lock(path) as lock:
            assert lock is None
    with try_lock(path) as lock:
        assert lock


def test_a_holder_elsewhere_gets_time_to_go(kind, tmp_path):
    """The lock of a lost node may outlive it for a while; its folder goes when nothing was put there."""
    folder = tmp_path / "run"
    with try_lock(folder / "lock", "a+b") as lock:
        lock.write(b"process 7 on elsewhere")
        lock.flush()
        with pytest.raises(UserError, match="process 7 on elsewhere works in"), alone_in(folder, patience_sec=0.1):
            pass
        with pytest.raises(UserError, match="process 7 on elsewhere"), alone_in(folder, gives_up=lambda: True):
            pass
    with alone_in(folder):
        pass
    assert not folder.exists()


def test_without_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    def none(file, operation) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", none)
    with alone_in(tmp_path / "run"):
        pass
