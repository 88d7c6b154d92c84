"""The evaluator: tiles no one can tell from the whole, noise that depends on the image alone, and a table one can
recompute by hand.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from support.denoisers import calibration, save_network, ship_network

from n2s_dist import evaluate
from n2s_dist.evaluation.benchmarks import Benchmark, Task
from n2s_dist.evaluation.methods import of_network
from n2s_dist.evaluation.partition import WorkUnit, cut
from n2s_dist.evaluation.suite import Cell
from n2s_dist.evaluation.worker import EvaluationWorker, image_row
from n2s_dist.images.eight_bit import to_uint8
from n2s_dist.images.files import list_images
from n2s_dist.inference.noise_estimation import estimate_noise
from n2s_dist.inference.posterior_samples import draw_samples
from n2s_dist.inference.tiling import ReceptiveField, denoise_whole
from n2s_dist.inference.uncertainty import posterior_tiled
from n2s_dist.metrics.base import BUILT_IN
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.models.self_ensemble import SelfEnsemble
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.specification import format_noise
from n2s_dist.utils.hashing import frozen_rng, name_key

MEASURES = tuple(measure.key for measure in BUILT_IN)
pytestmark = pytest.mark.usefixtures("cpu")

PICTURES = "gaussian_25-known"  # their folder, of the network that most tests evaluate


def read(folder: Path) -> dict:
    """results.json, strictly: NaN and Infinity are not JSON."""
    text = (folder / "results.json").read_text()
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def cell_of(results: dict, benchmark: str) -> dict:
    """The one cell of a benchmark."""
    (cell,) = [cell for cell in results["cells"] if cell["benchmark"] == benchmark]
    return cell


def rows(results: dict, benchmark: str) -> dict[str, dict]:
    return {row["name"]: row for row in cell_of(results, benchmark)["images"]}


@pytest.fixture
def run(cli, trained, tmp_path):
    """Evaluate the trained run, into tmp_path/out unless told otherwise."""

    def evaluated_with(*arguments: object, out: str = "out"):
        return cli(evaluate.main, f"--checkpoint={trained}", f"--out={tmp_path / out}", "--no-wandb", *arguments)

    return evaluated_with


# --- tiles ------------------------------------------------------------------------------------------------


def measured(trained: Path, task: Task, pieces: list[WorkUnit], pictures: Path) -> dict:
    """An image's row from its pieces, measured backwards by two benches as on two ranks."""
    denoiser = of_network(checkpoint.load(checkpoint.locate(trained)))
    cells = [Cell("gaussian:25", "known", "n2s", "a", Benchmark("a", "float", (task,), 3), denoiser)]
    sums = []
    for share in (pieces[::2], pieces[1::2]):
        bench = EvaluationWorker(cells, 0, share, None, pictures, {0})
        sums += [bench.measure(piece) for piece in share[::-1]]
    if len(pieces) > 1:
        bench.join(pieces)
    return image_row(task, sums)


@pytest.mark.parametrize("tile", [16, 32, 64])
def test_an_image_in_tiles_gets_the_row_and_the_pictures_of_the_whole(trained, photographs, tmp_path, tile):
    """Of 101 x 67 pixels, the smallest tiles with last rows narrower than SSIM's window."""
    Image.open(photographs / "coffee.png").crop((0, 0, 101, 67)).save(tmp_path / "odd.png")
    task = Task("a", list_images(tmp_path)[0], 67, 101, 3)
    tiles = cut(task, ReceptiveField.of(checkpoint.load(checkpoint.locate(trained)).model), tile)
    assert len(tiles) >= 2
    whole = measured(trained, task, cut(task, None), tmp_path / "whole")
    parts = measured(trained, task, tiles, tmp_path / "tiles")
    assert parts["psnr_noisy_db"] == pytest.approx(whole["psnr_noisy_db"], abs=1e-12)
    assert parts["psnr_db"] == pytest.approx(whole["psnr_db"], abs=1e-4)
    assert parts["psnr_uint8_db"] == pytest.approx(whole["psnr_uint8_db"], abs=1e-2)
    assert parts["ssim"] == pytest.approx(whole["ssim"], abs=1e-6)
    found = {
        path.name: np.asarray(Image.open(path)).astype(int) for path in (tmp_path / f"tiles/{PICTURES}/a").iterdir()
    }
    assert found.keys() == {"odd-clean.png", "odd-noisy.png", "odd-denoised.png"}
    for name, pixels in found.items():
        assert np.abs(pixels - np.asarray(Image.open(tmp_path / f"whole/{PICTURES}/a" / name))).max() <= 1


