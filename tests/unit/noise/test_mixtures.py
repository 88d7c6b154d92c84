"""Noise of several families and levels: who gets which, what a network is told, and what validation measures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from n2s_dist.distributed.ranks import Ranks
from n2s_dist.inference.denoiser import choose_noise
from n2s_dist.inference.tiling import denoise_whole
from n2s_dist.models import checkpoint
from n2s_dist.models.conditioning import make_conditioning
from n2s_dist.models.score_model import build_score_model
from n2s_dist.noise.batch import NoiseBatch
from n2s_dist.noise.distribution import NoiseDistribution, NoiseRange
from n2s_dist.noise.frozen import corrupt_tile
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import format_training_noise, parse_training_noise
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training.command_line import read_config
from n2s_dist.training.validation import validate
from n2s_dist.utils.errors import UserError

TEXT = "gaussian:5-55,poisson:0.005-0.1,gamma:20-200"
KEYS = np.arange(30_000, dtype=np.uint64)


def mixture() -> NoiseDistribution:
    return parse_training_noise(TEXT)


def condition(noise: NoiseModel | NoiseBatch) -> torch.Tensor:
    return make_conditioning("families", mixture()).encode(noise, torch.device("cpu"))


def test_text_goes_there_and_back():
    assert mixture().ranges[0] == NoiseRange(Gaussian(5 / 255), Gaussian(55 / 255))
    assert parse_training_noise("gamma:100") == NoiseDistribution.of(Gamma(100))
    for text in (TEXT, "gamma:100", "gaussian:5-55,poisson:0.01", "poisson-gaussian:0.002-0.05:1-20"):
        assert format_training_noise(parse_training_noise(text)) == text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("gaussian:5-", "gaussian:SIGMA"),
        ("gaussian:55-5", "not in order"),
        ("gaussian:5-55,gaussian:10-20", "twice"),
        ("gaussian:5-55,poisson", "LOWEST-HIGHEST"),
        ("gamma:1-200", "gamma:K"),
        ("poisson-gaussian:0.01", "poisson-gaussian:ZETA:SIGMA"),
        ("gaussian:25+blur:", r"\+blur:WIDTH"),
        ("gaussian:25+blur:9", "in pixels up to 8"),
    ],
)
def test_other_text_is_refused(text, word):
    with pytest.raises(UserError, match=word):
        parse_training_noise(text)


def test_families_have_equal_shares_and_levels_are_log_uniform():
    which, values = mixture().draw(KEYS, seed=3)
    level = values[:, 0]
    assert stats.chisquare(np.bincount(which)).pvalue > 1e-3
    for number, each in enumerate(mixture().ranges):
        share = np.log(level[which == number] / each.low.level) / np.log(each.high.level / each.low.level)
        assert stats.kstest(share, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(which[:-1], level[1:])[0, 1]) < 0.02


def test_a_batch_transforms_each_image_by_its_own_noise():
    y = torch.rand(64, 3, 4, 4) * 1.4 - 0.2
    batch = NoiseBatch.of_images(mixture(), KEYS[:64], 5, y.device)
    one_by_one = [mixture().of_image(int(key), 5) for key in KEYS[:64]]
    assert {noise.family for noise in one_by_one} == set(mixture().families)
    expected = torch.stack([noise.stabilize(image) for noise, image in zip(one_by_one, y, strict=True)])
    torch.testing.assert_close(batch.stabilize(y), expected)
    torch.testing.assert_close(condition(batch), torch.cat(list(map(condition, one_by_one))))


def test_a_network_is_told_family_and_strength():
    """All three of these have a standard deviation of 0.05 on middle gray."""
    for number, noise in enumerate((Gaussian(0.05), Poisson(0.005), Gamma(100))):
        expected = torch.zeros(1, 4, 1, 1)
        expected[0, number], expected[0, 3] = 1, np.log(0.5)
        torch.testing.assert_close(condition(noise), expected)


def test_mixed_noise_is_told_as_poisson_noise():
    torch.testing.assert_close(condition(PoissonGaussian(0.02, 0.1)), condition(Poisson(0.02)))


@pytest.mark.parametrize(("trained", "served"), [(TEXT, True), ("poisson:0.05", True), ("gaussian:25", False)])
def test_networks_of_poisson_noise_serve_mixed_noise(trained, served):
    config = read_config([f"--noise={trained}", "--network.widths=[4,8]"])
    model = build_score_model(config, 3)
    loaded = checkpoint.Loaded(Path("run"), config, 3, "", 0, model)
    if not served:
        with pytest.raises(UserError, match="was trained on gaussian:25"):
            choose_noise(loaded, "poisson_gaussian:0.02:10")
        return
    noise = choose_noise(loaded, "poisson_gaussian:0.02:10")
    assert noise == PoissonGaussian(0.02, 10 / 255)
    noisy = noise.corrupt(np.full((16, 16, 3), 0.4), np.random.default_rng(0))
    assert np.isfinite(denoise_whole(model, noisy, noise)).all()


def test_the_score_hears_its_condition():
    model = build_score_model(read_config([f"--noise={TEXT}", "--network.widths=[4,8]"]), 3)
    noisy = torch.rand(1, 3, 8, 8)
    weak, strong = (model.given(noisy, noise)[1] for noise in (Gaussian(0.05), Gaussian(0.2)))
    w, sigma_a = torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 1, 1)
    with torch.no_grad():
        assert not torch.equal(model(w, sigma_a, weak), model(w, sigma_a, strong))


@pytest.fixture(scope="module")
def stored(tmp_path_factory, photographs):
    folder = tmp_path_factory.mktemp("several") / "shards"
    build_shards(
        [str(photographs)], str(folder), BuildOptions(tile_size=64, validation_fraction=0.3, noise=TEXT), workers=1
    )
    return folder


def test_tiles_are_stored_with_their_images_own_noise(stored, photographs, tmp_path):
    """And are what the loader's noise makes of the clean ones, to a float16's rounding."""
    options = BuildOptions(tile_size=64, validation_fraction=0.3)
    build_shards([str(photographs)], str(tmp_path / "clean"), options, workers=1)
    noisy, clean = ShardSet(stored), ShardSet(tmp_path / "clean")
    assert noisy.noise == TEXT and noisy.split.dtype == "float16"
    found = {}
    for index in range(len(noisy)):
        sample = clean[index]
        noise = found[sample.image] = mixture().of_image(sample.image_key, 0)
        expected = corrupt_tile(noise, sample.tile, sample.image_key, sample.row, sample.column, 0)
        np.testing.assert_allclose(noisy[index].tile.astype(np.float32), expected, rtol=2**-11, atol=1e-7)
    assert len(set(found.values())) == len(found)


FOCUS = "gaussian:22-28,poisson:0.03-0.07,gamma:40-60"


def test_the_papers_law_and_one_level_are_refused():
    with pytest.raises(UserError, match="one noise level"):
        read_config([f"--noise={TEXT}", "--ardae.coordinates=image"])
    with pytest.raises(UserError, match=r"ardae\.whole_range takes a noise of several levels"):
        read_config(["--noise=gaussian:25", "--ardae.whole_range=true"])


@pytest.mark.parametrize("focus", ["gaussian:25", "gaussian:22-60", "gamma:40-60", f"{FOCUS},gaussian:22-28", "x"])
def test_a_focus_is_a_part_of_each_range(focus):
    options = ["--noise=gaussian:5-55", "--ardae.whole_range=true"]
    with pytest.raises(UserError, match=r"ardae\.focus is|noise 'x' is not understood|names a family twice"):
        read_config([*options, f"--ardae.focus={focus}"])
    with pytest.raises(UserError, match=r"ardae\.focus is gaussian:22-28: it takes ardae\.whole_range true"):
        read_config([*options[:1], "--ardae.focus=gaussian:22-28"])
    config = read_config([*options, "--ardae.focus=gaussian:22-28"])
    assert config.aim == parse_training_noise("gaussian:22-28") and read_config(options).aim != config.aim


def test_validation_is_at_the_levels_of_the_focus(stored, tmp_path):
    options = ["--noise=gaussian:5-55", "--ardae.whole_range=true"]
    model = build_score_model(read_config([*options, "--network.widths=[4,8]", "--network.blocks=1"]), 3).eval()
    tiles, found = ShardSet(stored, "validation"), []
    for aim in ("gaussian:22-22.1", "gaussian:5-55", "gaussian:50"):
        found.append(
            validate("ardae", model, tiles, 8, 0, Ranks(num_threads=1), parse_training_noise(aim))[0][
                "val_psnr_noisy_db"
            ]
        )
    assert abs(found[0] - 20 * np.log10(255 / 22)) < 0.1 and abs(found[2] - 20 * np.log10(255 / 50)) < 0.1
    assert abs(found[1] - found[0]) > 0.5
