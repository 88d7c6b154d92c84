"""The loader: each position's crop is the expected one, its noise belongs to the image, and DALI agrees with NumPy.

Most images here say in each pixel where it lies: red is its row, green its column, blue its image.
"""

import functools
import gc
import itertools
import threading
from pathlib import Path

import numpy as np
import nvidia.dali.backend
import pytest
import torch
from PIL import Image
from scipy import stats

from n2s_dist.loading import sample_order
from n2s_dist.loading.crop_inputs import check_noise, crop_inputs
from n2s_dist.loading.crop_loader import CropLoader
from n2s_dist.loading.crop_pipeline import crop_pipeline
from n2s_dist.loading.prefetch import run_ahead
from n2s_dist.noise import frozen
from n2s_dist.noise.encoding import CLEAN
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import format_noise
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils.errors import UserError

TILE, CROP, SEED = 48, 24, 3
CONSTANT = 192  # side of images of one value
NOISES = [Gaussian(25 / 255), Poisson(0.05), Gamma(50.0)]
MIXED = PoissonGaussian(0.01, 0.04)


def build(folder: Path, images: list[np.ndarray], **options) -> ShardSet:
    (folder / "source").mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"source/{number}.png")
    build_shards([str(folder / "source")], folder / "shards", BuildOptions(validation_fraction=0, **options), workers=1)
    return ShardSet(folder / "shards")


def pixels_that_say_where_they_are(number: int, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 40 * number)], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardSet:
    """Four images in 14 tiles of 48 x 48, most of which overlap others."""
    sizes = [(80, 90), (48, 48), (96, 60), (70, 130)]
    images = [pixels_that_say_where_they_are(number, *size) for number, size in enumerate(sizes)]
    return build(tmp_path_factory.mktemp("coded"), images, tile_size=TILE)


@pytest.fixture(scope="module")
def gray_shards(tmp_path_factory) -> ShardSet:
    images = [np.random.default_rng(n).integers(0, 256, (60, 70), dtype=np.uint8) for n in range(2)]
    return build(tmp_path_factory.mktemp("gray"), images, tile_size=TILE, gray=True)


def batches_of(positions: np.ndarray, batch_size: int = 8):
    return iter(positions.reshape(-1, batch_size))


def load(shards, positions, noise, crop_size=CROP, batch_size=8, seed=SEED, **options) -> np.ndarray:
    """All crops at some positions, through DALI: float32 [N, C, S, S]."""
    loader = CropLoader(shards, batches_of(positions, batch_size), batch_size, crop_size, noise, seed, **options)
    crops = list(loader)
    assert all(crop.dtype == torch.float32 for crop in crops)
    return torch.cat(crops).numpy()


@pytest.fixture(scope="module")
def crops(shards):
    """Crops at the first positions, of each kind loaded once: to lay out a pipeline takes longer than to run it."""
    return functools.cache(lambda noise, **options: load(shards, np.arange(320 if noise else 640), noise, **options))


def expected_crops(shards: ShardSet, positions: np.ndarray, crop_size: int = CROP) -> np.ndarray:
    """uint8 [N, C, S, S], from sample_order.py alone: crop, flip left-right, flip up-down, transpose."""
    out = []
    indices, choices = (
        sample_order.sample_index(SEED, positions, len(shards)),
        sample_order.crop_choice(SEED, positions),
    )
    for index, words in zip(indices, choices.tolist(), strict=True):
        tile = shards[int(index)].tile
        row, column = (words[axis] % (tile.shape[axis] - crop_size + 1) for axis in (0, 1))
        crop = tile[row : row + crop_size, column : column + crop_size]
        crop = crop[:, ::-1] if words[2] & 1 else crop
        crop = crop[::-1] if words[3] & 1 else crop
        crop = crop.swapaxes(0, 1) if words[4] & 1 else crop
        out.append(crop.transpose(2, 0, 1))
    return np.stack(out)


# --- crops ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop_size, batch_size", [(CROP, 8), (TILE, 8), (1, 2)])
def test_crops_are_those_that_order_names(shards, crops, crop_size, batch_size):
    """Over 80 batches: more than the loader works out at a time, and several epochs."""
    positions = np.arange(80 * batch_size)
    found = crops(None) if crop_size == CROP else load(shards, positions, None, crop_size, batch_size)
    np.testing.assert_allclose(found, expected_crops(shards, positions, crop_size) / np.float32(255), rtol=1e-6)


