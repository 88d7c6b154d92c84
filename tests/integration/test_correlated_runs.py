"""Noise with a direction, from shards through training to denoised images."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from n2s_dist import denoise as denoising
from n2s_dist import train as training
from n2s_dist.inference.denoiser import Denoiser
from n2s_dist.loading.crop_inputs import crop_inputs
from n2s_dist.models import checkpoint
from n2s_dist.noise.calibration import Calibration
from n2s_dist.noise.specification import format_noise, parse_noise
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training import step

TEXT = "gaussian:30+blur:0.3x0.8+rows:0.5+channels:0.4"


@pytest.fixture(scope="module")
def stored(tmp_path_factory, photographs):
    folder = tmp_path_factory.mktemp("striped") / "shards"
    build_shards([str(photographs)], str(folder), BuildOptions(112, validation_fraction=0.2, noise=TEXT), workers=1)
    return folder


@pytest.fixture(scope="module")
def trained(stored, tiny, tmp_path_factory):
    """A run, and the noisy crops and the perturbations that it learned from: [N, C, S, S] each."""
    run_dir, seen = tmp_path_factory.mktemp("striped") / "run", []
    method_loss = step.method_loss

    def seeing(method, model, run, batch):
        seen.append((batch.noisy.numpy().copy(), batch.aux.numpy().copy()))
        return method_loss(method, model, run, batch)

    options = [*tiny, f"--noise={TEXT}", f"--run_dir={run_dir}", f"--data.shards={stored}"]
    options += ["--train.total_samples=960", "--optimizer.learning_rate=3e-3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "method_loss", seeing)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr("sys.argv", ["train", *map(str, options)])
        training.main()
    return run_dir, *(np.concatenate(each) for each in zip(*seen, strict=True))


def striped(images: np.ndarray) -> float:
    """How many times as much values vary from row to row as from column to column, on average over [N, C, H, W]."""
    rows, columns = (np.diff(images.mean(axis), axis=-1).var() for axis in (3, 2))
    return float(rows / columns)


def test_tiles_that_overlap_hold_the_same_noise(stored):
    shards, places = ShardSet(stored), {}
    for number in range(len(shards)):
        sample = shards[number]
        places.setdefault(sample.image, []).append(sample)
    overlaps = 0
    for first, second in ((a, b) for tiles in places.values() for a in tiles for b in tiles if a.column < b.column):
        if first.row == second.row:
            apart = second.column - first.column
            np.testing.assert_array_equal(first.tile[:, apart:], second.tile[:, : 112 - apart])
            overlaps += 1
    assert overlaps


def test_crops_are_flipped_and_not_turned(trained, stored):
    _, noisy, drawn = trained
    assert striped(drawn) > 5 and striped(noisy) > 2  # columns have the photographs' own differences
    shards, at = ShardSet(stored), [np.arange(64)]
    (turned,), (kept,) = (list(crop_inputs(shards, at, 32, 0, noisy=False, turned=each)) for each in (True, False))
    assert 16 < turned[4].sum() < 48 and not kept[4].any() and kept[2].any() and kept[3].any()
    for one, two in zip(turned[1:4], kept[1:4], strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_network_denoises_with_all_that_can_be_asked_for(trained, stored):
    loaded = checkpoint.load(checkpoint.locate(trained[0]))
    denoise, noise = Denoiser(loaded), parse_noise(TEXT)
    clean = ShardSet(stored, "validation")[0].tile / 255.0
    noisy = noise.corrupt(clean, np.random.default_rng(0)).astype(np.float32)
    estimate, info = denoise(noisy, uncertainty=True)
    error = np.square(estimate - clean).mean()
    assert info.noise == noise and error < 0.9 * np.square(noisy - clean).mean()
    assert 0.6 < np.square(info.std).mean() / error < 1.6
    small = Denoiser(loaded, tile=48)(noisy, uncertainty=True)
    np.testing.assert_allclose(small[1].std, info.std, atol=0.02 * info.std.mean())
    ensemble, _ = denoise(noisy, TEXT, ensemble=True)
    assert np.square(ensemble - clean).mean() < error


def test_other_noise_is_refused_in_one_line(trained, cli, tmp_path, photographs):
    photograph = next(iter(sorted(photographs.iterdir())))
    for text in ("gaussian:30", "gaussian:30+columns:0.5", "gaussian:30+blur:0.5+rows:0.5+channels:0.4"):
        error = cli(
            denoising.main, f"--checkpoint={trained[0]}", "--noise", text, photograph, tmp_path / "a.png"
        ).error()
        assert f"--noise is {text}, but {trained[0]}" in error and error.endswith(f"was trained on {TEXT}")
    for text in ("gaussian:20+rows:0.3", "gaussian:20+blur:0.3x1", "poisson:0.02+columns:0.1", TEXT):
        assert "was trained on" in cli(denoising.main, "--noise", text, photograph, tmp_path / "a.png").error()
    assert "range of rows" in cli(denoising.main, "--noise", "gaussian:20+rows:0-1", photograph, "a.png").error()
    samples = ["--samples", "1", f"--checkpoint={trained[0]}", photograph, tmp_path / "a.png"]
    assert "samples take a network of many levels" in cli(denoising.main, *samples).error()
    unknown = [f"--checkpoint={trained[0]}", "--noise=gaussian", photograph, tmp_path / "a.png"]
    assert "correlated noise can't be estimated" in cli(denoising.main, *unknown).error()
    assert not (tmp_path / "a.png").exists()


def test_a_camera_s_stripes_are_left_out_for_networks_that_have_learned_none(cli, tmp_path):
    plain = Calibration("calibration", 100, 4095, gain=1.0, read_noise=20, row_noise=20)
    camera = dataclasses.replace(plain, width_across=0, width_down=0.9)
    camera.write(tmp_path / "camera.yaml", [])
    frame = np.random.default_rng(0).normal(2000, 40, (40, 40)).astype(np.uint16)
    Image.fromarray(frame).save(tmp_path / "noisy.tif")
    words = ["--noise", f"camera:{tmp_path / 'camera.yaml'}", tmp_path / "noisy.tif", tmp_path / "out.tif"]
    done = cli(denoising.main, "--checkpoint=instrument-gray", *words)
    assert done.code == 0, done.err
    assert f"the camera's noise is {format_noise(camera.noise())}, which no network here has learned" in done.out
    assert f"{format_noise(camera.noise(plainly=True))} is taken" in done.out
    plain.write(tmp_path / "camera.yaml", [])
    words[-1] = tmp_path / "again.tif"
    assert cli(denoising.main, "--checkpoint=instrument-gray", *words).code == 0
    assert (tmp_path / "again.tif").read_bytes() == (tmp_path / "out.tif").read_bytes()
