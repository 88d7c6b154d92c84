"""Networks in the package: shipped by the tool, found by name, and as good as on the day they were shipped."""

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from n2s_dist import load_denoiser
from n2s_dist import train as training
from n2s_dist.inference import acceptance, reference_photographs
from n2s_dist.inference.reference_photographs import (
    PHOTOGRAPHS,
    largest_difference_db,
    measure_photographs,
    noises,
    photograph,
)
from n2s_dist.inference.tiling import denoise_whole
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.noise.specification import parse_training_noise
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("ship_weights")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder in place of the package's."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def ship(cli, tool, folder, monkeypatch):
    """The tool, for networks that have hardly been trained: any of them is accepted."""
    monkeypatch.setattr(acceptance, "problems", lambda *_: [])
    return lambda *arguments: cli(tool.main, *arguments)


def test_a_network_with_findings_is_shipped_on_demand_alone_and_taken_by_name_alone(
    trained, cli, tool, folder, monkeypatch
):
    found = ["told gaussian:25: a ramp changes by 9.00 levels; 2.00 is the most"]
    monkeypatch.setattr(acceptance, "problems", lambda *_: found)
    words = [trained, "--name=a-first", "--hardware=a"]
    assert "would harm images (1 findings): told gaussian:25: a ramp" in cli(tool.main, *words).error()
    assert not folder.exists()
    assert cli(tool.main, *words, "--despite-findings").code == 0
    assert json.loads((folder / "a-first.json").read_text())["findings"] == found
    assert "it does 1 things that it must not" in (folder / "a-first.md").read_text()
    monkeypatch.setattr(acceptance, "problems", lambda *_: [])
    assert cli(tool.main, trained, "--name=b-second", "--hardware=a").code == 0
    assert pretrained.names() == ["a-first", "b-second"] and pretrained.offered() == ["b-second"]
    image = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    assert str(load_denoiser()(image, "gaussian:25")[1].network.path) == "b-second"
    assert str(load_denoiser("a-first")(image, "gaussian:25")[1].network.path) == "a-first"


def test_shipped_networks_give_the_recorded_figures(monkeypatch):
    """On the first of the photographs that they never saw, to 0.01 dB."""
    first = PHOTOGRAPHS[:1]
    monkeypatch.setattr(reference_photographs, "PHOTOGRAPHS", first)
    for name in pretrained.names():
        loaded = checkpoint.load(checkpoint.locate(name))
        weights, about = pretrained.files(name)
        recorded = json.loads(about.read_text())["recorded"]
        assert recorded and all(row["psnr_db"] > row["psnr_noisy_db"] + 2 for row in recorded)
        of_first = [row for row in recorded if row["photograph"] in first]
        found = measure_photographs(loaded.model, loaded.channels, loaded.config.aim)
        assert largest_difference_db(of_first, found) < 0.01
        assert weights.stat().st_size <= pretrained.MAX_BYTES and about.with_suffix(".md").is_file()


def test_a_run_is_shipped_and_found_by_its_name(ship, folder, trained, tmp_path, monkeypatch):
    done = ship(trained, "--name=tiny-color", "--hardware=an abacus")
    assert done.code == 0, done.err
    assert sorted(path.name for path in folder.iterdir()) == [
        f"tiny-color.{end}" for end in ("json", "md", "safetensors")
    ]
    monkeypatch.chdir(tmp_path)
    path = checkpoint.locate("tiny-color")
    assert checkpoint.locate(path) == path and str(path) == "tiny-color"
    loaded, original = checkpoint.load(path), checkpoint.load(checkpoint.locate(trained))
    assert (loaded.channels, loaded.samples_seen, loaded.model.noise) == (3, 160, original.model.noise)
    for name, tensor in loaded.model.state_dict().items():
        exact = original.model.state_dict()[name]
        assert tensor.dtype == torch.float32 and torch.equal(tensor, exact.half().float())
    about = json.loads((folder / "tiny-color.json").read_text())
    assert about["storage"] == "float16"
    assert [row["photograph"] for row in about["recorded"]] == list(PHOTOGRAPHS)
    assert {row["noise"] for row in about["recorded"]} == {"gaussian:25"}
    assert largest_difference_db(about["recorded"], measure_photographs(loaded.model, 3, loaded.config.aim)) < 1e-6
    assert (
        0 < largest_difference_db(about["recorded"], measure_photographs(original.model, 3, loaded.config.aim)) < 0.001
    )
    (tmp_path / "tiny-color").mkdir()  # a folder of a user's own comes first
    with pytest.raises(UserError, match="tiny-color holds no checkpoint"):
        checkpoint.locate("tiny-color")


def test_the_gray_network_for_gaussian_noise_leaves_alone_what_has_no_noise():
    loaded = checkpoint.load(checkpoint.locate("gaussian-gray"))
    assert acceptance.problems(functools.partial(denoise_whole, loaded.model), 1, loaded.config.aim) == []


def test_a_network_that_paints_into_flat_areas_is_not_shipped(cli, tool, folder, trained):
    done = cli(tool.main, trained, "--name=tiny-color")
    assert done.code == 2 and "it would harm images" in done.err and "a flat area of brightness 0.0" in done.err
    assert not folder.exists() or not list(folder.iterdir())


def test_nothing_of_the_machine_is_shipped(ship, folder, trained):
    assert ship(trained, "--name=tiny-color").code == 0
    for path in (folder / "tiny-color.json", folder / "tiny-color.md"):
        text = path.read_text()
        assert str(trained) not in text and str(trained.parents[2]) not in text and "/" + "tmp" not in text
    config = checkpoint.load(checkpoint.locate("tiny-color")).config
    assert (config.run_dir, config.data.shards, config.tracking.wandb) == ("", "", False)


