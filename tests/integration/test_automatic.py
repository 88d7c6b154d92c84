"""n2s evaluate of noisy files where nothing is named: what a user gets from load_denoiser() and n2s denoise."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
import torch
from PIL import Image
from support.denoisers import save_network, ship_network
from support.forked_ranks import Start

from n2s_dist import denoise, evaluate, load_denoiser
from n2s_dist.evaluation import automatic
from n2s_dist.evaluation.automatic import automatic_methods
from n2s_dist.evaluation.benchmarks import KNOWN, Known
from n2s_dist.evaluation.noisy_files import NO_SCALE, NamedScale
from n2s_dist.images.files import ImageFile
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.models import pretrained
from n2s_dist.noise.specification import format_noise, parse_noise

pytestmark = pytest.mark.usefixtures("cpu")

# Each goes to another network; the last is gray in a file of colors.
NOISES = {
    "astronaut": "gaussian:20", "coffee": "poisson-gaussian:0.02:5+blur:0.7", "rocket": "poisson:0.03",
    "camera": "gaussian:10",
}  # fmt: skip
SIZES = {"coffee": (128, 144)}  # correlated noise is found in large enough images alone


def eight_bits(image: np.ndarray) -> np.ndarray:
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def write_pairs(folder: Path, names: Iterable[str] = NOISES) -> Path:
    """Noisy files and their truth; one noisy file is a JPEG at half its color resolution."""
    for kind in ("noisy", "clean"):
        (folder / kind).mkdir()
    for number, name in enumerate(names):
        height, width = SIZES.get(name, (40, 48))
        clean = getattr(skimage.data, name)()[100 : 100 + height, 140 : 140 + width]
        noisy = eight_bits(parse_noise(NOISES[name]).corrupt(clean / 255, np.random.default_rng(number)))
        if name == "camera":
            clean, noisy = (np.repeat(gray[:, :, None], 3, axis=2) for gray in (clean, noisy))
        suffix = {"rocket": "jpg"}.get(name, "png")
        Image.fromarray(clean).save(folder / f"clean/{name}.png")
        Image.fromarray(noisy).save(folder / f"noisy/{name}.{suffix}", **({"quality": 95} if suffix == "jpg" else {}))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Without the one that is large."""
    return write_pairs(tmp_path_factory.mktemp("small"), ("astronaut", "camera", "rocket"))


def options(folder: Path, out: Path) -> list[str]:
    return [f"--noisy=mine={folder / 'noisy'}", f"--benchmark=mine={folder / 'clean'}", f"--out={out}", "--no-wandb"]


