"""One pass over all cells: figures against scikit-image and closed forms, protocols, unknown levels, resumption."""

import json
import math
import shutil

import numpy as np
import pytest
import skimage.data
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from support.denoisers import Spy, cell, network

from n2s_dist.distributed.ranks import Ranks
from n2s_dist.evaluation.benchmarks import Benchmark
from n2s_dist.evaluation.methods import Estimator
from n2s_dist.evaluation.resume import FOLDER
from n2s_dist.evaluation.runner import sweep
from n2s_dist.evaluation.suite import Cell
from n2s_dist.images.eight_bit import to_uint8
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.specification import format_noise, parse_noise

pytestmark = pytest.mark.usefixtures("cpu")

NOISES = ("gaussian:25", "gaussian:50", "poisson:0.01", "poisson:0.05", "gamma:100", "gamma:50")


@pytest.fixture
def run(tmp_path):
    """Results of cells, as JSON has them."""

    def swept(cells: list[Cell], out: str = "out", **options: object) -> dict:
        return json.loads(json.dumps(sweep(cells, 0, Ranks(), tmp_path / out, **options), allow_nan=False))

    return swept


@pytest.fixture
def benchmark(photographs) -> Benchmark:
    return Benchmark.open("photographs", photographs, None, "float")


# --- figures ----------------------------------------------------------------------------------------------


