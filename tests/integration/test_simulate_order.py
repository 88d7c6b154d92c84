"""The simulation: its figures are those of a slow count, and it notices an order that is broken."""

import json

import numpy as np
import pytest
from support.paths import ROOT
from support.scripts import import_script

from n2s_dist.loading import windowed_order

simulate_order = import_script(ROOT / "tools/simulate_order.py")

SMALL = ["--samples", 5_003, "--shards", 100, "--global-batch", 64, "--lanes", 16, "--ranks", 1, 4, 64]


def test_it_prints_a_table_and_writes_the_figures(cli, tmp_path):
    done = cli(simulate_order.main, *SMALL, "--json", tmp_path / "new" / "order.json")
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert "all 5,003 samples." in done.out
    written = json.loads((tmp_path / "new" / "order.json").read_text())
    assert [(row["ranks"], row["nodes"]) for row in written["rows"]] == [(1, 1), (4, 1), (64, 8)]
    assert written["settings"]["lanes"] == 16
    one, four, many = written["rows"]
    assert one["epoch_gib"] == four["epoch_gib"] and four["hour_gib"] == pytest.approx(4 * one["hour_gib"])
    assert 1 <= many["of_share"] < 1.3 and many["epoch_gib"] < one["epoch_gib"] / 6
    assert many["open_shards"] < one["open_shards"] / 4
    assert written["figures"]["peak_kib"] < 1024


def test_the_whole_set_shuffled_is_fetched_by_every_node(cli, tmp_path):
    done = cli(simulate_order.main, *SMALL[:6], "--window", 0, "--ranks", 16, "--json", tmp_path / "order.json")
    assert done.code == 0, done.err
    row = json.loads((tmp_path / "order.json").read_text())["rows"][0]
    assert row["of_share"] == pytest.approx(2, rel=0.01) and row["open_shards"] > 90


@pytest.mark.parametrize(("lanes", "nodes"), [(1, 1), (4, 1), (4, 2), (4, 4), (2, 8), (4, 6)])
def test_loads_are_those_of_a_slow_count(lanes, nodes):
    """Also where nodes and lanes cut each other: six nodes of four slots, four lanes of six."""
    sizes, batch = np.array([30, 41, 0, 25, 37, 50, 1, 28, 33, 45]), 24
    count = int(sizes.sum())
    windows = windowed_order.WindowedOrder(0, sizes, batch, 2, lanes)
    begin = simulate_order._EPOCH * count
    shard = windows.locate(np.arange(begin, begin + count))[0]
    fetched, most, most_samples = simulate_order.node_load(shard, batch // nodes, lanes, batch, sizes)
    for node in range(nodes):
        uses: dict[tuple[int, int], list[int]] = {}
        for place in range(count):
            row, slot = divmod(begin + place, batch)
            if slot // (batch // nodes) == node:
                uses.setdefault((slot * lanes // batch, int(shard[place])), []).append(row)
        assert fetched[node] == sum(sizes[name] for _, name in uses)
        held = [
            [name for (_, name), rows in uses.items() if min(rows) <= row <= max(rows)]
            for row in range(begin // batch, (begin + count) // batch + 1)
        ]
        assert most[node] == max(map(len, held))
        assert most_samples[node] == max(sum(sizes[name] for name in names) for names in held)


def test_mixing_tells_good_from_bad():
    """The set in its own order, in a perfect shuffle, and one batch from two shards after another."""
    shard = np.repeat(np.arange(50), 200)
    in_order = simulate_order.mixing(np.arange(10_000), shard, 100, 50)
    assert in_order["shards_in_batch"] < 1.1 and in_order["rank_correlation"] == pytest.approx(1)
    assert in_order["neighbour_correlation"] > 0.4  # a shard fills two batches
    shuffle = np.random.default_rng(0).permutation(10_000)
    shuffled = simulate_order.mixing(shuffle, shard[shuffle], 100, 50)
    assert shuffled["shards_in_batch"] == pytest.approx(50 * (1 - 0.98**100), rel=0.03)
    assert abs(shuffled["rank_correlation"]) < 0.05 and abs(shuffled["neighbour_correlation"]) < 0.1


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda index, at: np.where(index == 17, 18, index), "error: 1 ranks: sample 17 was read 0 times"),
        (lambda index, at: np.sort(index), "error: 4 ranks: place"),  # depends on what is asked for together
    ],
    ids=["a sample is lost", "ranks differ"],
)
def test_a_broken_order_is_noticed(cli, monkeypatch, broken, message):
    true = windowed_order.WindowedOrder.sample_index
    monkeypatch.setattr(windowed_order.WindowedOrder, "sample_index", lambda self, at: broken(true(self, at), at))
    assert cli(simulate_order.main, *SMALL).error(1).startswith(message)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--ranks", 3], "--ranks 3"),
        (["--ranks", 12, "--global-batch", 24], "--ranks 12 does not fill nodes"),
        (["--lanes", 5], "--lanes 5"),
        (["--samples", 0], "--samples is 0"),
        (["--samples", 10], "--shards 1000 is more than --samples 10"),
        (["--window", -1], "--window is -1"),
        (["--window", 2_000], "data.window_shards is 2000"),
    ],
)
def test_mistakes_are_named(cli, options, named):
    assert named in cli(simulate_order.main, *options).error(2)