def cells(out: Path) -> list[dict]:
    return json.loads((out / "results.json").read_text())["cells"]


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """Small networks, never trained, in place of the pretrained ones, a withdrawn one that is told maps among them."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    ship_network(folder, "universal-color", save_network(tmp_path / "color"))
    ship_network(folder, "universal-gray", save_network(tmp_path / "gray", channels=1))
    maps = save_network(tmp_path / "maps", "gaussian:1-75,gaussian:1-75+blur:0.3-1.2", condition="map")
    ship_network(folder, "instrument-color", maps, withdrawn="as the real one is")
    return folder


def test_figures_pictures_networks_and_noises_are_those_of_load_denoiser_and_n2s_denoise(cli, pairs, tmp_path):
    """By the pretrained networks, of 8-bit files: PSNR exactly, pictures of all but the large one to the last value."""
    done = cli(evaluate.main, *options(pairs, tmp_path / "out"), "--pictures")
    assert done.code == 0, done.err
    (cell,) = cells(tmp_path / "out")
    torch.set_num_threads(1)  # as each piece was measured
    names = cell["noise"], cell["level"], cell["method"], cell["checkpoint"], cell["protocol"]
    assert names == ("unknown", "unknown", "automatic", None, "uint8_input")
    small = shutil.copytree(pairs / "noisy", tmp_path / "small", ignore=shutil.ignore_patterns("coffee.*"))
    assert cli(denoise.main, small, tmp_path / "denoised").code == 0
    load = load_denoiser()
    for row, name in zip(cell["images"], sorted(NOISES), strict=True):
        (noisy,) = (pairs / "noisy").glob(f"{name}.*")
        clean = np.asarray(Image.open(pairs / f"clean/{name}.png"))
        pixels = np.asarray(Image.open(noisy)) * np.float32(1 / 255)
        x_hat, info = load(pixels, chroma_subsampled=noisy.suffix == ".jpg")
        assert x_hat.dtype == np.float32
        assert row["psnr_db"] == psnr_db(clean / 255, x_hat.clip(0, 1)) > row["psnr_noisy_db"] + 1
        assert (row["network"], row["estimated"]) == (info.network.called, format_noise(info.noise))
        picture = np.asarray(Image.open(tmp_path / f"out/pictures/unknown-unknown/mine/{name}-denoised.png"))
        if name != "coffee":
            np.testing.assert_array_equal(picture, np.asarray(Image.open(tmp_path / f"denoised/{name}.png")))
        line = next(line.split() for line in done.out.splitlines() if line.startswith(f"{name}.png "))
        assert line[1:3] == [f"{row[key]:.2f}" for key in ("psnr_noisy_db", "psnr_db")] and line[-1] == row["network"]
    taken = {row["name"].partition(".")[0]: row["network"] for row in cell["images"]}
    assert taken["coffee"] == "instrument-color" and taken["camera"] == "gaussian-gray" and len({*taken.values()}) > 2
    assert "0 of 4 images came out below the noisy one" in done.out
    assert max(map(len, done.out.replace(str(tmp_path), "").splitlines())) <= 80


def test_files_of_more_than_8_bits_are_those_that_white_and_black_name(shipped, tmp_path):
    """A value beyond twice white has no say in the estimate, and stays."""
    values = np.round(100 + 3995 * np.random.default_rng(0).uniform(0.2, 0.9, (40, 48))).astype(np.uint16)
    values[7, 9] = 60_000
    tifffile.imwrite(tmp_path / "a.tif", values)
    (method,) = automatic_methods("cpu")
    found = method.of_file(ImageFile(tmp_path, "a.tif", 0), NamedScale(4095, 100))
    x_hat, info = load_denoiser()(values, white=4095, black=100)
    assert found.estimate.shape == (40, 48, 1) and found.estimate.dtype == np.float32
    np.testing.assert_array_equal(np.rint(found.estimate[:, :, 0].astype(np.float64) * 3995 + 100), x_hat)
    assert x_hat[7, 9] == 60_000 and found.noise == info.noise and found.network == "universal-gray"


def test_the_ensemble_and_deviations_are_those_of_load_denoiser(cli, shipped, small, tmp_path):
    arguments = [*options(small, tmp_path / "out"), "--ensemble", "--uncertainty"]
    assert cli(evaluate.main, *arguments).code == 0
    torch.set_num_threads(1)
    usual, ensemble = cells(tmp_path / "out")
    assert (usual["method"], ensemble["method"]) == ("automatic", "automatic+ensemble")
    assert ensemble["posterior"] is None
    predicted = []
    for number, name in enumerate(("astronaut", "camera", "rocket")):
        (noisy,) = (small / "noisy").glob(f"{name}.*")
        clean = np.asarray(Image.open(small / f"clean/{name}.png")) / 255
        pixels, halved = np.asarray(Image.open(noisy)) * np.float32(1 / 255), noisy.suffix == ".jpg"
        x_hat, info = load_denoiser()(pixels, chroma_subsampled=halved, uncertainty=True)
        assert usual["images"][number]["psnr_db"] == psnr_db(clean, x_hat.clip(0, 1))
        predicted.append((np.sum(info.std.astype(np.float64) ** 2), np.sum((x_hat - clean) ** 2)))
        x_hat, _ = load_denoiser()(pixels, chroma_subsampled=halved, ensemble=True)
        assert ensemble["images"][number]["psnr_db"] == psnr_db(clean, x_hat.clip(0, 1))
    above, below = np.sum(predicted, axis=0)
    assert usual["posterior"]["mse_ratio"] == pytest.approx(above / below)


def test_bm3d_is_told_the_noise_that_is_found(cli, shipped, tmp_path):
    """Also of gray images in files of colors."""
    pytest.importorskip("bm3d")
    pairs = write_pairs(tmp_path, ("astronaut", "camera"))
    assert cli(evaluate.main, *options(pairs, tmp_path / "out"), "--bm3d").code == 0
    own, bm3d = cells(tmp_path / "out")
    assert bm3d["method"] == "bm3d" and all("network" not in row for row in bm3d["images"])
    assert [row["estimated"] for row in bm3d["images"]] == [row["estimated"] for row in own["images"]]
    assert bm3d["psnr_db"] != own["psnr_db"] and all(row["psnr_db"] > 0 for row in bm3d["images"])


def test_the_suite_of_real_noise_measures_what_naming_nothing_gives(cli, shipped, tmp_path, monkeypatch):
    """Of color benchmarks there is none here; the networks that are there are the suite's, whatever they are."""
    monkeypatch.setitem(KNOWN, "fmd", Known(None, 1))
    (tmp_path / "data/fmd/raw").mkdir(parents=True)
    (tmp_path / "data/fmd/gt").mkdir()
    clean = skimage.data.camera()[100:160, 140:210]
    noisy = eight_bits(clean / 255 + np.random.default_rng(0).normal(0, 0.08, clean.shape))
    Image.fromarray(clean).save(tmp_path / "data/fmd/gt/a.png")
    Image.fromarray(noisy).save(tmp_path / "data/fmd/raw/a.png")
    arguments = ["--suite=real", f"--data={tmp_path / 'data'}", f"--out={tmp_path / 'out'}", "--no-wandb"]
    assert cli(evaluate.main, *arguments).code == 0
    torch.set_num_threads(1)
    missing, cell = cells(tmp_path / "out")
    assert (missing["benchmark"], missing["method"], cell["method"]) == ("cc15", "automatic", "automatic")
    assert "cc15 does not exist" in missing["missing"]
    x_hat, _ = load_denoiser()(noisy * np.float32(1 / 255))
    assert cell["psnr_db"] == psnr_db(clean / 255, x_hat.clip(0, 1))
    assert cell["images"][0]["network"] == "universal-gray"
    # A checkpoint that is named is measured alone, as ever.
    assert cli(evaluate.main, *arguments, "--checkpoint=universal-gray").code == 0
    _, cell = cells(tmp_path / "out")
    assert (cell["method"], cell["checkpoint"], cell["noise"]) == ("n2s", "universal-gray", "unknown")
    assert "network" not in cell["images"][0]


