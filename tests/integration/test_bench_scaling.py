"""The model of many GPUs against closed forms and limits; the benchmark of two ranks in a real, short run."""

import dataclasses
import json
import math

import pytest
import yaml
from support.paths import ROOT

GIVEN = {"parameters": 1e6, "flops_per_crop": 1e9, "crop_bytes": 12_288, "tile_bytes": 196_608}


@pytest.fixture
def tools(load_tool, monkeypatch):
    """The model and the program; tools import each other by name."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    return load_tool("scaling_model"), load_tool("bench_scaling")


def test_an_exchange_takes_the_time_of_its_bytes_and_of_its_hops(tools):
    """Worked by hand: 4 MB over 8 ranks at 50 GB/s, each rank sends and receives 7/8 of it twice."""
    model, _ = tools
    assert model.ring_sec(4e6, 8, 50e9, 0) == pytest.approx(2 * 7 / 8 * 80e-6)
    assert model.ring_sec(0, 8, 50e9, 5e-6) == pytest.approx(70e-6)
    assert model.tree_sec(4e6, 8, 50e9, 5e-6) == pytest.approx(160e-6 + 30e-6)
    assert model.tree_sec(0, 1000, 50e9, 5e-6) == pytest.approx(100e-6)  # 10 levels
    assert model.exchange_sec(4e6, 8, 50e9, 5e-6) == pytest.approx(190e-6)
    assert model.exchange_sec(4e9, 8, 50e9, 5e-6) == pytest.approx(0.14007)  # many bytes: the ring


def test_efficiency_falls_from_one_with_ranks_and_with_small_batches(tools):
    model, _ = tools
    given = model.Assumptions(**GIVEN)
    full = model.full_crops(given)
    assert full == pytest.approx(2e-3 * 100e12 / 1e9)
    assert model.efficiency(given, full, 1, 50e9, 4) == pytest.approx(1)
    assert model.efficiency(given, full / 4, 1, 50e9, 4) == pytest.approx(1 / 4)  # launches take as long as before
    assert model.efficiency(given, 1e9, 1024, 50e9, 4) == pytest.approx(1, abs=1e-4)
    rates = [model.efficiency(given, full, gpus, 50e9, 4) for gpus in (1, 8, 64, 1024)]
    assert rates == sorted(rates, reverse=True) and rates[-1] > 0.8
    alone = dataclasses.replace(given, hop_sec=0)
    assert model.efficiency(alone, full, 1024, math.inf, 4) == pytest.approx(1)
    assert model.largest_batch(given) == 960


def test_the_models_tables_are_printed_from_the_configuration(tools, cli):
    _, tool = tools
    done = cli(tool.main, "--model", f"--config={ROOT / 'configs/gaussian25.yaml'}")
    assert done.code == 0
    assert "gradients, float32: 4.198 MB" in done.out and "| 1,024 |" in done.out
    doubled = cli(tool.main, "--model", f"--config={ROOT / 'configs/gaussian25.yaml'}", "--total-crops=4800000")
    assert "allow a global batch of 960" in done.out and "allow a global batch of 1,920" in doubled.out
    assert done.out in (ROOT / "docs" / "scaling.md").read_text(), "docs/scaling.md shows other figures"


def test_two_ranks_and_two_threads_are_measured_in_turns(tools, cli, random_images, tmp_path, monkeypatch):
    """One short turn each, of few pixels: the figures hang together, whatever this machine is."""
    _, tool = tools
    monkeypatch.setattr(tool, "photographs_folder", lambda scratch: random_images(1, 256, 256))
    out, config = tmp_path / "scaling.json", tmp_path / "small.yaml"
    settings = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    settings["data"]["crop_size"], settings["network"] = 16, {"widths": [8, 8], "blocks": 1}
    config.write_text(yaml.safe_dump(settings))
    arguments = [f"--config={config}", f"--json={out}", "--steps=1", "--turns=1"]
    assert cli(tool.main, *arguments).code == 0
    result = json.loads(out.read_text())
    ratios, figures = result["ratios"], result["figures"]
    assert ratios["two_ranks_over_two_threads"] == pytest.approx(
        figures["two_ranks_samples_per_sec"] / figures["two_threads_samples_per_sec"]
    )
    assert figures["communication_frac"] == pytest.approx(
        1 - figures["two_ranks_samples_per_sec"] / figures["two_ranks_without_exchange_samples_per_sec"]
    )
    assert 0 < figures["exchange_wait_frac"] < 1
