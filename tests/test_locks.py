"""Locks on files: one holder at a time, or several that share, and none on a file that is no longer there."""

import fcntl

from n2s_dist.locks import try_lock


def test_one_holds_a_lock_or_several_share_it(tmp_path):
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
