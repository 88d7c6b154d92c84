"""What the benches share: turns within a budget of time, figures shown once, one table; and what a machine lacks."""

import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from support.paths import ROOT

from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet


@pytest.fixture
def bench(load_tool):
    return load_tool("bench")


def test_turns_end_with_their_number_or_their_time(bench, capsys):
    assert [turn for turn, _ in bench.turns(6, 1e9, "whole")] == [0, 1, 2, 3, 4, 5]
    assert [turn for turn, _ in bench.turns(6, 0, "short")] == [0, 1, 2, 3]
    shown = capsys.readouterr()
    assert shown.out == "" and "short: 4 turns of 6, since 0 s have passed" in shown.err
    assert "whole: 100%" in shown.err


def test_a_figure_is_printed_when_it_is_there_and_once(bench, capsys, tmp_path):
    bench.show("rate", 12345.6)
    assert capsys.readouterr().out.split() == ["rate", "12,346"]
    bench.report(tmp_path / "a.json", ratios={"share": 0.5}, figures={"rate": 12345.6}, machine={"cores": 2})
    assert capsys.readouterr().out.split() == ["share", "0.5"]
    assert json.loads((tmp_path / "a.json").read_text())["figures"] == {"rate": 12345.6}


def test_one_table_of_all_benches(bench, tmp_path):
    for name, ratio in (("step", 0.97), ("loader", 1.5)):
        bench.report(tmp_path / f"{name}.json", ratios={f"{name}_over": ratio}, figures={f"{name}_rate": 2000.0},
                     machine={"processor": "Zen"})  # fmt: skip
    rows = [line.split() for line in bench.table(tmp_path).splitlines()]
    assert rows == [
        ["loader", "loader_over", "(ratio)", "1.500"], ["step", "step_over", "(ratio)", "0.970"],
        ["loader", "loader_rate", "2,000"], ["step", "step_rate", "2,000"], ["measured", "on", "Zen"],
    ]  # fmt: skip


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_measured_only_where_the_processor_has_it(load_tool, monkeypatch, capsys, native):
    monkeypatch.syspath_prepend(ROOT / "tools")
    tool = load_tool("bench_step")
    monkeypatch.setattr(tool, "choose_precision", lambda wanted, on_gpu: "bf16" if native else "no")
    chosen = tool.chosen_switches(torch.device("cpu"))
    assert {"plain", "compile_channels_last"} <= chosen.keys()
    assert any(switches.bf16 for switches in chosen.values()) == native
    assert ("bf16 is left out" in capsys.readouterr().out) == (not native)


def test_the_hosts_work_on_a_crop_is_measured_for_crops_of_two_sizes(load_tool, monkeypatch, tmp_path):
    Image.fromarray(np.zeros((150, 140, 3), np.uint8)).save(tmp_path / "a.png")
    build_shards([str(tmp_path)], tmp_path / "shards", BuildOptions(tile_size=128, validation_fraction=0), workers=1)
    monkeypatch.syspath_prepend(ROOT / "tools")
    tool = load_tool("bench_loader")
    began = time.thread_time()
    found = tool.host_microseconds(ShardSet(tmp_path / "shards"), 0.01)
    assert len(found) == 4 and all(0 < each < 1e6 * (time.thread_time() - began) for each in found.values())