def test_psnr_and_ssim_of_random_pairs_are_scikit_images(run, tmp_path):
    """Gray and color pairs as files; the denoiser blurs a little, as any function of the noisy image may."""
    rng = np.random.default_rng(0)
    for number in range(16):
        height, width = rng.integers(11, 60, 2)
        top, left = rng.integers(0, 200, 2)
        clean = skimage.data.astronaut()[top : top + height, left : left + width, : (1, 3)[number % 2]]
        noisy = to_uint8(clean / 255 + rng.normal(0, rng.uniform(0.01, 0.3), clean.shape))
        for kind, pixels in (("clean", clean), ("noisy", noisy)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels.squeeze()).save(tmp_path / kind / f"{number:03d}.png")
    source = Benchmark.open("pairs", tmp_path / "clean", tmp_path / "noisy", "float")
    spy = Spy(lambda noisy: (noisy + np.roll(noisy, 1, axis=0)) * np.float32(0.52))  # here and there above 1
    (results,) = run([cell(source, spy.as_method())])["cells"]
    assert results["num_images"] == 16 and len({(row["height"], row["width"]) for row in results["images"]}) > 14
    for row in results["images"]:
        clean, noisy = (np.asarray(Image.open(tmp_path / kind / row["name"])) / 255 for kind in ("clean", "noisy"))
        estimate = np.clip(spy.answer(noisy.astype(np.float32)), 0, 1).astype(np.float64)
        assert row["psnr_noisy_db"] == pytest.approx(peak_signal_noise_ratio(clean, noisy, data_range=1), abs=1e-6)
        assert row["psnr_db"] == pytest.approx(peak_signal_noise_ratio(clean, estimate, data_range=1), abs=1e-6)
        rounded = to_uint8(estimate)
        assert row["psnr_uint8_db"] == pytest.approx(peak_signal_noise_ratio(to_uint8(clean), rounded), abs=1e-6)
        expected = structural_similarity(
            clean, estimate, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1,
            channel_axis=2 if clean.ndim == 3 else None,
        )  # fmt: skip
        assert row["ssim"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("noise", NOISES[::2])
def test_the_noisy_psnr_is_its_closed_form(run, benchmark, photographs, noise):
    """-20 log10(25/255) = 20.17 dB at sigma 25; for Poisson and Gamma from each image's own moments.

    E (y - x)^2 is sigma^2, zeta x or x^2 / k. The mean over n values of it varies by about its own sqrt(2/n), and a
    little more for x that vary: 0.5 % of 92,160 values, 0.02 dB.
    """
    (results,) = run([cell(benchmark, Spy().as_method(), noise)])["cells"]
    family, level = noise.split(":")
    expected = []
    for row in results["images"]:
        clean = np.asarray(Image.open(photographs / row["name"])) / 255
        moment = {"gaussian": 1.0, "poisson": clean.mean(), "gamma": (clean**2).mean()}[family]
        factor = {"gaussian": (float(level) / 255) ** 2, "poisson": float(level), "gamma": 1 / float(level)}[family]
        expected.append(-10 * math.log10(moment * factor))
        assert row["psnr_noisy_db"] == pytest.approx(expected[-1], abs=0.12)
    assert results["psnr_noisy_db"] == pytest.approx(np.mean(expected), abs=0.04)
    if noise == "gaussian:25":
        assert results["psnr_noisy_db"] == pytest.approx(20.17, abs=0.03)


def test_an_image_without_any_error_has_no_psnr_and_does_not_spoil_the_mean(run, tmp_path):
    """Gamma noise leaves black pixels black; Infinity is not JSON."""
    (tmp_path / "images").mkdir()
    Image.new("L", (20, 20)).save(tmp_path / "images/black.png")
    Image.new("L", (20, 20), 128).save(tmp_path / "images/gray.png")
    source = Benchmark.open("a", tmp_path / "images", None, "float")
    (results,) = run([cell(source, Spy().as_method(), "gamma:100")])["cells"]
    black, gray = results["images"]
    assert black["psnr_noisy_db"] is black["psnr_db"] is None and black["ssim"] == pytest.approx(1)
    assert results["psnr_db"] == gray["psnr_db"] == pytest.approx(26, abs=0.5)


def test_cells_of_one_noise_see_the_same_noisy_image(run, benchmark):
    spies = [Spy(), Spy(), Spy()]
    cells = [cell(benchmark, spy.as_method(name)) for name, spy in zip(("n2s", "other"), spies, strict=False)]
    run([*cells, cell(benchmark, spies[2].as_method(), "gaussian:50")])
    first, second, stronger = ({noisy.tobytes() for noisy, _ in spy.seen} for spy in spies)
    assert first == second and len(first) == 5 and not first & stronger


# --- protocols --------------------------------------------------------------------------------------------


def test_8_bit_input_is_the_float_one_clipped_and_rounded(run, photographs, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(photographs / "coffee.png", tmp_path / "images")
    noisy, psnr = {}, {}
    for protocol in ("float", "uint8_input"):
        spy = Spy()
        source = Benchmark.open("a", tmp_path / "images", None, protocol)
        results = run([cell(source, spy.as_method(), "gaussian:50")], protocol)
        assert results["cells"][0]["protocol"] == protocol
        assert results["protocol"].startswith(f"{protocol}: ") and ";" not in results["protocol"]
        ((noisy[protocol], _),) = spy.seen
        psnr[protocol] = results["cells"][0]["psnr_noisy_db"]
    assert noisy["float"].min() < 0 and noisy["float"].max() > 1
    levels = noisy["uint8_input"].astype(np.float64) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    np.testing.assert_allclose(levels / 255, np.clip(noisy["float"], 0, 1), atol=0.5 / 255 + 1e-6)
    assert psnr["float"] == pytest.approx(14.15, abs=0.1) and psnr["uint8_input"] > psnr["float"] + 0.2


def test_photographs_without_truth_are_denoised_and_shown_and_get_no_psnr(run, photographs, tmp_path):
    source = Benchmark.open("real", None, photographs, "float")
    spy = Spy(lambda noisy: noisy / 2)
    results = run([cell(source, spy.as_method(), "gaussian:15")])["cells"][0]
    assert results["num_images"] == 5 and results["protocol"] == "uint8_input"
    for row in (results, *results["images"]):
        assert [row[key] for key in ("psnr_noisy_db", "psnr_db", "psnr_uint8_db", "ssim")] == [None] * 4
    folder = tmp_path / "out/pictures/gaussian_15-known/real"
    assert {path.name.split("-")[1] for path in folder.iterdir()} == {"noisy.png", "denoised.png"}
    pixels = np.asarray(Image.open(photographs / "coffee.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "coffee-noisy.png")), pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "coffee-denoised.png")), to_uint8(pixels / 255 / 2))


# --- unknown levels ---------------------------------------------------------------------------------------


def test_an_unknown_level_is_estimated_once_an_image_from_all_of_it_and_used(run, benchmark, tmp_path):
    """The estimator takes noisy minus its neighbour for noise: no better than that."""
    calls = []

    def estimate(model, noisy, family):
        calls.append((model, noisy.shape, family))
        return Gaussian(float(np.diff(noisy, axis=1).std() / 2**0.5))

    like, spies = network(tmp_path), (Spy(), Spy())
    cells = [cell(benchmark, spy.as_method(like=like), "gaussian:25", level)
             for spy, level in zip(spies, ("known", "unknown"), strict=True)]  # fmt: skip
    known, unknown = run(cells, estimator=Estimator(estimate, 1000))["cells"]
    assert calls == [(like.loaded.model, (160, 192, 3), "gaussian")] * 5
    assert {format_noise(noise) for _, noise in spies[0].seen} == {"gaussian:25"}
    estimates = {row["estimated"] for row in unknown["images"]}
    assert estimates == {format_noise(noise) for _, noise in spies[1].seen} and len(estimates) == 5
    assert all(25 < 255 * parse_noise(text).sigma < 40 for text in estimates)
    assert all(row["estimated"] is None for row in known["images"])
    assert known["psnr_noisy_db"] == unknown["psnr_noisy_db"]


def test_photographs_may_name_the_family_alone(run, photographs, tmp_path):
    source = Benchmark.open("real", None, photographs, "float")
    spy = Spy()
    real = cell(source, spy.as_method(like=network(tmp_path)), "gamma", "unknown")
    (results,) = run([real], estimator=Estimator(lambda model, noisy, family: Gamma(80.0), 0))["cells"]
    assert results["noise"] == "gamma" and {noise for _, noise in spy.seen} == {Gamma(80.0)}
    assert {row["estimated"] for row in results["images"]} == {"gamma:80"}
    assert (tmp_path / "out/pictures/gamma-unknown/real/coffee-denoised.png").exists()


# --- resumption -------------------------------------------------------------------------------------------


def test_a_stopped_pass_goes_on_where_it_was_and_ends_the_same(run, benchmark, tmp_path, capsys):
    def cells(spy: Spy) -> list[Cell]:
        return [cell(benchmark, spy.as_method(), noise) for noise in ("gaussian:25", "gamma:50")]

    undisturbed = run(cells(Spy()), "undisturbed")
    first, second = Spy(), Spy()
    first.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        run(cells(first))
    (lines,) = (tmp_path / "out" / FOLDER).iterdir()
    lines.write_text(lines.read_text()[:-40])  # as if the last one had been cut short
    capsys.readouterr()
    assert run(cells(second)) == undisturbed
    assert len(second.seen) == 10 - 3 and "3 pieces were measured before" in capsys.readouterr().out


def test_pieces_of_another_seed_or_checkpoint_do_not_count(run, benchmark, tmp_path):
    first, second = Spy(), Spy()
    run([cell(benchmark, first.as_method())])  # leaves its pieces, since nobody writes results.json
    run([cell(benchmark, second.as_method("other"))])
    assert len(second.seen) == 5
    sweep([cell(benchmark, first.as_method())], 1, Ranks(), tmp_path / "out")
    assert len(first.seen) == 10


def test_only_pieces_with_their_pictures_count_where_these_are_wanted(run, benchmark, tmp_path):
    first, second, third = Spy(), Spy(), Spy()
    run([cell(benchmark, first.as_method())])
    run([cell(benchmark, second.as_method())], pictures=True)
    run([cell(benchmark, third.as_method())], pictures=True)
    assert (len(second.seen), len(third.seen)) == (5, 0)
    assert len(list((tmp_path / "out/pictures/gaussian_25-known/photographs").iterdir())) == 15


def test_a_fresh_pass_takes_nothing_over(run, benchmark):
    first, second = Spy(), Spy()
    assert run([cell(benchmark, first.as_method())]) == run([cell(benchmark, second.as_method())], fresh=True)
    assert len(second.seen) == 5


@pytest.mark.parametrize("second", [{"fresh": True}, {"pictures": True}])
def test_pieces_that_two_stopped_passes_measured_count_once(run, benchmark, second):
    undisturbed = run([cell(benchmark, Spy().as_method())], "undisturbed")
    for options in ({}, second):
        spy = Spy()
        spy.stop_after = 4
        with pytest.raises(KeyboardInterrupt):
            run([cell(benchmark, spy.as_method())], **options)
    last = Spy()
    assert run([cell(benchmark, last.as_method())]) == undisturbed and len(last.seen) < 5
