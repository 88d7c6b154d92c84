"""Whether ranks compute on GPUs, and no CPU without a word where GPUs were meant."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch

from n2s_dist.config.schema import DeviceChoice
from n2s_dist.utils.errors import UserError

_SMI_SEC = 30.0  # nvidia-smi takes seconds where no program holds the driver
_DRIVER = Path("/proc/driver/nvidia/version")


class GpusThere(NamedTuple):
    """GPUs that a node has, whatever PyTorch can do with them."""

    number: int
    told_by: str  # who says so
    driver: str  # its version, "unknown" where nothing says it


def gpus_there() -> GpusThere | None:
    """What Slurm or nvidia-smi says of this node; None where neither knows of a GPU."""
    driver, listed = "unknown", 0
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SEC, check=False)
            lines = done.stdout.split() if done.returncode == 0 else []
        except (OSError, subprocess.TimeoutExpired):
            lines = []
        listed, driver = len(lines), lines[0] if lines else driver
    if driver == "unknown" and _DRIVER.is_file():
        words = _DRIVER.read_text().split()
        driver = next((word for word in words if word[0].isdigit() and "." in word), driver)
    allotted = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if allotted.isdigit() and int(allotted):
        return GpusThere(int(allotted), "Slurm", driver)
    return GpusThere(listed, "nvidia-smi", driver) if listed else None


def _cpu_is_meant() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return hidden or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def _why_unusable() -> str:
    """What keeps PyTorch from CUDA, for the middle of a sentence."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA: install one for a CUDA version that the driver runs"
    try:
        torch.cuda.init()
        reason = "it finds no device"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
    return (
        f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, can't use it ({reason}): update the driver, "
        "or install a build for an older CUDA version"
    )


def choose_device(wanted: DeviceChoice) -> str:
    """Either "cuda" or "cpu". auto: GPUs where there are any, unless the environment asks for the CPU.

    Raises UserError where GPUs are asked for, or are there and not hidden (CUDA_VISIBLE_DEVICES empty), and PyTorch
    can't use them.
    """
    if wanted == "cpu" or (wanted == "auto" and _cpu_is_meant()):
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    there = gpus_there()
    if there is None and wanted == "auto":
        return "cpu"
    if there is None:
        raise UserError(f"device gpu is asked for, but no GPU is found on this node, and {_why_unusable()}")
    raise UserError(
        f"this node has {there.number} GPU(s) ({there.told_by}; driver {there.driver}), but {_why_unusable()}; to take "
        "the CPU, give device cpu or set CUDA_VISIBLE_DEVICES to nothing"
    )
