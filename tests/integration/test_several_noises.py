"""Training on several families and levels of noise, white and blurred: it learns, and denoises each of them."""

import json

import numpy as np
import pytest
import torch

from n2s_dist import train as training
from n2s_dist.inference.denoiser import Denoiser
from n2s_dist.inference.noise_estimation import estimate_noise
from n2s_dist.models import checkpoint
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.specification import parse_noise
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import train
from n2s_dist.utils.errors import UserError

TEXT = "gaussian:5-55,poisson:0.005-0.1,gamma:20-200"
FOCUS = "gaussian:22-28,poisson:0.03-0.07,gamma:40-60"
BLURRED = "gaussian:15-35+blur:0-1.2"


@pytest.fixture(scope="module")
def stored(tmp_path_factory, photographs):
    folder = tmp_path_factory.mktemp("several") / "shards"
    build_shards(
        [str(photographs)], str(folder), BuildOptions(tile_size=128, validation_fraction=0.3, noise=TEXT), workers=1
    )
    return folder


@pytest.mark.parametrize("law", [[], ["whole_range=true"], ["whole_range=true", f"focus={FOCUS}"]])
def test_training_on_several_noises_learns_and_denoises_each(stored, tmp_path, law):
    options = [f"--noise={TEXT}", f"--run_dir={tmp_path / 'run'}", f"--data.shards={stored}", "--data.crop_size=32"]
    options += ["--network.widths=[8,16]", "--network.blocks=1", "--optimizer.learning_rate=3e-3"]
    options += ["--train.total_samples=1600", "--train.log_every_samples=160", "--train.checkpoint_every_samples=1600"]
    options += [*(f"--ardae.{part}" for part in law), "--train.num_threads=1", "--tracking.wandb=false"]
    train(read_config(options))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.97 * losses[0]
    model = checkpoint.load(checkpoint.locate(tmp_path / "run")).model
    clean = ShardSet(stored, "validation")[0].tile[:64, :64] / 255.0
    for noise in (Gaussian(25 / 255), Poisson(0.05), Gamma(50)):
        noisy = noise.corrupt(clean, np.random.default_rng(0))
        y = torch.from_numpy(noisy.astype(np.float32)).permute(2, 0, 1)[None]
        with torch.no_grad():
            estimate = model.denoise(y, noise)[0].permute(1, 2, 0).numpy()
        assert np.square(estimate - clean).mean() < 0.8 * np.square(noisy - clean).mean()


def test_clean_tiles_are_refused(shards, tmp_path):
    options = [f"--noise={TEXT}", f"--run_dir={tmp_path}", f"--data.shards={shards}", "--tracking.wandb=false"]
    with pytest.raises(UserError, match=r"n2s build-shards --noise gaussian:5-55"):
        train(read_config(options))


@pytest.fixture(scope="module")
def blurred(tmp_path_factory, photographs):
    folder = tmp_path_factory.mktemp("blurred") / "shards"
    build_shards([str(photographs)], str(folder), BuildOptions(64, validation_fraction=0.2, noise=BLURRED), workers=1)
    return folder


@pytest.mark.usefixtures("cpu")
def test_training_on_blurred_noise_learns_and_denoises_named_noise(blurred, tiny, tmp_path, cli):
    options = [f"--noise={BLURRED}", f"--run_dir={tmp_path / 'run'}", f"--data.shards={blurred}"]
    options += ["--train.total_samples=1600", "--train.log_every_samples=160", "--optimizer.learning_rate=3e-3"]
    options += ["--network.condition=map", "--ardae.whole_range=true"]
    done = cli(training.main, *tiny, *options)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.97 * losses[0]
    loaded = checkpoint.load(checkpoint.locate(tmp_path / "run"))
    clean = ShardSet(blurred, "validation")[0].tile / 255.0
    denoise = Denoiser(loaded)
    noise = parse_noise("gaussian:25+blur:0.7")
    noisy = noise.corrupt(clean, np.random.default_rng(0)).astype(np.float32)
    estimate, info = denoise(noisy, noise="gaussian:25+blur:0.7", uncertainty=True)
    assert info.noise == noise and np.square(estimate - clean).mean() < 0.9 * np.square(noisy - clean).mean()
    assert 0.6 < np.square(info.std).mean() / np.square(estimate - clean).mean() < 1.6
    with pytest.raises(UserError, match="strength of correlated noise can't be estimated"):
        estimate_noise(loaded.model, noisy)


def test_the_loader_does_not_draw_blurred_noise(shards, tiny, cli, tmp_path):
    options = ["--noise=gaussian:25+blur:0.7", f"--run_dir={tmp_path / 'run'}"]
    error = cli(training.main, *tiny, *options).error()
    assert "holds clean tiles, and gaussian:25+blur:0.7 is stored with the tiles: build them with" in error