# --- rows -----------------------------------------------------------------------------------------------


def test_a_row_can_be_recomputed_by_hand(evaluated, trained, photographs):
    """Noise from a Philox generator keyed by the seed and 64-bit hashes of the two names; PSNR by scikit-image."""
    row = rows(read(evaluated), "photographs")["coffee.png"]
    pixels = np.asarray(Image.open(photographs / "coffee.png"))
    clean = pixels / 255
    keys = [
        int.from_bytes(hashlib.blake2b(w, digest_size=8).digest(), "little") for w in (b"photographs", b"coffee.png")
    ]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((0, *keys))))
    noisy = clean + 25 / 255 * rng.standard_normal(clean.shape)
    model = checkpoint.load(checkpoint.locate(trained)).model
    with torch.no_grad():
        batch = torch.from_numpy(noisy.astype(np.float32)).permute(2, 0, 1)[None]
        estimate = model.denoise(batch, model.noise.single)[0]
    estimate = estimate.permute(1, 2, 0).clamp(0, 1).double().numpy()
    assert row["psnr_noisy_db"] == pytest.approx(peak_signal_noise_ratio(clean, noisy, data_range=1), abs=1e-5)
    assert row["psnr_db"] == pytest.approx(peak_signal_noise_ratio(clean, estimate, data_range=1), abs=1e-4)
    rounded = np.round(estimate * 255).astype(np.uint8)
    assert row["psnr_uint8_db"] == pytest.approx(peak_signal_noise_ratio(pixels, rounded), abs=1e-3)
    assert (row["height"], row["width"]) == pixels.shape[:2]


def test_results_hold_what_they_promise_and_means_are_means_of_rows(evaluated, photographs):
    results = read(evaluated)
    assert results.keys() == {"seed", "versions", "hardware", "protocol", "measures", "cells"} and results["seed"] == 0
    assert [each["key"] for each in results["measures"]] == list(MEASURES)
    assert results["hardware"].keys() == {"device", "processor", "cores"} and results["hardware"]["device"] == "cpu"
    assert results["protocol"].startswith("float: ")
    assert [cell["benchmark"] for cell in results["cells"]] == ["photographs", "small"]
    for cell, count in zip(results["cells"], (5, 2), strict=True):
        images = cell["images"]
        assert (cell["noise"], cell["level"], cell["method"], cell["protocol"]) == (
            "gaussian:25",
            "known",
            "n2s",
            "float",
        )
        assert cell["samples_seen"] == 160 and cell["checkpoint"].endswith("samples-000000160")
        assert cell["paper_db"] is None and cell["posterior"] is None
        assert cell["num_images"] == len(images) == count
        for row in images:
            assert row.keys() == {"name", "height", "width", "estimated", *MEASURES} and row["estimated"] is None
        assert [row["name"] for row in images] == sorted(row["name"] for row in images)
        for key in MEASURES:
            assert cell[key] == pytest.approx(sum(row[key] for row in images) / count, rel=1e-12)
    assert {row["name"] for row in results["cells"][0]["images"]} == {path.name for path in photographs.iterdir()}


