"""Baselines' losses in real training: they denoise, they go on bit for bit, and they get what they ask for alone."""

import json
import shutil
from pathlib import Path

import pytest

from n2s_dist import train as training
from n2s_dist.models import checkpoint
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions

BASELINES = ["supervised", "noise2noise", "noise2void", "sure", "r2r"]


def gain_db(run_dir: Path) -> float:
    """What the last validation found: PSNR of the denoised over that of the noisy tiles."""
    row = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    return row["val_psnr_db"] - row["val_psnr_noisy_db"]


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("method", BASELINES)
def test_a_short_run_denoises_and_goes_on_bit_for_bit(tiny, cli, tmp_path, method):
    """Images it never saw, against their noisy versions; and again from its last checkpoint but one, its end lost."""
    run_dir = tmp_path / "run"
    plan = ["--train.total_samples=320", "--train.checkpoint_every_samples=240", "--train.validate_every_samples=9999"]
    arguments = [*tiny, *plan, f"--method={method}", "--train.validation_tiles=9", "--run_dir", run_dir]
    assert cli(training.main, *arguments).code == 0
    last = checkpoint.locate(run_dir)
    weights, about = (last / "model.safetensors").read_bytes(), checkpoint.load(last)
    assert (last.name, about.config.method) == ("samples-000000320", method)
    assert gain_db(run_dir) > (0.6 if method == "noise2void" else 1.5)

    shutil.rmtree(last)
    done = cli(training.main, *arguments)
    assert done.code == 0 and "going on from" in done.out
    assert (last / "model.safetensors").read_bytes() == weights


@pytest.mark.usefixtures("cpu")
def test_tiles_with_their_noise_in_them_are_refused_where_more_is_asked_for(tiny, cli, photographs, tmp_path):
    stored = tmp_path / "stored"
    options = BuildOptions(tile_size=64, noise="gaussian:25", validation_fraction=0)
    build_shards([str(photographs)], stored, options, workers=1)
    arguments = [*tiny, f"--data.shards={stored}", "--run_dir", tmp_path / "run", "--train.total_samples=8"]
    for method, extra_view in (("supervised", "clean pixels"), ("noise2noise", "a second noisy version")):
        line = cli(training.main, *arguments, f"--method={method}").error(2)
        assert f"method {method} sees {extra_view}" in line and str(stored) in line and "--noise" in line
    assert cli(training.main, *arguments, "--method=noise2void").code == 0
