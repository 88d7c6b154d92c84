"""Shards built by the program and by several worker processes: the same bytes as by one process."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.archives import contents
from support.damage import cut_in_the_middle
from support.paths import ROOT

from n2s_dist.commands import build_shards as program
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.manifest import read_manifest
from n2s_dist.utils.errors import UserError

OPTIONS = BuildOptions(tile_size=32, validation_fraction=0.3, seed=5)


@pytest.fixture(scope="module")
def source(random_images) -> Path:
    return random_images(12, 50, 70)


@pytest.fixture
def damaged(source, tmp_path) -> Path:
    """A copy, of which 7.png is cut off in its middle."""
    folder = Path(shutil.copytree(source, tmp_path / "source"))
    cut_in_the_middle(folder / "7.png")
    return folder


def test_two_workers_build_and_leave_out_what_one_does(damaged, tmp_path):
    (damaged / "2.png").write_bytes(b"not an image")
    for workers in (1, 2):
        build_shards([str(damaged)], tmp_path / f"by {workers}", OPTIONS, workers=workers, on_error="skip")
    found = contents(tmp_path / "by 2")
    assert found == contents(tmp_path / "by 1") and found["skipped.jsonl"].count(b"\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["by 1", "by 2", "source"]


def test_an_unreadable_image_that_a_worker_meets_is_named_and_nothing_is_published(damaged, tmp_path):
    with pytest.raises(UserError, match=r"7\.png"):
        build_shards([str(damaged)], tmp_path / "new/out", OPTIONS, workers=2)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".out.partial"]  # where the others are finished


def test_the_program_builds_and_counts(source, environment, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [source, "--out", "out", "--tile-size", "32", "--validation-fraction", "0.3", "--seed", "5"]
    command = [sys.executable, ROOT / "tools/build_shards.py", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "error" not in done.stderr
    splits = read_manifest(tmp_path / "out").splits
    for line, name in zip(done.stdout.splitlines(), ("train", "validation"), strict=True):
        assert line.strip().startswith(f"{name}: {splits[name].images} images, {splits[name].samples} tiles, 1 shards")
    again = cli(program.main, *words, "--workers", 1)
    assert again.code == 0 and "nothing to do" in again.out