def test_gray_crops(gray_shards):
    positions = np.arange(16)
    crops = load(gray_shards, positions, None)
    assert crops.shape == (16, 1, CROP, CROP)
    np.testing.assert_allclose(crops, expected_crops(gray_shards, positions) / np.float32(255), rtol=1e-6)


def test_a_loader_can_start_anywhere(shards, crops):
    """Resuming a run is starting its loader at samples_seen."""
    for options in ({}, {"resample_noise": True}):
        rest = load(shards, np.arange(40, 320), NOISES[0], **options)
        np.testing.assert_array_equal(rest, crops(NOISES[0], **options)[40:])


def test_ranks_share_the_global_batch(shards, crops):
    steps, share = range(5), 4
    whole = crops(Poisson(0.05))[:40].reshape(5, 8, 3, CROP, CROP)
    for rank in (0, 1):
        positions = np.concatenate([sample_order.rank_positions(step, 8, rank, 2) for step in steps])
        own = load(shards, positions, Poisson(0.05), batch_size=share).reshape(5, share, 3, CROP, CROP)
        np.testing.assert_array_equal(own, whole[:, rank * share : (rank + 1) * share])


def test_threads_change_nothing(shards, crops):
    two = load(shards, np.arange(64), Gamma(50.0), num_threads=2)
    np.testing.assert_array_equal(crops(Gamma(50.0))[:64], two)


def test_batches_outlive_what_made_them(shards):
    """A batch is DALI's own memory, not a copy: it stays as it was while more batches come, and after the loader."""
    loader = CropLoader(shards, batches_of(np.arange(160)), 8, CROP, Gaussian(0.1), SEED)
    batches, copies = [], []
    for batch in loader:
        batches.append(batch)
        copies.append(batch.clone())
    del loader, batch
    gc.collect()
    for batch, copy in zip(batches, copies, strict=True):
        assert torch.equal(batch, copy)
    assert len({batch.data_ptr() for batch in batches}) == 20
    batches[0].zero_()  # and it may be written to
    assert torch.equal(batches[1], copies[1])


def test_no_place_and_no_orientation_is_favoured(shards):
    crop_size, count = 40, 6000
    inputs = list(crop_inputs(shards, batches_of(np.arange(count), 100), crop_size, SEED, noisy=False))
    corners = np.concatenate([item[1] for item in inputs])
    flips = np.stack([np.concatenate([item[part] for item in inputs]) for part in (2, 3, 4)], axis=1)
    places = TILE - crop_size + 1
    assert corners.min() == 0 and corners.max() == places - 1
    place, orientation = corners @ [places, 1], flips @ [1, 2, 4]
    for choice, outcomes in ((place, places**2), (orientation, 8)):
        assert stats.chisquare(np.bincount(choice, minlength=outcomes)).pvalue > 1e-4
    tiles = sample_order.sample_index(SEED, np.arange(count), len(shards))
    for one, two in itertools.combinations([*corners.T, orientation, tiles], 2):
        table = np.histogram2d(one, two, (one.max() + 1, two.max() + 1))[0]
        assert stats.contingency.chi2_contingency(table).pvalue > 1e-4  # independent of each other


def test_dali_favours_no_place_and_no_orientation(shards):
    """The same, read off the pixels that come out."""
    crop_size, positions = 40, np.arange(1600)
    rows, columns, _ = (
        np.rint(load(shards, positions, None, crop_size, batch_size=100) * 255).astype(int).swapaxes(0, 1)
    )
    tiles = [shards[int(index)] for index in sample_order.sample_index(SEED, positions, len(shards))]
    down = rows.min((1, 2)) - [tile.row for tile in tiles]
    across = columns.min((1, 2)) - [tile.column for tile in tiles]
    transposed = rows[:, 0, 0] == rows[:, 1, 0]
    left_right, up_down = columns[:, 0, 0] > columns[:, -1, -1], rows[:, 0, 0] > rows[:, -1, -1]
    orientation = np.stack([transposed, left_right, up_down], axis=1) @ [1, 2, 4]
    for choice, outcomes in ((down, 9), (across, 9), (orientation, 8)):
        assert stats.chisquare(np.bincount(choice, minlength=outcomes)).pvalue > 1e-4