def evaluate_shipped() -> None:
    """The program, where the networks of FOLDER are the pretrained ones."""
    pretrained.FOLDER = Path(os.environ["FOLDER"])
    evaluate.main()


def test_the_table_is_the_same_on_any_number_of_ranks(cli, fleet, shipped, small, tmp_path):
    texts, there = [], Start(variables={"FOLDER": str(shipped)})
    for count in (1, 2):
        arguments = options(small, tmp_path / str(count))
        if count == 1:
            assert cli(evaluate.main, *arguments).code == 0
        else:
            ranks = fleet(count, arguments, program=evaluate_shipped, apart=dict.fromkeys(range(count), there))
            assert ranks.wait() == [0] * count, ranks.text("err")
            assert f"3 images in 3 pieces on {count} rank(s)" in ranks.text()
        texts.append([(tmp_path / str(count) / name).read_text() for name in ("results.json", "table.md", "table.csv")])
    assert texts[0] == texts[1]


def test_a_stopped_evaluation_goes_on_and_ends_the_same_and_an_ended_one_is_taken(
    cli, shipped, small, tmp_path, monkeypatch
):
    assert cli(evaluate.main, *options(small, tmp_path / "undisturbed")).code == 0
    asked, opened, most = [], automatic._opened, 2

    def stopping(image, named):
        if len(asked) == most:
            raise KeyboardInterrupt
        asked.append(image.name)
        return opened(image, named)

    monkeypatch.setattr(automatic, "_opened", stopping)
    assert cli(evaluate.main, *options(small, tmp_path / "out")).code == 130
    most = 3
    done = cli(evaluate.main, *options(small, tmp_path / "out"))
    assert "2 pieces were measured before" in done.out and len({*asked}) == len(asked) == 3
    assert cells(tmp_path / "out") == cells(tmp_path / "undisturbed")
    done = cli(evaluate.main, *options(small, tmp_path / "out"))
    assert "unknown, unknown, automatic, mine: taken from" in done.out and len(asked) == 3
    # Another network among those that might be taken: measured again, though none of these images is for it.
    most = 6
    ship_network(shipped, "narrow-gray", save_network(tmp_path / "narrow", "gaussian:54-55", 1))
    assert "3 images in 3 pieces" in cli(evaluate.main, *options(small, tmp_path / "out")).out


