"""The evaluator: fair shares, noise that depends on the image alone, and a table one can recompute by hand."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from n2s_dist import checkpoint, evaluate
from n2s_dist.evaluate import MEASURES, Task, format_table, list_tasks, parse_benchmarks, published, share_out
from n2s_dist.images import ImageFile

pytestmark = pytest.mark.usefixtures("cpu")


def read(folder: Path) -> dict:
    """results.json, strictly: NaN and Infinity are not JSON."""
    text = (folder / "results.json").read_text()
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def rows(results: dict, benchmark: str) -> dict[str, dict]:
    return {row["name"]: row for row in results["benchmarks"][benchmark]["images"]}


@pytest.fixture
def run(cli, trained, tmp_path):
    """Evaluate the trained run, into tmp_path/out unless told otherwise."""

    def evaluated_with(*arguments: object, out: str = "out"):
        return cli(evaluate.main, f"--checkpoint={trained}", f"--out={tmp_path / out}", "--no-wandb", *arguments)

    return evaluated_with


# --- shares -----------------------------------------------------------------------------------------------


def sized(benchmark: str, pixels: list[int]) -> list[Task]:
    return [Task(benchmark, ImageFile(Path(benchmark), f"{i:03d}.png", 1), n) for i, n in enumerate(pixels)]


BENCHMARKS = [
    *sized("cbsd68", [481 * 321] * 68),
    *sized("kodak24", [500 * 500] * 24),
    *sized("set12", [256 * 256] * 7 + [512 * 512] * 5),
    *sized("mixed", np.random.default_rng(0).integers(10_000, 400_000, 40).tolist()),
]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_shares_cover_every_image_once_and_balance(world_size):
    shares = share_out(BENCHMARKS, world_size)
    assert len(shares) == world_size
    assert sorted(map(repr, (task for share in shares for task in share))) == sorted(map(repr, BENCHMARKS))
    loads = [sum(task.pixels for task in share) for share in shares]
    assert max(loads) <= 1.1 * min(loads)


def test_shares_do_not_depend_on_the_listing_and_may_be_empty():
    assert share_out(BENCHMARKS[::-1], 3) == share_out(BENCHMARKS, 3)
    assert sorted(len(share) for share in share_out(BENCHMARKS[:2], 4)) == [0, 0, 1, 1]


def test_tasks_know_their_sizes(photographs):
    assert {task.pixels for task in list_tasks({"a": photographs})} == {160 * 192}


# --- rows -----------------------------------------------------------------------------------------------


def test_a_row_can_be_recomputed_by_hand(evaluated, trained, photographs):
    """Noise from a Philox generator keyed by the seed and 64-bit hashes of the two names; PSNR by scikit-image."""
    row = rows(read(evaluated), "cbsd68")["coffee.png"]
    pixels = np.asarray(Image.open(photographs / "coffee.png"))
    clean = pixels / 255
    keys = [int.from_bytes(hashlib.blake2b(w, digest_size=8).digest(), "little") for w in (b"cbsd68", b"coffee.png")]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((0, *keys))))
    noisy = clean + 25 / 255 * rng.standard_normal(clean.shape)
    model = checkpoint.load(checkpoint.locate(trained)).model
    with torch.no_grad():
        estimate = model.denoise(torch.from_numpy(noisy.astype(np.float32)).permute(2, 0, 1)[None])[0]
    estimate = estimate.permute(1, 2, 0).clamp(0, 1).double().numpy()
    assert row["psnr_noisy_db"] == pytest.approx(peak_signal_noise_ratio(clean, noisy, data_range=1), abs=1e-5)
    assert row["psnr_db"] == pytest.approx(peak_signal_noise_ratio(clean, estimate, data_range=1), abs=1e-4)
    rounded = np.round(estimate * 255).astype(np.uint8)
    assert row["psnr_uint8_db"] == pytest.approx(peak_signal_noise_ratio(pixels, rounded), abs=1e-3)
    assert (row["height"], row["width"]) == pixels.shape[:2]


def test_results_hold_what_they_promise_and_means_are_means_of_rows(evaluated, photographs):
    results = read(evaluated)
    assert list(results["benchmarks"]) == ["cbsd68", "small"]
    assert results["noise"] == "gaussian:25" and results["samples_seen"] == 160 and results["seed"] == 0
    for name, count in (("cbsd68", 5), ("small", 2)):
        benchmark = results["benchmarks"][name]
        images = benchmark["images"]
        assert benchmark["num_images"] == len(images) == count
        for row in images:
            assert {"name", "protocol", *MEASURES} <= row.keys() and row["protocol"]
        assert [row["name"] for row in images] == sorted(row["name"] for row in images)
        for key in ("psnr_db", "psnr_uint8_db", "ssim", "psnr_noisy_db"):
            assert benchmark[key] == pytest.approx(sum(row[key] for row in images) / count, rel=1e-12)
    assert {row["name"] for row in results["benchmarks"]["cbsd68"]["images"]} == {p.name for p in photographs.iterdir()}


def test_an_images_row_depends_on_nothing_but_its_names_and_the_seed(evaluated, run, photographs, tmp_path):
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for name in ("rocket.png", "chelsea.png"):
        shutil.copy(photographs / name, fewer / name)
    arguments = [f"--benchmark=other={fewer}", f"--benchmark=cbsd68={fewer}"]
    assert run(*arguments).code == run(*arguments, "--seed=1", out="seed").code == 0
    before, after, seed = read(evaluated), read(tmp_path / "out"), read(tmp_path / "seed")
    for name in ("rocket.png", "chelsea.png"):
        assert rows(after, "cbsd68")[name] == rows(before, "cbsd68")[name]
        for changed in (rows(after, "other")[name], rows(seed, "cbsd68")[name]):
            assert changed["psnr_noisy_db"] != rows(before, "cbsd68")[name]["psnr_noisy_db"]


def test_the_pictures_are_the_images_that_were_measured(evaluated, photographs):
    row = rows(read(evaluated), "cbsd68")["rocket.png"]
    clean, noisy, denoised = (
        np.asarray(Image.open(evaluated / "pictures" / "cbsd68" / f"rocket-{kind}.png"))
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
    assert read(tmp_path / "out")["benchmarks"]["specks"]["psnr_db"] > 5


def test_another_level_of_the_family_may_be_asked_for(run, photographs, tmp_path):
    """-20 log10(15 / 255) = 24.61 dB is where the noisy images start."""
    assert run(f"--benchmark=cbsd68={photographs}", "--noise=gaussian:15", "--which=best").code == 0
    results = read(tmp_path / "out")
    assert results["noise"] == "gaussian:15"
    assert results["benchmarks"]["cbsd68"]["psnr_noisy_db"] == pytest.approx(24.61, abs=0.05)


# --- the table --------------------------------------------------------------------------------------------


def test_the_table_shows_the_papers_figures_and_fits_a_terminal(evaluated):
    """Kim & Ye's Table 2: 30.85 dB for CBSD68 at sigma 25; the public reproduction's 23.04 beside it."""
    results = read(evaluated)
    table = format_table(results)
    (line,) = [line for line in table.splitlines() if line.startswith("cbsd68")]
    mean = results["benchmarks"]["cbsd68"]["psnr_db"]
    assert f"{mean:.2f}" in line and "30.85" in line and f"{mean - 30.85:+.2f}" in line and "23.04" in line
    assert max(map(len, table.splitlines())) <= 80


def test_the_widest_figures_still_fit(evaluated):
    results = read(evaluated)
    row = {**results["benchmarks"]["cbsd68"], "num_images": 10_000, "psnr_db": -100.0, "psnr_uint8_db": 100.0}
    results["benchmarks"] = {"a-benchmark-with-a-long-name": row, "x": {**row, "ssim": -0.1234}}
    table = format_table({**results, "samples_seen": 123_456_789_012})
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize(
    ("noise", "benchmark", "paper"),
    [
        ("gaussian:25", "cbsd68", 30.85),
        ("gaussian:50", "bsd68", 26.21),
        ("poisson:0.01", "set12", 31.58),
        ("poisson:0.05", "kodak24", 29.71),
        ("gamma:100", "kodak24", 34.22),
        ("gamma:50", "cbsd68", 31.05),
        ("gaussian:50", "kodak24", None),  # repeats the row above it in the paper, so it can't be used
        ("gaussian:30", "cbsd68", None),
        ("gaussian:25", "mine", None),
    ],
)
def test_published_figures(noise, benchmark, paper):
    assert published(noise, benchmark).get("paper_db") == paper


# --- what users do wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["cbsd68", "=folder", "cbsd68=", ""])
def test_a_benchmark_that_is_no_pair_is_refused(run, word):
    assert f"--benchmark {word}" in run(f"--benchmark={word}").error()


def test_a_benchmark_given_twice_is_refused(run, photographs):
    assert "twice" in run(f"--benchmark=a={photographs}", f"--benchmark=a={photographs}").error()


def test_a_folder_may_have_an_equals_sign():
    assert parse_benchmarks(["a=b=c"]) == {"a": Path("b=c")}


def test_wrong_folders_families_and_seeds_are_named(run, photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    here = f"--benchmark=cbsd68={photographs}"
    assert "empty holds no images" in run(f"--benchmark=a={tmp_path / 'empty'}").error()
    assert "nowhere" in run(f"--benchmark=a={tmp_path / 'nowhere'}").error()
    line = run(here, "--noise=poisson:0.01").error()
    assert "poisson:0.01" in line and "gaussian:25" in line
    assert "pink:3" in run(here, "--noise=pink:3").error()
    assert "--seed is -1" in run(here, "--seed=-1").error()
    assert not (tmp_path / "out").exists()


def test_a_grey_image_and_a_colour_checkpoint_do_not_match(run, photographs, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(photographs, folder)
    Image.open(photographs / "coffee.png").convert("L").save(folder / "grey.png")
    line = run(f"--benchmark=mixed={folder}").error()
    assert "grey.png is grey" in line and "trained on colour" in line
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_broken_image_is_named(run, photographs, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "half.png").write_bytes((photographs / "coffee.png").read_bytes()[:5000])
    assert "half.png" in run(f"--benchmark=broken={folder}").error()


def test_a_missing_checkpoint_is_named(cli, photographs, tmp_path):
    arguments = [f"--benchmark=a={photographs}", f"--out={tmp_path / 'out'}"]
    assert str(tmp_path / "none") in cli(evaluate.main, f"--checkpoint={tmp_path / 'none'}", *arguments).error()