def test_errors_come_through_dali_as_they_are(shards):
    """A damaged shard is met inside DALI's call for more input; its message must reach the user."""

    def positions():
        yield np.arange(8)
        raise UserError("a shard is damaged")

    with pytest.raises(UserError, match="a shard is damaged"):
        list(CropLoader(shards, positions(), 8, CROP, None, SEED))


def test_crops_larger_than_the_smallest_tile_are_refused(shards):
    with pytest.raises(UserError, match=r"data\.crop_size is 49, but .*48 pixels"):
        CropLoader(shards, batches_of(np.arange(8)), 8, TILE + 1, None, SEED)


# --- noise ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "gray"),
    [*((noise, False) for noise in (*NOISES, MIXED)), (MIXED, True)],
    ids=lambda value: "gray" if value is True else "color" if value is False else format_noise(value),
)
def test_dali_noise_equals_numpys(shards, gray_shards, crops, noise, gray):
    """test_numpy_pipeline.py has gray ones with noise of all families."""
    data, positions, math = gray_shards if gray else shards, np.arange(64), frozen.numpy_math()
    clean, expected = expected_crops(data, positions), []
    keys = [item[5:] for item in crop_inputs(data, batches_of(positions), CROP, SEED)]
    for crop, down, across in zip(clean, *(np.concatenate(part) for part in zip(*keys, strict=True)), strict=True):
        expected.append(noise.draw(crop, frozen.PixelBits(down, across, math), math))
    found = load(data, positions, noise) if gray else crops(noise)[:64]
    np.testing.assert_array_equal(found, np.stack(expected))


@pytest.fixture(scope="module")
def constant_shards(tmp_path_factory) -> ShardSet:
    """Four images of one value: 442,368 pixels that differ in nothing but their noise."""
    images = [np.full((CONSTANT, CONSTANT, 3), 128, np.uint8)] * 4
    return build(tmp_path_factory.mktemp("constant"), images, tile_size=CONSTANT)


@pytest.fixture(scope="module")
def constant_crops(constant_shards):
    """Those four images whole, with noise: float32 [4, 3, H, W]."""
    return functools.cache(
        lambda noise, **options: load(constant_shards, np.arange(4), noise, CONSTANT, batch_size=4, **options)
    )


@pytest.mark.parametrize("noise", NOISES, ids=format_noise)
def test_dali_noise_against_scipy(constant_crops, noise):
    x = 128 / 255
    noisy = constant_crops(noise).astype(np.float64).ravel()
    match noise:
        case Gaussian(sigma):
            p_value = stats.kstest(noisy, stats.norm(x, sigma).cdf).pvalue
        case Gamma(k):
            p_value = stats.kstest(noisy, stats.gamma(k, scale=x / k).cdf).pvalue
        case Poisson(zeta):
            counts = np.rint(noisy / zeta).astype(int)
            np.testing.assert_allclose(noisy, counts * zeta, rtol=1e-6)
            seen, expected = np.bincount(counts), noisy.size * stats.poisson.pmf(np.arange(counts.max() + 1), x / zeta)
            common = expected > 10
            seen = [*seen[common], seen[~common].sum()]
            p_value = stats.chisquare(seen, [*expected[common], noisy.size - expected[common].sum()]).pvalue
    assert p_value > 1e-4


