"""Fields of correlated noise against their closed form: drawn, frozen in tiles, as perturbations and as probes."""

import numpy as np
import pytest
import torch
from support.fields import covariance

from n2s_dist.inference.tiling import Box
from n2s_dist.inference.uncertainty import random_signs
from n2s_dist.losses.draws import perturbations
from n2s_dist.noise.blurred import coarse_strength, radius
from n2s_dist.noise.correlated import Correlated
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.field import Field, Kernels
from n2s_dist.noise.frozen import corrupt_tile
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.utils.errors import UserError

CPU = torch.device("cpu")
SHAPE = (3, 5, 6)  # channels, height, width
# To draw a large image takes little longer than a small one, so samples are blocks of SHAPE on its diagonal. They share
# no row and no column, and 11 pixels between one and the next are more than two kernels reach.
BLOCKS, APART = 3, 16
LARGE = (3, BLOCKS * APART, BLOCKS * APART)
FIELDS = {
    "two widths": Field((0.4, 1.1)),
    "one axis": Field((0.0, 0.8)),
    "rows": Field(rows=0.3),
    "columns": Field(columns=0.25),
    "lines alone": Field(rows=0.4, columns=0.6),
    "channels": Field(channels=(0.5, 0.5, 0.5)),
    "channels that differ": Field(channels=(0.6, -0.2, 0.3)),
    "all": Field((0.9, 0.5), rows=0.2, columns=0.1, channels=(0.5, 0.2, 0.7)),
}
each_field = pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS.keys())


def blocks(images: np.ndarray) -> np.ndarray:
    """[BLOCKS N, *SHAPE] of images [N, *LARGE]."""
    starts = range(0, BLOCKS * APART, APART)
    return np.concatenate([images[..., at : at + SHAPE[1], at : at + SHAPE[2]] for at in starts])


def check_law(samples: np.ndarray, field: Field) -> None:
    """samples: [N, C, H, W] of unit variance and mean 0, independent of each other."""
    flat, expected = samples.reshape(len(samples), -1).astype(np.float64), covariance(field, samples.shape[1:])
    found = flat.T @ flat / len(flat)
    chance = np.sqrt(2 / len(flat))  # the largest standard error of a product of two unit normals
    assert np.sqrt(np.mean((found - expected) ** 2)) < chance and np.abs(found - expected).max() < 5 * chance
    assert np.diag(found).mean() == pytest.approx(1, abs=0.03)
    apart = expected - np.eye(len(expected))
    assert (found * apart).sum() / (apart**2).sum() == pytest.approx(1, abs=0.08)  # of all correlations together


@each_field
def test_corrupt_is_of_the_law(field):
    clean = np.full((2500, *SHAPE[1:], 3), 0.5)
    noise = Correlated(Poisson(0.02), field).corrupt(clean, np.random.default_rng(0)) - clean
    check_law(np.moveaxis(noise, -1, 1) / 0.1, field)


@each_field
def test_frozen_noise_is_of_the_law(field):
    tile, noise = np.full((*LARGE[1:], 3), 128, np.uint8), Correlated(Gaussian(0.1), field)
    drawn = np.stack([corrupt_tile(noise, tile, image, 3, 7, 0) for image in range(250)])
    check_law(blocks(np.moveaxis(drawn, -1, 1) - 128 / 255) / 0.1, field)


@each_field
def test_perturbations_are_of_the_law(field):
    kernels = Kernels.of([field] * 2500, field.reach)
    check_law(perturbations(0, np.arange(2500), torch.Size((2500, *SHAPE)), CPU, kernels).numpy(), field)


@each_field
def test_probes_are_of_the_law(field):
    box = Box(3, 4, 3 + LARGE[1], 4 + LARGE[2])
    signs = np.stack([random_signs(box, 3, probe, field) for probe in range(250)])
    check_law(blocks(np.moveaxis(signs, -1, 1)), field)
    wide = random_signs(Box(0, 0, 20, 30), 3, 1, field)
    np.testing.assert_array_equal(random_signs(Box(4, 9, 14, 30), 3, 1, field), wide[4:14, 9:])


@each_field
def test_overlapping_tiles_agree_to_the_last_bit(field):
    noise, image = (
        Correlated(Poisson(0.02), field),
        np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8),
    )
    whole = corrupt_tile(noise, image, 5, 0, 0, 7)
    for row, column in ((0, 0), (13, 29), (30, 37)):
        part = image[row : row + 60, column : column + 63]
        np.testing.assert_array_equal(
            corrupt_tile(noise, part, 5, row, column, 7), whole[row : row + 60, column : column + 63]
        )


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_stripes_are_of_one_image_one_seed_and_one_channel(along):
    """A tile's stripes are those of the image's rows or columns, wherever on them it lies."""
    noise, tile = Correlated(Gaussian(0.1), Field(**{along: 1.0})), np.full((40, 50, 3), 128, np.uint8)

    def stripes(image: int = 1, row: int = 0, column: int = 0, seed: int = 0) -> np.ndarray:
        drawn = corrupt_tile(noise, tile, image, row, column, seed) - 128 / 255
        drawn = drawn if along == "rows" else drawn.transpose(1, 0, 2)
        assert (drawn == drawn[:, :1]).all()
        return drawn[:, 0]

    far = (0, 1000) if along == "rows" else (1000, 0)
    np.testing.assert_array_equal(stripes(), stripes(row=far[0], column=far[1]))
    others = [stripes(image=2), stripes(seed=1), stripes(row=1000, column=1000), stripes()[:, [1, 2, 0]]]
    for other in others:
        assert abs(np.corrcoef(stripes().ravel(), other.ravel())[0, 1]) < 0.35  # 4 standard errors