def test_an_images_row_depends_on_nothing_but_its_names_and_the_seed(evaluated, run, photographs, tmp_path):
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for name in ("rocket.png", "chelsea.png"):
        shutil.copy(photographs / name, fewer / name)
    arguments = [f"--benchmark=other={fewer}", f"--benchmark=photographs={fewer}"]
    assert run(*arguments).code == run(*arguments, "--seed=1", out="seed").code == 0
    before, after, seed = read(evaluated), read(tmp_path / "out"), read(tmp_path / "seed")
    for name in ("rocket.png", "chelsea.png"):
        assert rows(after, "photographs")[name] == rows(before, "photographs")[name]
        for changed in (rows(after, "other")[name], rows(seed, "photographs")[name]):
            assert changed["psnr_noisy_db"] != rows(before, "photographs")[name]["psnr_noisy_db"]


def test_the_pictures_are_the_images_that_were_measured(evaluated, photographs):
    row = rows(read(evaluated), "photographs")["rocket.png"]
    clean, noisy, denoised = (
        np.asarray(Image.open(evaluated / "pictures" / PICTURES / "photographs" / f"rocket-{kind}.png"))
        for kind in ("clean", "noisy", "denoised")
    )
    np.testing.assert_array_equal(clean, np.asarray(Image.open(photographs / "rocket.png")))
    assert peak_signal_noise_ratio(clean, denoised) == pytest.approx(row["psnr_uint8_db"], abs=1e-9)
    assert (noisy != clean).mean() > 0.9


def test_an_image_smaller_than_ssims_window_leaves_valid_json(run, photographs, tmp_path):
    folder = tmp_path / "specks"
    folder.mkdir()
    Image.open(photographs / "coffee.png").crop((0, 0, 9, 7)).save(folder / "speck.png")
    assert run(f"--benchmark=specks={folder}").code == 0
    assert cell_of(read(tmp_path / "out"), "specks")["psnr_db"] > 5


def test_another_level_of_the_family_may_be_asked_for(run, photographs, tmp_path):
    """-20 log10(15 / 255) = 24.61 dB is where the noisy images start."""
    assert run(f"--benchmark=a={photographs}", "--noise=gaussian:15", "--which=best").code == 0
    (cell,) = read(tmp_path / "out")["cells"]
    assert cell["noise"] == "gaussian:15" and cell["psnr_noisy_db"] == pytest.approx(24.61, abs=0.05)


# --- more than one pass -----------------------------------------------------------------------------------


@pytest.fixture
def one_photograph(photographs, tmp_path) -> Path:
    folder = tmp_path / "one"
    folder.mkdir()
    Image.open(photographs / "coffee.png").crop((0, 0, 72, 64)).save(folder / "coffee.png")
    return folder


