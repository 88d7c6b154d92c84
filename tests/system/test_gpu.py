"""What only a GPU can show; skipped where there is none. tools/gpu_acceptance.sh runs these first."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.forked_ranks import free_port

from n2s_dist.inference import tiling, uncertainty
from n2s_dist.loading.crop_loader import CropLoader
from n2s_dist.losses.draws import perturbations
from n2s_dist.models import checkpoint
from n2s_dist.noise.specification import parse_noise
from n2s_dist.shards.reader import ShardSet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
HALF, WHOLE = "samples-000000080", "samples-000000160"


@pytest.fixture
def train(environment, tiny):
    """Train the tiny run in processes that see the GPUs; returns the rows of metrics.jsonl."""
    variables = {key: value for key, value in environment.items() if key != "CUDA_VISIBLE_DEVICES"}

    def run(run_dir, *options: str, ranks: int = 1) -> list[dict]:
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(),
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
        }
        started = []
        for rank in range(ranks):
            own = {**shared, "RANK": rank, "LOCAL_RANK": rank} if ranks > 1 else {}
            command = [sys.executable, "-m", "n2s_dist.train", *tiny, f"--run_dir={run_dir}", "--train.device=gpu"]
            env = {**variables, **{key: str(value) for key, value in own.items()}}
            started.append(subprocess.Popen([*command, *options], env=env, stderr=subprocess.PIPE, text=True))
        try:
            said = [process.communicate(timeout=300)[1] for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0] * ranks, said
        return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]

    return run


def final_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_training_state(run_dir / "checkpoints" / WHOLE)["weights"]


@pytest.mark.parametrize("noise", [None, "gaussian:25", "poisson:0.05", "gamma:50"])
def test_the_loader_gives_the_same_on_both_to_the_last_bit(shards, noise):
    made = []
    for device in (CPU, GPU):
        positions = iter(np.arange(64).reshape(-1, 8))
        model = parse_noise(noise) if noise else None
        made.append(
            torch.cat([crop.cpu() for crop in CropLoader(ShardSet(shards), positions, 8, 32, model, 0, device=device)])
        )
    assert torch.equal(*made)


def test_perturbations_depend_on_their_positions_alone_and_are_normal():
    shape = torch.Size((8, 3, 64, 64))
    whole = perturbations(5, np.arange(8), shape, GPU)
    parts = [perturbations(5, np.arange(begin, begin + 2), torch.Size((2, 3, 64, 64)), GPU) for begin in range(0, 8, 2)]
    assert torch.equal(whole, torch.cat(parts))
    assert abs(float(whole.mean())) < 0.02 and abs(float(whole.std()) - 1) < 0.02
    assert abs(float((whole[0] * whole[1]).mean())) < 0.05


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_training_and_resuming_in_each_precision(train, tmp_path, precision):
    options = [f"--train.mixed_precision={precision}", "--train.channels_last=true"]
    rows = train(tmp_path / "whole", *options)
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    shutil.copytree(tmp_path / "whole/checkpoints" / HALF, tmp_path / "again/checkpoints" / HALF)
    train(tmp_path / "again", *options)
    ends = [
        checkpoint.load_training_state(tmp_path / name / "checkpoints" / WHOLE)["weights"]
        for name in ("whole", "again")
    ]
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune-no-cudagraphs"])
def test_training_compiled_in_each_way(train, tmp_path, mode):
    rows = train(tmp_path / "run", f"--train.compile={mode}", "--train.mixed_precision=bf16")
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)


def test_a_cpus_checkpoint_goes_on_on_a_gpu(train, trained, tmp_path):
    shutil.copytree(trained / "checkpoints" / HALF, tmp_path / "run/checkpoints" / HALF)
    rows = train(tmp_path / "run")
    assert [row["samples_seen"] for row in rows if "loss" in row][-1] == 160


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_two_ranks_train_as_one(train, tmp_path):
    train(tmp_path / "one")
    train(tmp_path / "two", ranks=2)
    ends = [
        checkpoint.load_training_state(tmp_path / name / "checkpoints" / WHOLE)["weights"] for name in ("one", "two")
    ]
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, rtol=1e-3, atol=1e-3)


def test_inference_and_uncertainty_agree_with_the_cpus():
    noisy = np.random.default_rng(0).random((96, 128, 3)).astype(np.float32)
    noise = parse_noise("gaussian:25")
    path = checkpoint.locate("universal-color")
    on_cpu, on_gpu = (checkpoint.load(path, device).model for device in (CPU, GPU))
    expected = tiling.denoise_whole(on_cpu, noisy, noise)
    np.testing.assert_allclose(tiling.denoise_whole(on_gpu, noisy, noise), expected, rtol=0, atol=1e-4)
    std = [uncertainty.posterior_tiled(model, noisy, noise).std for model in (on_cpu, on_gpu)]
    np.testing.assert_allclose(std[1], std[0], rtol=0.02, atol=1e-4)
