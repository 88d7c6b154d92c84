"""Files that are whole or not there."""

import pytest

from n2s_dist.utils import files
from n2s_dist.utils.files import atomic_write, sha256_file


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_at_the_end_and_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.suffix == ".json" and partial.parent == tmp_path
    assert path.read_text() == "new" and names(tmp_path) == ["a.json"]


def test_an_error_leaves_what_was_there_before(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_durable_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append((path.read_text(), (tmp_path / "a").exists())))
    for durable in (False, True):
        with atomic_write(tmp_path / "a", durable=durable) as partial:
            partial.write_text("bytes")
        (tmp_path / "a").unlink()
    assert synced == [("bytes", False)]


def test_a_checksum_is_sha256(tmp_path):
    (tmp_path / "empty").touch()
    assert sha256_file(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