def visits(crops, noise, count: int, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy values of all pixels seen, which source pixel each is, and at which position: flat, sorted by pixel."""
    positions = np.arange(count)
    values = [crops(noise, **options)[:count].swapaxes(0, 1).reshape(3, -1)]
    where = np.rint(crops(None)[:count].swapaxes(0, 1).reshape(3, -1) * 255).astype(int)
    pixel = np.tile(where.T @ [1000, 1, 1_000_000], 3) + np.repeat([0, 10**9, 2 * 10**9], where.shape[1])
    position = np.tile(np.repeat(positions, CROP * CROP), 3)
    by_pixel = np.argsort(pixel, kind="stable")
    return np.concatenate(values).ravel()[by_pixel], pixel[by_pixel], position[by_pixel]


@pytest.mark.parametrize("noise", NOISES, ids=format_noise)
def test_frozen_noise_belongs_to_the_source_pixel(shards, crops, noise):
    """Whatever the crop, the tile, the flips and the epoch through which a pixel is seen."""
    values, pixel, position = visits(crops, noise, 320)
    again = pixel[1:] == pixel[:-1]
    assert again.sum() > 100_000
    np.testing.assert_array_equal(values[1:][again], values[:-1][again])
    # The comparison above must have been across tiles, epochs and orientations.
    tile = sample_order.sample_index(SEED, position, len(shards))
    orientation = (sample_order.crop_choice(SEED, position)[:, 2:] & np.uint64(1)) @ np.array([1, 2, 4], np.uint64)
    for seen_through in (tile, position // len(shards), orientation):
        assert (seen_through[1:] != seen_through[:-1])[again].sum() > 1000


def test_frozen_noise_does_not_depend_on_the_crop_size(shards, crops):
    """Crops of 48 are whole tiles: every crop of 24 must be found in its tile."""
    whole = load(shards, np.arange(len(shards)), NOISES[0], TILE, batch_size=len(shards))
    assert np.isin(crops(NOISES[0])[:64], whole).all()


def test_noise_differs_between_seeds_and_images(constant_shards, constant_crops):
    """Two seeds' four images: eight fields, no two correlated."""
    first = constant_crops(NOISES[0])
    other = load(constant_shards, np.arange(4), NOISES[0], CONSTANT, batch_size=4, seed=SEED + 1)
    fields = np.concatenate([first, other]).reshape(8, -1)
    pixels = fields.shape[1]
    assert np.abs(np.corrcoef(fields)[np.triu_indices(8, 1)]).max() < 5 / np.sqrt(pixels)


def test_resampled_noise_is_fresh_at_every_position(crops):
    values, pixel, position = visits(crops, NOISES[0], 160, resample_noise=True)
    again = (pixel[1:] == pixel[:-1]) & (position[1:] != position[:-1])
    assert again.sum() > 40_000 and (values[1:] == values[:-1])[again].mean() < 1e-4
    channel, blue, row, column = pixel // 10**9, pixel % 10**9 // 10**6, pixel % 10**6 // 1000, pixel % 1000
    noise = values - np.choose(channel, [row, column, blue]) / 255
    assert abs(noise.std() / (25 / 255) - 1) < 0.01
    assert abs(np.corrcoef(noise[1:][again], noise[:-1][again])[0, 1]) < 5 / np.sqrt(again.sum())


def test_resampled_noise_repeats_with_its_position(shards, crops):
    again = load(shards, np.arange(16), NOISES[0], resample_noise=True)
    np.testing.assert_array_equal(again, crops(NOISES[0], resample_noise=True)[:16])


@pytest.mark.parametrize("noise, gray", [*((noise, False) for noise in NOISES), (NOISES[0], True)])
def test_stored_noise_is_the_noise_that_would_be_added(tmp_path, noise, gray):
    """The same images, seed and order: with noise in the tiles, and added to clean ones."""
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (60, 70, 3), dtype=np.uint8) for _ in range(3)]
    clean = build(tmp_path / "clean", images, tile_size=TILE, gray=gray, seed=SEED)
    noisy = build(tmp_path / "noisy", images, tile_size=TILE, gray=gray, seed=SEED, noise=format_noise(noise))
    assert noisy.noise == format_noise(noise) and clean.noise is None
    positions = np.arange(64)
    added, stored = load(clean, positions, noise), load(noisy, positions, None)
    deviation = added.std(where=added != 0)
    assert np.abs(stored - added).max() < 2e-3 * max(deviation, np.abs(added).max())
    assert np.corrcoef(stored.ravel(), added.ravel())[0, 1] > 0.999999


def test_stored_noise_is_neither_mixed_with_another_nor_resampled(tmp_path):
    noisy = build(tmp_path, [np.zeros((48, 48, 3), np.uint8)], tile_size=TILE, noise="gaussian:25")
    check_noise(noisy, "gaussian:25", resample_noise=False)
    with pytest.raises(UserError, match="holds tiles with noise gaussian:25"):
        check_noise(noisy, "gaussian:50", resample_noise=False)
    with pytest.raises(UserError, match=r"data\.resample_noise"):
        check_noise(noisy, "gaussian:25", resample_noise=True)


# --- beside the noisy crop ----------------------------------------------------------------------------


def test_a_clean_crop_beside_the_noisy_one(shards, crops):
    noise = NOISES[2]
    both = load(shards, np.arange(32), noise, extra_view="clean")
    np.testing.assert_array_equal(both[:, 0], crops(noise)[:32])
    np.testing.assert_array_equal(both[:, 1], crops(None)[:32])


