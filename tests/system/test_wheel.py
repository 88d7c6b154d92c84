"""The wheel in an environment of its own: each command answers, data files are found, an image is denoised."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT

from n2s_dist.cli import COMMANDS


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """bin/ of a new environment that has the wheel; what it depends on is taken from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", ROOT, source], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, source]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("n2s_dist-*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = [environment / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(python, check=True, capture_output=True, text=True).stdout.strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--disable-pip-version-check", wheel], check=True)
    return environment / "bin"


def run(installed: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [installed / "n2s", *words]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_answers(installed, command, tmp_path):
    done = run(installed, tmp_path, command, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: n2s"), done.stderr


def test_data_sets_and_configurations_are_found_by_name(installed, tmp_path):
    done = run(installed, tmp_path, "fetch", "kodak25")
    assert done.returncode == 2 and "did you mean 'kodak24'" in done.stderr
    done = run(installed, tmp_path, "train", "--config", "gaussian25", "--print-config")
    assert done.returncode == 0 and "symmetric: false" in done.stdout


def test_an_image_is_denoised(installed, tmp_path):
    noisy = np.random.default_rng(0).integers(90, 160, (48, 40, 3), np.uint8)
    Image.fromarray(noisy).save(tmp_path / "noisy.png")
    done = run(installed, tmp_path, "denoise", "--noise", "gaussian:20", "noisy.png", "denoised.png")
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open(tmp_path / "denoised.png")).std() < noisy.std() / 2
