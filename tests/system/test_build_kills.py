"""Builds of shards that are killed: the same bytes in the end, and no worker that stays."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.archives import contents
from support.damage import cut_in_the_middle
from support.paths import ROOT
from support.patience import HANG_SEC


@pytest.fixture(scope="module")
def many(random_images) -> Path:
    """Sixty images that take a while to decode, one of them damaged."""
    folder = random_images(60, 300, 300)
    cut_in_the_middle(folder / "33.png")
    return folder


def start_build(source: Path, out: Path, *path: Path) -> subprocess.Popen:
    command = [sys.executable, ROOT / "tools/build_shards.py", source, "--out", out, "--tile-size", "64"]
    return subprocess.Popen(
        [*map(str, command), "--on-error", "skip", "--shard-mib", "1", "--workers", "2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *path]))},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_killed_at_random_moments_the_bytes_are_the_same(many, tmp_path, pytestconfig):
    """Twenty times with --thorough."""
    most = 20 if pytestconfig.getoption("thorough") else 3
    start = time.perf_counter()
    assert start_build(many, tmp_path / "undisturbed").wait() == 0
    whole, expected = time.perf_counter() - start, contents(tmp_path / "undisturbed")
    assert len(expected) > 10 and b"33.png" in expected["skipped.jsonl"]
    rng, kills = random.Random(0), 0
    while kills < most:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        while kills < most:
            build = start_build(many, tmp_path / "out")
            with contextlib.suppress(subprocess.TimeoutExpired):
                build.wait(rng.uniform(0.15, 1.0) * whole)
            if build.poll() is None:
                build.kill()
                build.wait()
                kills += 1
                assert not (tmp_path / "out/manifest.json").exists() or contents(tmp_path / "out") == expected
            else:
                assert build.returncode == 0 and contents(tmp_path / "out") == expected
                break
    assert start_build(many, tmp_path / "out").wait() == 0
    assert contents(tmp_path / "out") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "undisturbed"]


HELD = """
import multiprocessing, time
while multiprocessing.parent_process():
    time.sleep(1)
"""


def test_workers_end_with_a_build_that_was_killed(many, tmp_path, monkeypatch):
    """The first waits in a plugin, so that the build is not over before it is killed."""
    (tmp_path / "held.py").write_text(HELD)
    monkeypatch.setenv("N2S_PLUGINS", "held")
    build = start_build(many, tmp_path / "out", tmp_path)
    children = Path(f"/proc/{build.pid}/task/{build.pid}/children")
    while len(workers := children.read_text().split()) < 2:  # a worker, and multiprocessing's own tracker
        assert build.poll() is None
        time.sleep(0.01)
    build.kill()
    build.wait()
    deadline = time.monotonic() + HANG_SEC
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
