"""No CPU without a word where GPUs are there or are asked for."""

import stat

import pytest
import torch

from n2s_dist import train as training
from n2s_dist.distributed import devices
from n2s_dist.distributed.devices import choose_device
from n2s_dist.utils.errors import UserError


@pytest.fixture(autouse=True)
def a_node(monkeypatch, tmp_path):
    """One that says nothing of GPUs, with a PyTorch that can't use any."""
    for name in ("SLURM_GPUS_ON_NODE", "CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "none")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def smi(tmp_path):
    """Put an nvidia-smi on the path that prints some text, or fails."""

    def write(text: str, code: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nprintf '{text}'\nexit {code}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return write


def test_a_machine_without_gpus_takes_the_cpu(smi):
    assert choose_device("auto") == "cpu"
    smi("No devices were found", 6)
    assert choose_device("auto") == "cpu"


def test_gpus_that_pytorch_can_use_are_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("gpu") == "cuda"
    assert choose_device("cpu") == "cpu"


def test_a_build_without_cuda_is_named_with_the_driver(smi, monkeypatch):
    smi("550.54.14\\n550.54.14\\n")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError) as error:
        choose_device("auto")
    for part in ("2 GPU(s)", "nvidia-smi", "550.54.14", torch.__version__, "without CUDA", "CUDA_VISIBLE_DEVICES"):
        assert part in str(error.value)


def test_a_driver_that_is_too_old_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    devices._DRIVER.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  450.80.02  Wed Sep 23\n")
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11000).\nPlease update it.")

    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(UserError) as error:
        choose_device("auto")
    for part in ("8 GPU(s)", "Slurm", "450.80.02", "CUDA 13.0", "too old (found version 11000)"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"])
def test_the_cpu_can_be_meant(variable, monkeypatch):
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    monkeypatch.setenv(variable, "" if variable == "CUDA_VISIBLE_DEVICES" else "true")
    assert choose_device("auto") == "cpu"
    assert choose_device("cpu") == "cpu"
    with pytest.raises(UserError, match="8 GPU"):
        choose_device("gpu")


def test_training_ends_with_one_line_and_writes_nothing(tiny, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    given = [*tiny, f"--run_dir={tmp_path / 'run'}"]
    assert "2 GPU(s)" in cli(training.main, *given).error(2)
    monkeypatch.delenv("SLURM_GPUS_ON_NODE")
    assert "no GPU is found" in cli(training.main, *given, "--train.device=gpu").error(2)
    assert not list((tmp_path / "run").glob("c*"))