def test_the_digest_is_of_all_weights_and_of_which_networks_are_withdrawn(shipped, tmp_path):
    digests = [automatic_methods("cpu")[0].digest]
    for name, run_dir, words in (
        ("universal-color", save_network(tmp_path / "1", seed=1), {}),
        ("universal-gray", save_network(tmp_path / "2", channels=1, seed=1), {}),
        ("universal-gray", save_network(tmp_path / "2", channels=1, seed=1), {"withdrawn": "for a test"}),
        ("instrument-color", save_network(tmp_path / "3", "gaussian:1-75", condition="map", seed=1), {}),
    ):
        ship_network(shipped, name, run_dir, **words)
        digests.append(automatic_methods("cpu")[0].digest)
    assert len({*digests}) == 5 and automatic_methods("cpu")[0].digest == digests[-1]
    several = automatic_methods("cpu", uncertainty=True, ensemble=True)
    assert len({digests[-1], *(each.digest for each in several)}) == 3


def test_what_can_not_be_measured_so_is_refused_before_anything_is(cli, shipped, small, tmp_path):
    out = tmp_path / "out"
    clean, noisy = f"--benchmark=mine={small / 'clean'}", f"--noisy=mine={small / 'noisy'}"

    def said(*words: str) -> str:
        return cli(evaluate.main, *words, f"--out={out}", "--no-wandb").error()

    assert "--checkpoint is missing" in said(clean)
    assert "--checkpoint is missing" in said(clean, noisy, "--noise=gaussian:20")
    assert "other has clean images alone" in said(clean, noisy, f"--benchmark=other={small / 'clean'}")
    for level in ("known", "both"):
        assert f"--level is {level}, but no --noise and no --checkpoint" in said(clean, noisy, f"--level={level}")
    (tmp_path / "lone").mkdir()
    Image.new("L", (30, 40)).save(tmp_path / "lone/a.png")
    assert "a.png: the image has 30 x 40 pixels" in said(f"--noisy=gray={tmp_path / 'lone'}")
    for path in shipped.glob("*-gray*"):
        path.unlink()
    Image.new("L", (50, 40)).save(tmp_path / "lone/a.png")
    assert "gray: no checkpoint for gray images" in said(f"--noisy=gray={tmp_path / 'lone'}")
    for path in shipped.iterdir():
        path.unlink()
    assert "no network comes with this installation" in said(clean, noisy)
    assert not out.exists()


def test_noisy_files_without_truth_are_denoised_and_shown(cli, shipped, small, tmp_path):
    done = cli(evaluate.main, f"--noisy=mine={small / 'noisy'}", f"--out={tmp_path / 'out'}", "--no-wandb")
    assert done.code == 0, done.err
    torch.set_num_threads(1)
    (cell,) = cells(tmp_path / "out")
    assert cell["psnr_db"] is None and all(row["network"] for row in cell["images"])
    (method,) = automatic_methods("cpu")
    found = method.of_file(ImageFile(small / "noisy", "astronaut.png", 0), NO_SCALE)
    picture = np.asarray(Image.open(tmp_path / "out/pictures/unknown-unknown/mine/astronaut-denoised.png"))
    np.testing.assert_array_equal(picture, eight_bits(found.estimate))
    assert "below the noisy one" not in done.out
