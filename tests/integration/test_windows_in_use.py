"""Windows in use: the loader delivers the crops that the order names, training goes on in it, mistakes are named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from n2s_dist import train as training
from n2s_dist.config.schema import Config
from n2s_dist.loading import sample_order, windowed_order
from n2s_dist.loading.crop_loader import CropLoader
from n2s_dist.models import checkpoint
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.shards.build.builder import BuildOptions, build_shards
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training.batches import open_batches
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import loop, train
from n2s_dist.training.setup import start
from n2s_dist.training.tracking import NullTracker
from n2s_dist.utils.errors import UserError

TILE, CROP, SEED, BATCH, WINDOW, LANES = 224, 24, 3, 8, 2, 2

pytestmark = [
    pytest.mark.usefixtures("cpu"),
    pytest.mark.filterwarnings("ignore:The external source node"),  # clean crops leave the noise's keys unused
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six shards of unequal tiles. Each image is of one color, which counts the images; one tile an image."""
    scratch = tmp_path_factory.mktemp("windows")
    (scratch / "source").mkdir()
    for number in range(41):
        side = TILE - 16 * (number % 3)
        Image.new("RGB", (TILE, side), (number, 100, 200)).save(scratch / f"source/{number:02}.png")
    build_shards([str(scratch / "source")], scratch / "shards", BuildOptions(TILE, False, 0, 0, 1), workers=1)
    return scratch / "shards"


@pytest.fixture(scope="module")
def tiles(folder) -> ShardSet:
    shards = ShardSet(folder)
    assert len(shards) == 41 and len({entry.samples for entry in shards.split.shards}) > 1
    assert len(shards.split.shards) == 6
    return shards


def sizes(shards: ShardSet) -> list[int]:
    return [entry.samples for entry in shards.split.shards]


def load(shards: ShardSet, positions: np.ndarray, noise=None, batch_size: int = BATCH) -> np.ndarray:
    windows = windowed_order.WindowedOrder(SEED, sizes(shards), BATCH, WINDOW, LANES)
    batches = iter(positions.reshape(-1, batch_size))
    return torch.cat(list(CropLoader(shards, batches, batch_size, CROP, noise, SEED, windows=windows))).numpy()


def test_the_loader_reads_what_the_windows_name(tiles):
    """Every image once an epoch, from few shards at a time; three epochs and more than one block of batches."""
    crops = load(tiles, np.arange(41 * 8))
    images = np.rint(crops[:, 0, 0, 0] * 255).astype(int)
    np.testing.assert_array_equal(np.sort(images.reshape(8, 41), axis=1), np.tile(np.arange(41), (8, 1)))
    windows = windowed_order.WindowedOrder(SEED, sizes(tiles), BATCH, WINDOW, LANES)
    named = [int(Path(tiles[i].image).stem) for i in windows.sample_index(np.arange(41 * 8)).tolist()]
    assert images.tolist() == named


def test_a_loader_of_windows_can_start_anywhere_and_on_any_rank(tiles):
    positions = np.arange(25 * BATCH)
    whole = load(tiles, positions, Gaussian(0.1)).reshape(25, BATCH, 3, CROP, CROP)
    np.testing.assert_array_equal(load(tiles, positions[7 * BATCH :], Gaussian(0.1)), np.concatenate(whole[7:]))
    for rank in (0, 1):
        own = np.concatenate([sample_order.rank_positions(step, BATCH, rank, 2) for step in range(25)])
        crops = load(tiles, own, Gaussian(0.1), batch_size=4).reshape(25, 4, 3, CROP, CROP)
        np.testing.assert_array_equal(crops, whole[:, 4 * rank : 4 * rank + 4])


@pytest.fixture
def configure(tiny, folder, tmp_path):
    def configured(name: str, *options: str) -> Config:
        windows = [f"--data.shards={folder}", f"--data.window_shards={WINDOW}", "--train.checkpoint_every_samples=40"]
        return read_config([*tiny, *windows, f"--run_dir={tmp_path / name}", *options])

    return configured


def test_a_run_in_windows_goes_on_as_if_nothing_had_happened(configure, capsys):
    """Stopped in the third epoch, at a checkpoint; every batch of both runs comes from the windows."""
    undisturbed = train(configure("undisturbed"))
    assert "in windows of 2 shards, 2 lanes" in capsys.readouterr().out
    run = start(configure("stopped"))
    batches = open_batches(run)
    loop(run, batches, NullTracker(), tqdm(disable=True), 120)
    batches.close()
    last = train(configure("stopped"))
    assert "going on from" in capsys.readouterr().out
    assert last.name == undisturbed.name == "samples-000000160"
    assert (last / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    whole = train(configure("whole", "--data.window_shards=0"))
    assert (whole / "model.safetensors").read_bytes() != (last / "model.safetensors").read_bytes()


def test_training_sees_the_windows_crops(configure):
    run = start(configure("run"))
    batches = open_batches(run)
    windows = windowed_order.WindowedOrder(run.config.seed, sizes(run.shards), BATCH, WINDOW, LANES)
    for step in range(12):
        batch = next(batches)
        index = windows.sample_index(np.arange(step * BATCH, (step + 1) * BATCH)).tolist()
        clean = [int(Path(run.shards[i].image).stem) / 255 for i in index]
        np.testing.assert_allclose(batch.noisy[:, 0].mean((1, 2)), clean, atol=5 * 25 / 255 / 32)
    batches.close()


@pytest.mark.parametrize("option", ["--data.window_shards=3", "--data.window_shards=0", "--data.lanes=1"])
def test_a_run_keeps_its_windows(configure, option):
    config = configure("run", "--train.total_samples=40")
    train(config)
    with pytest.raises(UserError, match=f"was trained with {option[2:-2]}"):
        start(configure("run", "--train.total_samples=40", option))
    assert checkpoint.load(checkpoint.locate(config.run_dir)).config.data.window_shards == WINDOW


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data.window_shards=-1"], "data.window_shards is -1"),
        (["--data.window_shards=2", "--data.lanes=-2"], "data.lanes is -2"),
        (["--data.lanes=2"], "data.lanes is 2, but data.window_shards 0"),
        (["--data.window_shards=2", "--data.lanes=3"], "data.lanes is 3: it must divide train.global_batch_size"),
        (["--data.window_shards=7"], "data.window_shards is 7"),
        (["--data.window_shards=2", "--data.lanes=4"], "data.lanes 4"),
    ],
)
def test_windows_that_contradict_are_named(tiny, folder, cli, tmp_path, options, named):
    line = cli(training.main, *tiny, f"--data.shards={folder}", f"--run_dir={tmp_path / 'run'}", *options).error(2)
    assert named in line and not (tmp_path / "run").exists()