def test_perturbations_depend_on_seed_and_position_alone():
    """So on any number of ranks they are the same, whatever is in the batch."""
    fields = [Field(widths, 0.2, 0.1, (0.5, 0.4, 0.3)) for widths in ((0.5, 1.0), (0.0, 0.3), (0.7, 0.7), (1.2, 0.1))]
    shape, positions = torch.Size((4, 3, 12, 10)), np.array([5, 0, 10**12, 7])
    together = perturbations(1, positions, shape, CPU, Kernels.of(fields, radius(1.2)))
    for i in range(4):
        kernels = Kernels.of(fields[i : i + 1], radius(1.2))
        alone = perturbations(1, positions[i : i + 1], torch.Size((1, *shape[1:])), CPU, kernels)
        assert torch.equal(alone[0], together[i])


def test_pixels_of_a_perturbation_stay_as_they_were_beside_its_stripes():
    plain, striped = (Kernels.of([Field((0.7,), rows)] * 2, radius(0.7)) for rows in (0.0, 0.36))
    one, two = (perturbations(3, np.arange(2), torch.Size((2, 1, 9, 9)), CPU, each) for each in (plain, striped))
    stripes = two - 0.8 * one
    torch.testing.assert_close(stripes, stripes[..., :1].expand_as(stripes))


def test_what_it_is_is_said():
    assert Field((0.0,)).is_white and not Field(rows=0.1).is_white and not Field((0.0, 0.2)).is_white
    assert [f.is_directional for f in FIELDS.values()] == [True, True, True, True, True, False, False, True]
    assert Field(rows=0.2, columns=0.2).is_directional is False
    assert Field((0.7,)).is_like(Field((0.7, 0.7))) and not Field((0.7,)).is_like(Field((0.7, 0.71)))
    assert not Field(rows=0.3).is_like(Field(columns=0.3)) and not Field().is_like(Field(channels=(0.1, 0.1, 0.1)))
    assert (Field((0.4, 0.9)).width, Field((0.7,)).width, Field().width) == (pytest.approx(0.6), 0.7, 0.0)


@pytest.mark.parametrize("ends", [(0.0, 1.2), (0.2, 0.9), (0.5, 1.0), (1.5, 3.0)])
def test_the_width_that_is_told_is_as_strong_over_many_pixels(ends):
    assert coarse_strength(*ends) == pytest.approx(coarse_strength(Field(ends).width), rel=0.15)


@each_field
def test_redundancy_is_the_sum_of_squared_correlations(field):
    shape = (3, 14, 16)
    squares = (covariance(field, shape) ** 2).sum(axis=1).reshape(shape)
    inner = squares[:, 6:8, 7:9].mean()  # whose kernels do not reach the border
    assert field.redundancy((14, 16, 3)) == pytest.approx(inner, rel=0.02)


@pytest.mark.parametrize(
    "wrong",
    [{"rows": -0.1}, {"rows": 0.6, "columns": 0.5}, {"channels": (0.9, 0.9, -0.9)}, {"channels": (-0.6, -0.6, -0.6)}],
)
def test_what_no_field_has_is_refused(wrong):
    with pytest.raises(ValueError, match=r"at most 1 together|no three channels"):
        Field(**wrong)


def test_channels_take_images_of_three():
    noise = Correlated(Gaussian(0.1), Field(channels=(0.5, 0.5, 0.5)))
    with pytest.raises(UserError, match="noise of color images, and the image has 1 channel"):
        noise.corrupt(np.zeros((8, 8, 1)), np.random.default_rng(0))
    assert noise.is_of_color and not Correlated(Gaussian(0.1), Field(rows=0.5)).is_of_color


def test_other_levels_keep_the_field():
    noise = Correlated(Poisson(0.02), Field((0.3, 0.9), 0.2, 0.1, (0.5, 0.4, 0.3)))
    assert noise.scaled(2.0) == Correlated(Poisson(0.08), noise.field)
    assert (
        noise.white == Poisson(0.02) and noise.values == (0.02, 0.3, 0.9) and noise.with_values(*noise.values) == noise
    )
    kernels = NoiseDistribution.of(noise).kernels(np.zeros(2, np.uint64), 0)
    assert kernels.pattern == noise.field.pattern and kernels.reach == radius(0.9)
    np.testing.assert_array_equal([kernels.widths, kernels.down], [[0.3, 0.3], [0.9, 0.9]])
