"""Several nodes build one set: what each of them is told, and no waiting for those who are gone."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.damage import cut_in_the_middle

from n2s_dist.shards.build import staging
from n2s_dist.shards.build.build_group import BuildGroup
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.utils.errors import RunFailed, UserError

OPTIONS = BuildOptions(tile_size=64, validation_fraction=0.1, shard_mib=1)


@pytest.fixture(scope="module")
def source(random_images) -> Path:
    """Forty images; 2.png is cut off in the middle."""
    folder = random_images(40, 70, 80)
    cut_in_the_middle(folder / "2.png")
    return folder


def together(work: list[Callable[[], object]]) -> list[object]:
    """What each returns or raises, run at the same time."""
    results: list[object] = [None] * len(work)

    def run(i: int) -> None:
        try:
            results[i] = work[i]()
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_an_unreadable_image_stops_all_nodes_with_its_name(source, tmp_path):
    """Node 0 has the first image of three, the damaged one falls to node 2."""
    groups = [BuildGroup(node, 3, "a", patience_sec=30) for node in range(3)]
    found = together([lambda c=c: build_shards([str(source)], tmp_path / "out", OPTIONS, 1, group=c) for c in groups])
    assert [type(each) for each in found] == [UserError] * 3
    assert all("2.png" in str(each) for each in found) and not (tmp_path / "out").exists()


def test_nodes_that_see_other_images_are_told(source, tmp_path):
    fewer = tmp_path / "source"
    shutil.copytree(source, fewer, ignore=shutil.ignore_patterns("3*.png"))
    sources, groups = [source, fewer], [BuildGroup(node, 2, "a", patience_sec=30) for node in (0, 1)]
    found = together(
        [
            lambda s=s, c=c: build_shards([str(s)], tmp_path / "out", OPTIONS, 1, "skip", c)
            for s, c in zip(sources, groups, strict=True)
        ]
    )
    assert all(isinstance(each, UserError) and "other images or options" in str(each) for each in found), found


def test_a_node_that_never_comes_is_not_waited_for_without_end(source, tmp_path):
    with pytest.raises(RunFailed, match=r"node 1 of 2 gave no sign of life for 0\.5 s"):
        build_shards([str(source)], tmp_path / "out", OPTIONS, 1, "skip", BuildGroup(0, 2, "a", patience_sec=0.5))


def test_a_slow_node_that_lives_is_waited_for_and_a_dead_one_is_not(tmp_path, monkeypatch):
    """patience is 0.6 s; a node that beats four times as often brings its part after 2 s."""
    monkeypatch.setattr("n2s_dist.shards.build.build_group._HEARTBEAT_SEC", 0.15)
    waits, slow = (BuildGroup(node, 2, "a", patience_sec=0.6, place=tmp_path) for node in (0, 1))

    def bring() -> list:
        with slow.heartbeat():
            time.sleep(2)
            return slow.exchange("phase", {"slow": [1]})

    def wait() -> list:
        with waits.heartbeat():
            return waits.exchange("phase", "quick")

    assert together([wait, bring]) == [["quick", {"slow": [1]}]] * 2
    with pytest.raises(RunFailed, match=r"\(next\)"):
        waits.exchange("next", None)


def test_what_an_earlier_session_brought_is_not_read(tmp_path):
    (tmp_path / "old.phase.1-of-2.json").write_text(json.dumps("stale"))
    with pytest.raises(RunFailed):
        BuildGroup(0, 2, "new", patience_sec=0.2, place=tmp_path).exchange("phase", "mine")


def test_shares_are_all_of_the_work_once():
    for nodes in (1, 2, 3, 7):
        shares = [BuildGroup(node, nodes, "a").share(list(range(20))) for node in range(nodes)]
        assert sorted(number for share in shares for number in share) == list(range(20))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_second_process_of_one_node_and_a_build_of_one_are_kept_away(source, tmp_path, monkeypatch):
    entered, go = threading.Event(), threading.Event()

    def hold(self: staging.Layout) -> None:
        entered.set()
        go.wait(30)
        raise UserError("enough")

    monkeypatch.setattr(staging.Layout, "create", hold)
    out = tmp_path / "out"
    groups = [BuildGroup(node, 2, "a", patience_sec=30) for node in (0, 1)]
    both = threading.Thread(
        target=together,
        args=([lambda c=c: build_shards([str(source)], out, OPTIONS, 1, "skip", c) for c in groups],),
    )
    both.start()
    assert entered.wait(60)
    with pytest.raises(UserError, match="another process is building"):
        build_shards([str(source)], out, OPTIONS, 1, "skip", groups[1])
    with pytest.raises(UserError, match="another process is building"):
        build_shards([str(source)], out, OPTIONS, 1, "skip")
    go.set()
    both.join(60)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--nodes", "2"], "--session"),
        (["--nodes", "2", "--node", "2", "--session", "a"], "--node is 2"),
        (["--nodes", "0"], "--nodes is 0"),
        (["--nodes", "2", "--session", "../up"], "--session"),
    ],
)
def test_mistakes_are_one_line(cli, load_tool, source, tmp_path, words, names):
    assert names in cli(load_tool("build_shards").main, source, "--out", tmp_path / "out", *words).error()
    assert not list(tmp_path.iterdir())
