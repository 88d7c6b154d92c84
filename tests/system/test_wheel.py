"""The wheel in an environment of its own: each command answers, data files are found, an image is denoised."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.distributions import INFERENCE, closure
from support.helps import ask_all
from support.paths import ROOT
from support.patience import HANG_SEC

from n2s_dist.cli import COMMANDS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of what is committed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", ROOT, source], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    build += ["--disable-pip-version-check", "-w", folder, source]
    subprocess.run(build, check=True)
    return next(folder.glob("n2s_dist-*.whl"))


def environment_with(wheel: Path, folder: Path) -> tuple[Path, Path]:
    """bin/ and the packages' folder of a new environment that has the wheel, and nothing that it depends on."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = [folder / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(python, check=True, capture_output=True, text=True).stdout.strip())
    install = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--disable-pip-version-check", wheel], check=True)
    return folder / "bin", site


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """bin/ of an environment whose dependencies are all of this one's."""
    programs, site = environment_with(wheel, tmp_path_factory.mktemp("all") / "environment")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """bin/ of an environment that has what INFERENCE names and what those require, and no more."""
    programs, site = environment_with(wheel, tmp_path_factory.mktemp("bare") / "environment")
    for distribution in closure(INFERENCE).values():
        for name in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(distribution.locate_file(name))
            if source.exists():
                (site / name).symlink_to(source)
    return programs


# With one thread: where tests run side by side, threads of one wait for those of another.
CLEAN = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


def run(installed: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess:
    command = [installed / "n2s", *words]
    return subprocess.run(command, cwd=folder, env=CLEAN, capture_output=True, text=True, timeout=HANG_SEC)


def test_each_command_answers(installed, tmp_path):
    found = ask_all(installed / "python", tmp_path, CLEAN)
    assert found.keys() == COMMANDS.keys()
    assert [command for command, text in found.items() if not text.startswith("usage: n2s")] == []


def test_data_sets_and_configurations_are_found_by_name(installed, tmp_path):
    done = run(installed, tmp_path, "fetch", "kodak25")
    assert done.returncode == 2 and "did you mean 'kodak24'" in done.stderr
    done = run(installed, tmp_path, "train", "--config", "gaussian25", "--print-config")
    assert done.returncode == 0 and "symmetric: false" in done.stdout


def test_denoising_takes_few_packages(bare, installed, tmp_path):
    """Where there is no accelerate, DALI, wandb, scikit-image or webdataset an image is denoised to the same pixels."""
    find = "import importlib.util as u; print(*[n for n in {} if u.find_spec(n)])"
    training = ["accelerate", "nvidia", "wandb", "skimage", "webdataset", "jsonargparse", "jinja2", "torch"]
    command = [bare / "python", "-c", find.format(training)]
    there = subprocess.run(command, cwd=tmp_path, env=CLEAN, capture_output=True, text=True, check=True)
    assert there.stdout.split() == ["jinja2", "torch"]  # torch requires jinja2
    noisy = np.random.default_rng(0).integers(90, 160, (40, 32), np.uint8)
    Image.fromarray(noisy).save(tmp_path / "noisy.tif")
    for name, programs in {"few": bare, "all": installed}.items():
        done = run(programs, tmp_path, "denoise", "noisy.tif", f"{name}.tif", "--uncertainty")
        assert done.returncode == 0, done.stderr
    assert tifffile.imread(tmp_path / "few.tif").std() < noisy.std() / 2
    for end in (".tif", "-std.png"):
        assert (tmp_path / f"few{end}").read_bytes() == (tmp_path / f"all{end}").read_bytes()
