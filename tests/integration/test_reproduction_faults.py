"""The faults of tools/reproduction_faults.py: each does what its row says, in training alone where it should."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from support.paths import ROOT

from n2s_dist.images.files import list_images
from n2s_dist.models.score_model import build_score_model
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.training.command_line import read_config


@pytest.fixture
def tool(load_tool, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    return load_tool("reproduction_faults")


def test_faults_are_in_force_inside_and_gone_after(tool):
    model = build_score_model(read_config(["--network.widths=[4,8]"]), 3)
    noisy, sigma_a = torch.randn(1, 3, 8, 8), torch.zeros(1, 1, 1, 1)
    w, condition = model.given(noisy, Gaussian(0.1))

    def score() -> torch.Tensor:
        with torch.no_grad():
            return model(w, sigma_a, condition)

    sound = score()
    row = tool.Row("both", relu=True, clipped=True)
    with tool.faults(row, training=True):
        torch.testing.assert_close(score(), sound.clamp(min=0))
        torch.testing.assert_close(model.given(noisy, Gaussian(0.1))[0], noisy.clamp(0, 1) / 0.1)
    with tool.faults(row, training=False):
        torch.testing.assert_close(score(), sound.clamp(min=0))
        torch.testing.assert_close(model.given(noisy, Gaussian(0.1))[0], w)
    assert sound.min() < 0 and torch.equal(score(), sound)


def test_middle_crops_are_the_middles(tool, photographs, tmp_path):
    tool.middle_crops(photographs, tmp_path)
    for path in sorted(photographs.iterdir()):
        found, whole = np.asarray(Image.open(tmp_path / path.name)), np.asarray(Image.open(path))
        assert np.array_equal(found, whole[48:112, 64:128])


def test_a_run_of_every_row_in_little(tool, photographs, tmp_path, cli, monkeypatch):
    """All rows train and are measured; a fixed crop an image leaves a tenth of the tiles."""
    few = tmp_path / "few"
    few.mkdir()
    for image in list_images(photographs)[:2]:
        (few / image.name).write_bytes((photographs / image.name).read_bytes())
    config = tmp_path / "config.yaml"
    config.write_text(
        "noise: gaussian:25\nnetwork: {widths: [4, 8], blocks: 1}\n"
        "train: {global_batch_size: 4, device_batch_size: 4, num_threads: 1, checkpoint_every_samples: 8, "
        "validation_tiles: 1}\n"
    )
    monkeypatch.setattr(tool, "build_shards", partial(tool.build_shards, workers=1))
    arguments = ["--images", few, "--benchmark", few, "--out", tmp_path / "out", "--config", config]
    done = cli(tool.main, *arguments, "--total-samples", 8)
    assert done.code == 0
    for row in tool.ROWS:
        assert row.name in done.out
