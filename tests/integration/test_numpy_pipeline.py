"""NumPy's crops are DALI's, bit for bit: of all kinds of tiles, with every family's noise and all extra views."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from n2s_dist.loading import crop_loader
from n2s_dist.loading.crop_loader import CropLoader
from n2s_dist.noise.base import families
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import format_noise
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet

CROP, BATCH, BATCHES, SEED = 24, 8, 5, 3
NOISES = [
    Gaussian(25 / 255), Gaussian(0.003), Poisson(0.05), Poisson(0.0001), Gamma(50.0), PoissonGaussian(0.01, 0.04),
    PoissonGaussian(0.01, 0.04, 0.1), Curve(((0.0, 0.01), (0.5, 0.04), (1.0, 0.05))),
]  # fmt: skip
# Held as uint16 with and without an offset, and as float16.
STORED = ["gaussian:25", "poisson:0.01", "gaussian:5-55,poisson:0.005-0.1,gamma:20-200"]
IN_GRAY = [NOISES[0], NOISES[6]]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Shards of images of random pixels and several sizes, built once for each kind."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number, size in enumerate([(60, 70), (48, 48), (96, 50)]):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{number}.png")
    made: dict[tuple, ShardSet] = {}

    def build(gray: bool, noise: str | None = None) -> ShardSet:
        if (gray, noise) not in made:
            out: Path = tmp_path_factory.mktemp("shards") / "shards"
            options = BuildOptions(validation_fraction=0, tile_size=48, gray=gray, noise=noise)
            build_shards([str(folder)], out, options, workers=1)
            made[gray, noise] = ShardSet(out)
        return made[gray, noise]

    return build


def crops_by(monkeypatch, dali: bool, shards: ShardSet, noise, **options) -> list[torch.Tensor]:
    """All batches of a few epochs."""
    monkeypatch.setattr(crop_loader, "has_dali", lambda: dali)
    positions = iter(np.arange(BATCH * BATCHES).reshape(BATCHES, BATCH))
    loader = CropLoader(shards, positions, BATCH, CROP, noise, SEED, **options)
    assert type(loader._crops).__name__ == ("DaliCrops" if dali else "NumpyCrops")
    return list(loader)


def assert_alike(monkeypatch, shards: ShardSet, noise, **options) -> torch.Tensor:
    """The same batches, to the last bit, of the same shape and type; returns all crops."""
    ours, dalis = (crops_by(monkeypatch, dali, shards, noise, **options) for dali in (False, True))
    assert len(ours) == len(dalis) == BATCHES
    for own, other in zip(ours, dalis, strict=True):
        assert own.dtype == other.dtype == torch.float32 and own.shape == other.shape
        assert torch.equal(own.view(torch.int32), other.view(torch.int32))  # a zero's sign counts
    return torch.cat(ours)


def test_every_family_is_compared():
    assert {noise.family for noise in NOISES} == set(families())


@pytest.mark.parametrize(
    ("noise", "gray"),
    [*((noise, False) for noise in NOISES), *((noise, True) for noise in IN_GRAY)],
    ids=lambda value: {False: "color", True: "gray"}[value] if isinstance(value, bool) else format_noise(value),
)
def test_noisy_crops_are_the_same(built, monkeypatch, noise, gray):
    crops = assert_alike(monkeypatch, built(gray), noise)
    assert len(torch.unique(crops)) > 20  # there is something to compare


@pytest.mark.parametrize(
    ("stored", "gray"), [*((stored, False) for stored in (None, *STORED)), (None, True), (STORED[2], True)]
)
def test_what_tiles_hold_is_the_same(built, monkeypatch, stored, gray):
    """Clean tiles, and tiles with their noise in them."""
    shards = built(gray, stored)
    assert shards.split.dtype == {None: "uint8", STORED[2]: "float16"}.get(stored, "uint16")
    assert_alike(monkeypatch, shards, None)


@pytest.mark.parametrize("extra_view", ["clean", "noisy"])
@pytest.mark.parametrize("resample", [False, True], ids=["frozen", "resampled"])
def test_extra_views_and_fresh_noise_are_the_same(built, monkeypatch, extra_view, resample):
    options = {"extra_view": extra_view, "resample_noise": resample}
    crops = assert_alike(monkeypatch, built(False), Gaussian(0.1), **options)
    assert crops.shape[1] == 2 and not torch.equal(crops[:, 0], crops[:, 1])


def test_threads_change_nothing(built, monkeypatch):
    one, three = (crops_by(monkeypatch, False, built(False), Gamma(50.0), num_threads=count) for count in (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_batches_are_the_callers_own(built, monkeypatch):
    first, *rest = crops_by(monkeypatch, False, built(False), Gaussian(0.1))
    copies = [batch.clone() for batch in rest]
    first.zero_()
    assert all(torch.equal(a, b) for a, b in zip(rest, copies, strict=True))


def test_without_dali_numpy_is_chosen_and_said_once(capsys, monkeypatch):
    monkeypatch.setattr(crop_loader.importlib.util, "find_spec", lambda name: None)
    crop_loader.has_dali.cache_clear()
    assert not crop_loader.has_dali() and not crop_loader.has_dali()
    assert capsys.readouterr().out.count("NumPy makes the crops") == 1
    crop_loader.has_dali.cache_clear()
