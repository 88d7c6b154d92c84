"""n2s evaluate --noisy: noisy files at their own depth, and refusals before anything is computed."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.denoisers import save_network

from n2s_dist import evaluate
from n2s_dist.noise.calibration import read_calibration
from n2s_dist.noise.specification import format_noise

pytestmark = pytest.mark.usefixtures("cpu")

WHITE, BLACK = 4095, 100
RNG = np.random.default_rng(0)
CLEAN = RNG.uniform(0.25, 0.9, (8, 8)).repeat(8, 0).repeat(8, 1)
NOISY = CLEAN + 0.05 * RNG.standard_normal(CLEAN.shape)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return save_network(tmp_path_factory.mktemp("network"), "gaussian:5-55", channels=1)


def adu(image: np.ndarray, kind: type) -> np.ndarray:
    """On the scale of a camera of 12 bits with an offset."""
    values = BLACK + (WHITE - BLACK) * image
    return values.astype(kind) if np.dtype(kind).kind == "f" else np.rint(values).astype(kind)


def folders(tmp_path: Path, noisy: np.ndarray, clean: np.ndarray) -> list[str]:
    """The options that name them."""
    for name, image in (("noisy", noisy), ("clean", clean)):
        (tmp_path / name).mkdir()
        if image.dtype == np.uint8:
            Image.fromarray(image).save(tmp_path / name / "a.png")
        else:
            tifffile.imwrite(tmp_path / name / "a.tif", image)
    return [f"--noisy=mine={tmp_path / 'noisy'}", f"--benchmark=mine={tmp_path / 'clean'}"]


def row_of(done, out: Path) -> dict:
    assert done.code == 0, done.err
    (cell,) = json.loads((out / "results.json").read_text())["cells"]
    return cell | cell["images"][0]


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
@pytest.mark.parametrize("truth", [np.uint16, np.float32, np.uint8])
def test_twelve_bits_in_files_of_sixteen_are_measured_on_their_own_scale(cli, network, tmp_path, kind, truth):
    """Their truth has the same scale, be it a mean of many frames in floats, or is an ordinary image of 8 bits."""
    clean = np.rint(255 * CLEAN).astype(np.uint8) if truth is np.uint8 else adu(CLEAN, truth)
    options, out = folders(tmp_path, adu(NOISY, kind), clean), tmp_path / "out"
    options += [f"--white={WHITE}", f"--black={BLACK}", "--noise=gaussian:13", "--pictures"]
    row = row_of(cli(evaluate.main, f"--checkpoint={network}", *options, f"--out={out}", "--no-wandb"), out)
    error = np.mean((NOISY - (clean / 255 if truth is np.uint8 else CLEAN)) ** 2)
    assert row["psnr_noisy_db"] == pytest.approx(-10 * np.log10(error), abs=0.01) and row["protocol"] == "own_depth"
    pictures = out / "pictures/gaussian_13-known/mine"
    for name, image in (("a-clean.png", CLEAN), ("a-noisy.png", NOISY)):
        shown = np.asarray(Image.open(pictures / name)).astype(int)
        assert np.abs(shown - np.clip(255 * image, 0, 255)).max() <= 1, name


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_without_white_they_are_refused_before_anything_is_computed(cli, network, tmp_path, kind):
    options = folders(tmp_path, adu(NOISY, kind), np.rint(255 * CLEAN).astype(np.uint8))
    words = [f"--checkpoint={network}", *options, "--noise=gaussian:13", f"--out={tmp_path / 'out'}", "--no-wandb"]
    line = cli(evaluate.main, *words).error()
    assert str(tmp_path / "noisy/a.tif") in line and "--white" in line
    assert not (tmp_path / "out/results.json").exists()


def test_sixteen_bits_that_are_filled_need_no_white_and_keep_their_depth(cli, network, tmp_path):
    noisy, clean = (np.rint(65535 * np.clip(image, 0, 1)).astype(np.uint16) for image in (NOISY / 64 + 0.5, CLEAN))
    options, out = [*folders(tmp_path, noisy, clean), "--noise=gaussian:13"], tmp_path / "out"
    row = row_of(cli(evaluate.main, f"--checkpoint={network}", *options, f"--out={out}", "--no-wandb"), out)
    exact = -10 * np.log10(np.mean((noisy / 65535 - clean / 65535) ** 2))
    assert row["psnr_noisy_db"] == pytest.approx(exact, abs=1e-4)  # in 8 bits it would be off by 0.01


def test_a_calibrated_cameras_noise_is_on_the_scale_of_the_files(cli, network, tmp_path):
    camera = tmp_path / "camera.yaml"
    camera.write_text(f"kind: calibration\nblack_level: {BLACK}\nwhite_level: {WHITE}\ngain: 2\nread_noise: 30\n")
    network = save_network(tmp_path / "network", "poisson:0.0001-0.1", channels=1)
    options, out = folders(tmp_path, adu(NOISY, np.uint16), adu(CLEAN, np.uint16)), tmp_path / "out"
    words = [f"--checkpoint={network}", *options, f"--noise=camera:{camera}", f"--out={out}", "--no-wandb"]
    row = row_of(cli(evaluate.main, *words, f"--white={WHITE}"), out)  # black is the camera's
    assert row["noise"] == format_noise(read_calibration(camera).noise())
    assert row["psnr_noisy_db"] == pytest.approx(-10 * np.log10(np.mean((NOISY - CLEAN) ** 2)), abs=0.01)


@pytest.mark.parametrize("fault", ["8 bits", "clean alone", "unit scale", "gaps"])
def test_what_can_not_be_measured_so_is_named(cli, network, tmp_path, fault):
    noisy = adu(NOISY, np.float32)
    if fault == "8 bits":
        noisy = np.rint(255 * np.clip(NOISY, 0, 1)).astype(np.uint8)
    if fault == "unit scale":
        noisy = NOISY.astype(np.float32)
    if fault == "gaps":
        noisy[3, 4] = np.nan
    options = folders(tmp_path, noisy, np.rint(255 * CLEAN).astype(np.uint8))
    options = options[1:] if fault == "clean alone" else options
    words = {
        "8 bits": "--white and --black are for noisy files of more than 8 bits, and mine has none",
        "clean alone": "--white and --black go with --noisy",
        "unit scale": f"as on the 0-1 scale, but --black is 0 and --white {WHITE}: leave both out",
        "gaps": "a.tif has pixels that hold nothing",
    }
    arguments = [f"--checkpoint={network}", *options, "--noise=gaussian:13", f"--white={WHITE}", "--no-wandb"]
    assert words[fault] in cli(evaluate.main, *arguments, f"--out={tmp_path / 'out'}").error()