@pytest.mark.parametrize("resample", [False, True])
def test_a_second_noisy_crop_beside_the_first(constant_shards, constant_crops, resample):
    """Independent of the first, of the same size, and as frozen; the first is what it is without a second."""

    def crops(count: int) -> np.ndarray:
        given = {"batch_size": 4, "resample_noise": resample, "extra_view": "noisy"}
        return load(constant_shards, np.arange(count), NOISES[0], CONSTANT, **given).reshape(count, 2, -1)

    both = crops(8)  # two epochs of four images
    alone = constant_crops(NOISES[0], **({"resample_noise": True} if resample else {}))
    np.testing.assert_array_equal(both[:4, 0], alone.reshape(4, -1))
    np.testing.assert_array_equal(both[:4], crops(4))
    fields = both[:4].reshape(8, -1) - np.float32(128 / 255)
    assert np.abs(np.corrcoef(fields)[np.triu_indices(8, 1)]).max() < 5 / np.sqrt(fields.shape[1])
    pixels = fields.shape[1]
    assert np.abs(fields.std(axis=1) / (25 / 255) - 1).max() < 5 / np.sqrt(2 * pixels)
    assert np.abs(fields.mean(axis=1)).max() < 5 * 25 / 255 / np.sqrt(pixels)
    seen = [{field.tobytes() for field in np.sort(epoch[:, 1])} for epoch in (both[:4], both[4:])]
    assert len(seen[0] & seen[1]) == (0 if resample else 4)


# --- the graph --------------------------------------------------------------------------------------


def backends(schema_name: str) -> list[str]:
    return nvidia.dali.backend.GetSchema(schema_name).GetSupportedBackends()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "noise, stored, extra_view",
    [
        *((noise, CLEAN, None) for noise in (*NOISES, MIXED)),
        (None, CLEAN, None),
        *((None, noise.encoding, None) for noise in NOISES),
        *((NOISES[0], CLEAN, extra_view) for extra_view in ("clean", "noisy")),
    ],
    ids=lambda value: getattr(value, "family", getattr(value, "dtype", str(value))),
)
def test_every_operator_has_a_gpu_backend(noise, stored, extra_view, device):
    """The GPU's graph can be laid out, if not run, on a machine without one: all but its sources runs there."""
    graph = crop_pipeline(
        lambda: None, CROP, noise, device, stored, extra_view, batch_size=2, num_threads=1,
        device_id=0 if device == "gpu" else None,
    )  # fmt: skip
    graph._build_graph()
    operators = [(op._op.schema.Name(), op._spec.OutputDevice(0)) for op in graph._ops]
    names = {name for name, _ in operators} - {"ExternalSource"}
    assert {"Slice", "Flip", "Transpose"} <= names
    assert noise is None or {"LookupTable", "_ArithmeticGenericOp"} <= names
    assert all("gpu" in backends(name) for name in names)
    # Crops are cut on the host, so that no tile crosses the bus.
    assert {placed for name, placed in operators if name == "Slice"} == {"cpu"}
    assert {placed for name, placed in operators if name in names - {"Slice"}} == {device}


def test_operators_without_a_gpu_backend_can_be_told():
    """Else the test above would prove nothing."""
    for name in ("PeekImageShape", "readers__Webdataset", "decoders__Numpy"):
        assert backends(name) == ["cpu"]


# --- run_ahead --------------------------------------------------------------------------------------


def test_run_ahead_passes_items_in_order():
    assert list(run_ahead(iter(range(100)))) == list(range(100))
    assert list(run_ahead(iter([]))) == []
    assert list(itertools.islice(run_ahead(itertools.count()), 5)) == [0, 1, 2, 3, 4]  # and an endless one can be left


def test_run_ahead_passes_errors_in_their_place():
    def items():
        yield 1
        yield 2
        raise UserError("a shard is damaged")

    ahead = run_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(UserError, match="a shard is damaged"):
        next(ahead)


def test_run_ahead_makes_the_next_item_while_one_is_in_use():
    made, second = [], threading.Event()

    def items():
        for number in range(3):
            made.append(threading.current_thread().name)
            if number == 1:
                second.set()
            yield number

    ahead = run_ahead(items())
    assert next(ahead) == 0
    assert second.wait(10)  # nobody has asked for it yet
    assert list(ahead) == [1, 2]
    assert len(set(made)) == 1 and threading.current_thread().name not in made
