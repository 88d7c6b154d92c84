"""tools/bench_rivals.py: what the loader is compared with does the same work, or the comparison would mean nothing."""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT

from n2s_dist.shards.build.builder import BuildOptions, build_shards
from n2s_dist.shards.reader import ShardSet

CROP, BATCH = 24, 16


@pytest.fixture
def rivals(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("bench_rivals")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    """Two images of 96 x 128 whose pixels say where they are: red is the row, green the column, blue the image."""
    folder = tmp_path_factory.mktemp("rivals") / "images"
    folder.mkdir()
    rows, columns = np.mgrid[:96, :128]
    for number in range(2):
        image = np.stack([rows, columns, np.full_like(rows, 100 * number)], axis=2).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("name", ["png_dataloader", "webdataset", "webdataset_raw", "litdata", "mosaicml"])
def test_rivals_yield_random_crops(rivals, images, tmp_path, name):
    rival = rivals.RIVALS[name]
    if not rival.version:
        pytest.skip(f"{rival.package} is not installed")
    options = BuildOptions(tile_size=64, validation_fraction=0)
    build_shards([str(images[0].parent)], tmp_path / "shards", options, workers=1)
    shards = ShardSet(tmp_path / "shards")
    loader = rival.open(rivals.Job(images, shards, tmp_path, CROP, BATCH, workers=1))
    batches = [next(loader) for _ in range(8)]
    assert {tuple(batch.shape[1:]) for batch in batches} == {(3, CROP, CROP)}
    crops = np.concatenate([batch.numpy() for batch in batches])
    assert crops.dtype == np.float32 and batches[0].is_contiguous()
    levels = np.rint(crops * 255).astype(int)
    np.testing.assert_allclose(crops, levels / 255, atol=1e-6)

    corners = levels[:, :2, 0, 0]
    steps = np.arange(CROP)
    np.testing.assert_array_equal(
        levels[:, 0], np.broadcast_to(corners[:, 0, None, None] + steps[:, None], levels[:, 0].shape)
    )
    np.testing.assert_array_equal(levels[:, 1], np.broadcast_to(corners[:, 1, None, None] + steps, levels[:, 1].shape))
    assert set(levels[:, 2].ravel().tolist()) == {0, 100}  # both images
    assert len(np.unique(corners, axis=0)) > len(crops) / 2  # many places
    ascending = np.diff(corners @ [128, 1]) > 0
    assert 0.3 < ascending.mean() < 0.7  # in no order


def test_those_that_are_not_installed_are_named(rivals):
    """Each optional one says how to install it; each version that is pinned is the one that is named."""
    for name in ("litdata", "mosaicml"):
        assert "pip install" in rivals.RIVALS[name].hint
    absent = rivals.Rival(rivals.png_dataloader, "no_such_module_anywhere", "no-such-package")
    assert absent.version is None and rivals.RIVALS["webdataset"].version
    assert os.access(ROOT / "tools/bench_loader.py", os.X_OK)
