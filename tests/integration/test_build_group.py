"""Nodes that build one set are processes of their own: the bytes of one node, whoever is killed.

They are forked from a process that has imported everything, and are their own only worker.
"""

import itertools
import sys
import time
from pathlib import Path

import pytest
from support.archives import contents
from support.damage import cut_in_the_middle
from support.forked_ranks import Start
from support.inline_pool import one_worker_inline
from support.patience import HANG_SEC

from n2s_dist.commands import build_shards as program
from n2s_dist.shards.build import staging
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.verify import verify_shards

OPTIONS = BuildOptions(tile_size=64, validation_fraction=0.1, shard_mib=1)
WORDS = ["--tile-size", "64", "--validation-fraction", "0.1", "--shard-mib", "1", "--workers", "1", "--on-error=skip"]


@pytest.fixture(scope="module")
def source(random_images) -> Path:
    """Forty images that take a while to decode; 2.png is cut off in the middle."""
    folder = random_images(40, 200, 260)
    cut_in_the_middle(folder / "2.png")
    return folder


@pytest.fixture(scope="module")
def by_one(source) -> dict[str, bytes]:
    out = source.with_name("by-one")
    build_shards([str(source)], out, OPTIONS, workers=1, on_error="skip")
    found = contents(out)
    assert len(found) > 8 and b"2.png" in found["skipped.jsonl"]
    return found


def node() -> None:
    """The program. The first argument is how many images it writes before it waits for ever."""
    most, write, written = int(sys.argv.pop(1)), staging.write_image_tiles, itertools.count()

    def write_or_wait(*arguments):
        if next(written) >= most:
            time.sleep(HANG_SEC)
        return write(*arguments)

    staging.write_image_tiles = write_or_wait
    with one_worker_inline():
        program.main()


@pytest.fixture
def start(fleet, source):
    """Start the processes of some nodes."""

    def run(out: Path, nodes: int, session: str, most: int = 100):
        words = [most, source, "--out", out, *WORDS, "--nodes", nodes, "--session", session]
        return fleet(nodes, words, program=node, apart={i: Start(["--node", i]) for i in range(nodes)})

    return run


def test_two_nodes_write_what_one_writes(by_one, start, tmp_path):
    """One image that only its node finds unreadable changes the plan of both."""
    nodes = start(tmp_path / "out", 2, "a")
    assert nodes.wait() == [0, 0], nodes.text("err")
    assert contents(tmp_path / "out") == by_one
    assert "train: 35 images" in nodes.text() and "node 1 of 2 did its share" in nodes.text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert verify_shards(tmp_path / "out", workers=1) == []


def test_killed_nodes_are_resumed_by_the_same_command(by_one, start, tmp_path):
    """First one node dies, then all; then one node alone goes on with what two have written."""
    out, partial = tmp_path / "out", tmp_path / ".out.partial"

    def written() -> int:
        return sum(len(path.read_text().splitlines()) for path in partial.glob("*/*.journal*"))

    kept = 0
    for session, least in (("a", 4), ("b", 12)):
        nodes = start(out, 2, session, most=least)  # so that none is done before it is killed
        deadline = time.monotonic() + HANG_SEC
        while written() < kept + least and time.monotonic() < deadline:
            time.sleep(0.005)
        for process in nodes.ranks[::-1]:
            process.kill()
            process.join()
        assert not out.exists() and kept + least <= written() < 39, nodes.text("err")
        kept = written()
    last = start(out, 1, "")
    assert last.wait() == [0], last.text("err")
    assert contents(out) == by_one and [path.name for path in tmp_path.iterdir()] == ["out"]