def test_the_card_says_what_it_is_and_what_it_reaches(ship, folder, trained, tmp_path):
    cell = {"noise": "gaussian:25", "level": "known", "benchmark": "set12", "psnr_db": 23.456, "ssim": 0.71}
    cells = [
        {**cell, "checkpoint": str(trained / "checkpoints" / "samples-000000160"), "paper_db": 30.13},
        {**cell, "checkpoint": "tiny-color", "level": "unknown", "paper_db": None},
        {**cell, "checkpoint": "another", "psnr_db": 99.0},
        {**cell, "checkpoint": None, "psnr_db": None},
    ]
    (tmp_path / "results.json").write_text(json.dumps({"cells": cells}))
    done = ship(trained, "--name=tiny-color", "--hardware=an abacus", f"--results={tmp_path / 'results.json'}")
    assert done.code == 0, done.err
    card = (folder / "tiny-color.md").read_text()
    for words in (
        "# tiny-color", "gaussian:25 noise from color images", "160 crops of 32x32 in batches of 8", "on an abacus",
        "BSD400", "non-commercial research and education", "Martin",
        "| gaussian:25 | known | set12 | 23.46 | 0.7100 | 30.13 |",
        "| gaussian:25 | unknown | set12 | 23.46 | 0.7100 |  |",
        "| gaussian:25 | astronaut | 2",
    ):  # fmt: skip
        assert words in card, words
    assert "99.0" not in card and "{" not in card


def test_the_budget_is_that_of_all_runs_that_followed_each_other(ship, folder, trained, tiny, cli, tmp_path):
    """A shipped network, runs that began with it, with that run and with a checkpoint of it; none names a folder."""
    assert ship(trained, "--name=tiny-color", "--hardware=an abacus").code == 0
    third = tmp_path / "third/checkpoints/samples-000000080"
    chain = (("second", "tiny-color", 80), ("third", tmp_path / "second", 120), ("fourth", third, 40))
    for name, start_from, samples in chain:
        options = [
            f"--run_dir={tmp_path / name}",
            f"--train.start_from={start_from}",
            f"--train.total_samples={samples}",
        ]
        assert cli(training.main, *tiny, *options).code == 0
    assert ship(tmp_path / "fourth", "--name=tiny-color", "--hardware=a loom", "--hardware=a hand").code == 0
    stages = json.loads((folder / "tiny-color.json").read_text())["budget"]
    places = ("an abacus", "a loom", "a loom", "a hand")
    for stage, samples, hardware in zip(stages, (160, 80, 80, 40), places, strict=True):
        assert stage.startswith(f"{samples} crops of 32x32 in batches of 8 at learning rate 0.003")
        assert stage.endswith(f" hours on {hardware}")
    card = (folder / "tiny-color.md").read_text()
    assert f"- Budget: {'; then '.join(stages)}." in card and "one noisy version of each in each of its runs;" in card
    assert str(tmp_path) not in (folder / "tiny-color.json").read_text()


def test_weights_that_float16_would_hurt_stay_float32(ship, folder, trained, tool, monkeypatch):
    monkeypatch.setattr(tool, "MAX_DIFFERENCE_DB", 0)
    assert ship(trained, "--name=exact").code == 0
    shipped_model, model = (checkpoint.load(checkpoint.locate(path)).model for path in ("exact", trained))
    assert json.loads((folder / "exact.json").read_text())["storage"] == "float32"
    for name, tensor in model.state_dict().items():
        assert torch.equal(shipped_model.state_dict()[name], tensor)


def test_what_users_do_wrong_is_named(ship, folder, trained, tmp_path, monkeypatch):
    assert ship(trained, "--name=tiny-color").code == 0
    for path in ("universal", "tiny-colr"):
        with pytest.raises(UserError, match=f"{path} holds no checkpoint.*shipped one: tiny-color"):
            checkpoint.locate(path)
    assert "--name is Tiny/Color" in ship(trained, "--name=Tiny/Color").error()
    assert "tiny-color is shipped already" in ship("tiny-color", "--name=another").error()
    (tmp_path / "empty.json").write_text('{"cells": []}')
    assert "no figures of another" in ship(trained, "--name=another", f"--results={tmp_path / 'empty.json'}").error()
    (tmp_path / "old.json").write_text('{"benchmarks": {}}')
    assert "old.json is not" in ship(trained, "--name=another", f"--results={tmp_path / 'old.json'}").error()
    monkeypatch.setattr(pretrained, "MAX_BYTES", 1_000)
    assert "MB as float16" in ship(trained, "--name=another").error()
    assert pretrained.names() == ["tiny-color"]
    weights = folder / "tiny-color.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(UserError, match=r"tiny-color is damaged: .*checksum"):
        checkpoint.locate("tiny-color")


def test_photographs_are_measured_at_the_noises_a_network_knows():
    for channels in (1, 3):
        image = photograph("chelsea", channels)
        assert image.shape == (192, 192, channels) and 0.2 < image.mean() < 0.8 and image.std() > 0.05
    gray, color = photograph("chelsea", 1), photograph("chelsea", 3)
    np.testing.assert_allclose(gray[:, :, 0], color @ [0.299, 0.587, 0.114], atol=1 / 255)
    assert [noise.level for noise in noises(parse_training_noise("gaussian:5-30,gamma:20-60"))] == [25 / 255, 50]
    assert math.isinf(largest_difference_db([], [{"photograph": "a", "noise": "b", "psnr_db": 1.0}]))
