"""The evaluator: fair shares, tiles no one can tell from the whole, noise that depends on the image alone, and a table
one can recompute by hand.
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

from n2s_dist import checkpoint, evaluate
from n2s_dist.denoise import TILE, Reach
from n2s_dist.evaluate import MEASURES, format_table, parse_benchmarks, published
from n2s_dist.images import ImageFile, list_images
from n2s_dist.measure import Bench, image_row
from n2s_dist.shares import Piece, Task, cut, list_tasks, share_out

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


def sized(benchmark: str, sizes: list[tuple[int, int]]) -> list[Task]:
    return [Task(benchmark, ImageFile(Path(benchmark), f"{i:03d}.png", 1), *size) for i, size in enumerate(sizes)]


REACH = Reach(144, 8)  # of the network in most configs
BENCHMARKS = [
    *sized("cbsd68", [(321, 481), (481, 321)] * 34),
    *sized("kodak24", [(500, 500)] * 24),
    *sized("set12", [(256, 256)] * 7 + [(512, 512)] * 5),
    *sized("mixed", np.random.default_rng(0).integers(100, 630, (40, 2)).tolist()),
]
LARGE = sized("large", [(4000, 6000)])
DIV2K = sized("div2k_valid", [(1404, 2040), (1356, 2040), (2040, 1152)] * 4)


def pieces_of(tasks: list[Task]) -> list[Piece]:
    return [piece for task in tasks for piece in cut(task, REACH)]


def costs(shares: list[list[Piece]]) -> list[int]:
    return [sum(piece.cost for piece in share) for share in shares]


SETS = {
    "cbsd68": BENCHMARKS[:68],
    "kodak24": BENCHMARKS[68:92],
    "all": BENCHMARKS,
    "straggler": [*BENCHMARKS, *LARGE],
    "large alone": LARGE,
    "div2k": DIV2K,
}


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", SETS)
def test_shares_cover_every_piece_once_and_none_is_above_the_mean_and_one_piece(name, world_size):
    pieces = pieces_of(SETS[name])
    shares = share_out(pieces, world_size)
    assert len(shares) == world_size
    assert sorted(map(repr, (piece for share in shares for piece in share))) == sorted(map(repr, pieces))
    assert max(costs(shares)) <= np.mean(costs(shares)) + max(piece.cost for piece in pieces)


@pytest.mark.parametrize("name", SETS)
def test_the_largest_of_four_shares_is_within_a_tenth_of_the_mean(name):
    shares = costs(share_out(pieces_of(SETS[name]), 4))
    assert max(shares) <= 1.1 * np.mean(shares)


def test_one_large_image_among_many_holds_nobody_up():
    """In one piece it alone would be four times a rank's fair share of the benchmarks beside it."""
    whole = 4000 * 6000
    assert whole > 4 * sum(task.height * task.width for task in BENCHMARKS) / 4
    shares = share_out(pieces_of([*BENCHMARKS, *LARGE]), 4)
    assert max(costs(shares)) < whole
    assert sum(any(piece.task.benchmark == "large" for piece in share) for share in shares) >= 2


def test_few_ranks_read_the_same_large_image():
    """Every rank that has a tile of an image decodes and corrupts all of it."""
    shares = share_out(pieces_of(DIV2K), 4)
    assert sum(len({piece.task for piece in share}) for share in shares) <= len(DIV2K) + 2 * 4


def test_shares_do_not_depend_on_the_listing_and_may_be_empty():
    pieces = pieces_of([*BENCHMARKS, *LARGE])
    assert share_out(pieces[::-1], 3) == share_out(pieces, 3)
    assert sorted(len(share) for share in share_out(pieces_of(BENCHMARKS[:2]), 4)) == [0, 0, 1, 1]


def test_tasks_know_their_sizes(photographs):
    assert {task.size for task in list_tasks({"a": photographs})} == {(160, 192)}


@pytest.mark.parametrize("size", [(4000, 6000), (769, 768), (5, 200_000), (768 * 30 - 740, 100)])
def test_tiles_cover_every_pixel_once_at_a_bounded_cost(size):
    (task,) = sized("a", [size])
    pieces, seen = cut(task, REACH), np.zeros(size, np.uint8)
    assert len(pieces) > 1
    for piece in pieces:
        piece.box.of_array(seen)[:] += 1
        assert piece.cost <= (TILE + 2 * (144 + 5 + 8)) ** 2
    assert (seen == 1).all()


def test_images_up_to_a_tiles_pixels_stay_whole():
    for size in [(TILE, TILE), (512, 768), (1, 500_000)]:
        (piece,) = cut(sized("a", [size])[0], REACH)
        assert piece.is_whole and piece.cost == size[0] * size[1]


# --- tiles ------------------------------------------------------------------------------------------------


def measured(trained: Path, task: Task, pieces: list[Piece], pictures: Path | None = None) -> dict:
    """An image's row from its pieces, measured backwards by two benches as on two ranks."""
    loaded = checkpoint.load(checkpoint.locate(trained))
    sums = []
    for share in (pieces[::2], pieces[1::2]):
        bench = Bench(loaded.model, loaded.model.noise, loaded.channels, 0, pictures, share)
        sums += [bench.measure(piece) for piece in share[::-1]]
    if pictures and len(pieces) > 1:
        bench.join(pieces)
    return image_row(task, loaded.channels, sums)


@pytest.mark.parametrize("tile", [16, 32, 64])
def test_an_image_in_tiles_gets_the_row_and_the_pictures_of_the_whole(trained, photographs, tmp_path, tile):
    """Of 101 x 67 pixels, the smallest tiles with last rows narrower than SSIM's window."""
    Image.open(photographs / "coffee.png").crop((0, 0, 101, 67)).save(tmp_path / "odd.png")
    task = Task("a", list_images(tmp_path)[0], 67, 101)
    tiles = cut(task, Reach.of(checkpoint.load(checkpoint.locate(trained)).model), tile)
    assert len(tiles) >= 2
    whole = measured(trained, task, cut(task, REACH), tmp_path / "whole")
    parts = measured(trained, task, tiles, tmp_path / "tiles")
    assert parts["psnr_noisy_db"] == pytest.approx(whole["psnr_noisy_db"], abs=1e-12)
    assert parts["psnr_db"] == pytest.approx(whole["psnr_db"], abs=1e-4)
    assert parts["psnr_uint8_db"] == pytest.approx(whole["psnr_uint8_db"], abs=1e-2)
    assert parts["ssim"] == pytest.approx(whole["ssim"], abs=1e-6)
    found = {path.name: np.asarray(Image.open(path)).astype(int) for path in (tmp_path / "tiles/a").iterdir()}
    assert found.keys() == {"odd-clean.png", "odd-noisy.png", "odd-denoised.png"}
    for name, pixels in found.items():
        assert np.abs(pixels - np.asarray(Image.open(tmp_path / "whole/a" / name))).max() <= 1


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
        batch = torch.from_numpy(noisy.astype(np.float32)).permute(2, 0, 1)[None]
        estimate = model.denoise(batch, model.noise)[0]
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