def test_ensemble_deviations_and_estimated_levels_are_what_their_functions_give(cli, one_photograph, tmp_path):
    """For a network that was never trained: the noisy image is made by hand, and each function called on it."""
    run_dir = save_network(tmp_path / "run")
    arguments = [f"--checkpoint={run_dir}", f"--benchmark=one={one_photograph}", f"--out={tmp_path / 'out'}"]
    arguments += ["--noise=gaussian:25", "--level=both", "--ensemble", "--uncertainty", "--pictures", "--samples=2"]
    assert cli(evaluate.main, *arguments, "--no-wandb").code == 0
    cells = {(cell["method"], cell["level"]): cell for cell in read(tmp_path / "out")["cells"]}
    assert cells.keys() == {(method, level) for method in ("n2s", "n2s+ensemble") for level in ("known", "unknown")}

    model, sigma = checkpoint.load(checkpoint.locate(run_dir)).model, Gaussian(25 / 255)
    clean = np.asarray(Image.open(one_photograph / "coffee.png")) / 255
    noisy = sigma.corrupt(clean, frozen_rng(0, name_key("one"), name_key("coffee.png"))).astype(np.float32)
    estimated = estimate_noise(model, noisy, "gaussian")
    for level, noise in (("known", sigma), ("unknown", estimated)):
        posterior = posterior_tiled(model, noisy, noise)
        expected = {"n2s": posterior.estimate, "n2s+ensemble": denoise_whole(SelfEnsemble(model).eval(), noisy, noise)}
        for method, estimate in expected.items():
            (row,) = cells[method, level]["images"]
            assert row["psnr_db"] == pytest.approx(psnr_db(clean, np.clip(estimate, 0, 1)), abs=1e-9)
            assert row["estimated"] == (format_noise(noise) if level == "unknown" else None)
        figures = calibration(clean, posterior)
        assert cells["n2s", level]["posterior"] == pytest.approx(figures)
        assert not cells["n2s+ensemble", level]["posterior"]
        folder = tmp_path / f"out/pictures/gaussian_25-{level}/one"
        assert {path.stem.partition("-")[2] for path in folder.iterdir()} == {
            "clean", "noisy", "denoised", "std", "sample-1", "sample-2",
        }  # fmt: skip
        samples = to_uint8(draw_samples(model, noisy, noise, posterior.estimate, 2))
        for number, sample in enumerate(samples, 1):
            assert (np.asarray(Image.open(folder / f"coffee-sample-{number}.png")) == sample).all()
        shown = np.asarray(Image.open(folder / "coffee-std.png"))
        np.testing.assert_allclose(shown / 255 / 8, np.clip(posterior.std, 0, 0.125), atol=1 / 255 / 8)
    assert cells["n2s", "known"]["psnr_db"] != cells["n2s+ensemble", "known"]["psnr_db"]


@pytest.mark.parametrize(
    ("noise", "words", "reason"),
    [
        ("gaussian:5-50", ["--samples=2"], "--samples draws pictures: give --pictures as well"),
        ("gaussian:5-50", ["--samples=-1", "--pictures"], "-1 samples are asked for"),
        ("gaussian:25", ["--samples=2", "--pictures"], "samples take a network of many levels"),
    ],
)
def test_samples_that_can_not_be_are_refused_at_once(cli, one_photograph, tmp_path, noise, words, reason):
    run_dir = save_network(tmp_path / "run", noise)
    arguments = [f"--checkpoint={run_dir}", f"--benchmark=one={one_photograph}", "--noise=gaussian:25", *words]
    assert reason in cli(evaluate.main, *arguments, f"--out={tmp_path / 'out'}").error()
    assert not (tmp_path / "out").exists()


def test_photographs_of_unknown_noise_are_denoised_by_what_is_found(cli, one_photograph, tmp_path):
    run_dir = save_network(tmp_path / "run")
    arguments = [f"--checkpoint={run_dir}", f"--noisy=real={one_photograph}", f"--out={tmp_path / 'out'}", "--no-wandb"]
    assert cli(evaluate.main, *arguments, "--noise=unknown", "--level=unknown").code == 0
    (cell,) = read(tmp_path / "out")["cells"]
    model = checkpoint.load(checkpoint.locate(run_dir)).model
    pixels = (np.asarray(Image.open(one_photograph / "coffee.png")) / 255).astype(np.float32)
    assert cell["images"][0]["estimated"] == format_noise(estimate_noise(model, pixels))
    assert cell["noise"] == "unknown" and cell["psnr_db"] is None
    assert (tmp_path / "out/pictures/unknown-unknown/real/coffee-denoised.png").exists()


def test_an_image_too_small_to_estimate_from_is_named(cli, photographs, tmp_path):
    (tmp_path / "images").mkdir()
    Image.open(photographs / "coffee.png").crop((0, 0, 30, 30)).save(tmp_path / "images/small.png")
    arguments = [f"--checkpoint={save_network(tmp_path / 'run')}", f"--benchmark=a={tmp_path / 'images'}"]
    arguments += [f"--out={tmp_path / 'out'}", "--noise=gamma:50", "--level=unknown", "--no-wandb"]
    assert "images/small.png: the image has 30 x 30 pixels" in cli(evaluate.main, *arguments).error()


def test_a_suite_takes_the_shipped_networks_where_none_is_given(cli, photographs, tmp_path, monkeypatch):
    """One of them stands in for the package's; its name is what results say."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    ship_network(tmp_path, "mine", save_network(tmp_path / "run", channels=1))
    (tmp_path / "set12").mkdir()
    for number in range(12):
        Image.new("L", (16, 16), 20 * number).save(tmp_path / f"set12/{number:02d}.png")
    arguments = ["--suite=table2", f"--data={tmp_path}", "--level=known", f"--out={tmp_path / 'out'}", "--no-wandb"]
    assert cli(evaluate.main, *arguments).code == 0
    names = [cell["checkpoint"] for cell in read(tmp_path / "out")["cells"] if "missing" not in cell]
    assert names == ["mine"] * 6


# --- what users do wrong --------------------------------------------------------------------------------


def test_wrong_folders_families_and_seeds_are_named(run, photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    here = f"--benchmark=a={photographs}"
    assert "empty holds no images" in run(f"--benchmark=a={tmp_path / 'empty'}").error()
    assert "nowhere" in run(f"--benchmark=a={tmp_path / 'nowhere'}").error()
    line = run(here, "--noise=poisson:0.01").error()
    assert "poisson:0.01" in line and "gaussian:25" in line
    assert "pink:3" in run(here, "--noise=pink:3").error()
    assert "--seed is -1" in run(here, "--seed=-1").error()
    assert not (tmp_path / "out").exists()


def test_a_gray_image_and_a_color_checkpoint_do_not_match(run, photographs, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(photographs, folder)
    Image.open(photographs / "coffee.png").convert("L").save(folder / "gray.png")
    line = run(f"--benchmark=mixed={folder}").error()
    assert "gray.png is gray" in line and "trained on color" in line
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("size", "options", "words"),
    [
        ((30, 40), ("--level=unknown",), "z.png: the image has 30 x 40 pixels: to estimate its noise takes 32 x 32"),
        ((7, 40), ("--bm3d",), "z.png has 7 x 40 pixels: bm3d takes 8 x 8 or more"),
    ],
)
def test_images_that_can_not_be_measured_are_found_before_any_is(cli, photographs, tmp_path, size, options, words):
    """By their headers. The last of them is one: had the others been denoised, the journal would hold them."""
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b"):
        Image.open(photographs / "coffee.png").crop((0, 0, 40, 40)).save(folder / f"{name}.png")
    Image.open(photographs / "coffee.png").crop((0, 0, *size)).save(folder / "z.png")
    arguments = [f"--checkpoint={save_network(tmp_path / 'run')}", f"--benchmark=a={folder}", f"--out={out}"]
    said = cli(evaluate.main, *arguments, "--noise=gamma:50", "--no-wandb", "--device=cpu", *options).error()
    assert f"{folder}/{words}" in said
    assert not [path for path in out.rglob("*") if path.suffix in (".jsonl", ".json", ".png")]
    (folder / "z.png").write_bytes(b"no image")
    assert "z.png is not a readable image" in cli(evaluate.main, *arguments, "--noise=gamma:50", "--no-wandb").error()


def test_a_broken_image_is_named(run, photographs, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "half.png").write_bytes((photographs / "coffee.png").read_bytes()[:5000])
    assert "half.png" in run(f"--benchmark=broken={folder}").error()


def test_a_missing_checkpoint_is_named(cli, photographs, tmp_path):
    arguments = [f"--benchmark=a={photographs}", f"--out={tmp_path / 'out'}"]
    assert str(tmp_path / "none") in cli(evaluate.main, f"--checkpoint={tmp_path / 'none'}", *arguments).error()
