"""Frozen noise made of hashes, tables and arithmetic: is it the noise that it claims to be, and independent?

All draws here are NumPy's, of keys made as crop_pipeline.py makes them; test_crop_pipeline.py holds DALI to them.
Statistics are held to five standard errors, p-values to 1e-4; nothing here is random from run to run.
"""

import functools

import numpy as np
import pytest
from scipy import stats

from n2s_dist.noise import frozen
from n2s_dist.noise.gamma import Gamma, gamma_tables
from n2s_dist.noise.gaussian import Gaussian, normal_tables
from n2s_dist.noise.poisson import Poisson, poisson_tables
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.utils import hashing

MATH = frozen.numpy_math()
CHANNELS, SIDE = 3, 400  # nearly half a million pixels


def pixel_keys(image: str = "a.png", seed: int = 0, channels: int = CHANNELS, side: int = SIDE) -> tuple:
    """Keys of all pixels of an image, uint32 [C, H, 1] and [C, 1, W], as the loader makes them."""
    image_key, pixels = np.array([hashing.name_key(image)], np.uint64), np.arange(side)[None]
    down, across = frozen.pixel_keys(image_key, seed, pixels, pixels, channels)
    return down[0, :, :, None], across[0, :, None, :]


def pixel_bits(*args, **kwargs) -> frozen.PixelBits:
    return frozen.PixelBits(*pixel_keys(*args, **kwargs), MATH)


@functools.cache
def normals(*args, **kwargs) -> np.ndarray:
    """float64 [C, H, W]; the same array each time."""
    return frozen.draw_sum(normal_tables(1.0), pixel_bits(*args, **kwargs), MATH).astype(np.float64)


def corrupted(noise, value: int) -> np.ndarray:
    clean = np.full((CHANNELS, SIDE, SIDE), value, np.uint8)
    noisy = noise.draw(clean, pixel_bits(), MATH)
    assert noisy.dtype == np.float32 and noisy.shape == clean.shape
    return noisy.astype(np.float64).ravel()


def signs(word: np.ndarray, bit: int) -> np.ndarray:
    """A bit of each pixel's word as +1 or -1: float32, in which sums of so few are exact."""
    return 1 - 2 * (word >> np.uint32(bit) & np.uint32(1)).astype(np.float32)


def products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each row with each; by BLAS on one thread products of rows as long as these take seconds."""
    return np.einsum("ik,jk->ij", one, other)


# --- tables -----------------------------------------------------------------------------------------


def largest_error(tables: tuple[np.ndarray, np.ndarray], law, x: np.ndarray) -> float:
    """Of the distribution function of the sum of two entries, at x, from both sides of each step.

    Over all pairs that occur, which are half of 2^32: words are odd, so that the two indices never
    are both even or both odd (test_the_halves_are_one_of_each_parity).
    """
    first, second = (table.astype(np.float64) for table in tables)
    shares = np.zeros((2, len(x)))
    for parity in (0, 1):
        a, b = (
            np.sort(first[parity::2]),
            np.sort(second[1 - parity :: 2])[::-1],
        )  # what is looked up in order is found soon
        for side, found in zip(("left", "right"), shares, strict=True):
            found += [np.searchsorted(a, value - b, side).mean() / first.size for value in x]
    return float(np.abs(shares - law.cdf(x)).max())


def test_normal_draws_have_the_normal_distribution():
    x = np.concatenate([np.linspace(-6.2, 6.2, 31), [-1e-4, -1e-9, 1e-9, 1e-4]])  # zero is among them
    assert largest_error(normal_tables(1.0), stats.norm(), x) < 1e-6


@pytest.mark.parametrize("k", [10.0, 10_000.0])
def test_gamma_draws_have_the_gamma_distribution(k):
    law = stats.gamma(k, scale=1 / k)
    x = np.concatenate([law.ppf(np.linspace(0, 1, 22)[1:-1]), law.ppf([1e-9, 1e-6, 1e-4]), law.isf([1e-9, 1e-6, 1e-4])])
    assert largest_error(gamma_tables(k), law, x) < 1e-6


def test_a_wrong_law_would_be_told():
    """Else the two tests above would prove nothing: a table of the neighbouring level is off by far more."""
    x = np.linspace(-3, 3, 7)
    assert largest_error(normal_tables(1.0001), stats.norm(), x) > 1e-5
    law = stats.gamma(100, scale=1 / 100)
    assert largest_error(gamma_tables(100.01), law, law.ppf([0.1, 0.3, 0.7])) > 1e-5


@pytest.mark.parametrize(
    "tables_of, level, mean, deviation, lowest",
    [
        (normal_tables, 1.0, 0, 1, -6),
        (normal_tables, 25 / 255, 0, 25 / 255, -6),
        (gamma_tables, 100.0, 1, 0.1, -4.5),
    ],
    ids=["normal", "normal 25", "gamma 100"],
)
def test_draws_have_the_right_moments_and_reach(tables_of, level, mean, deviation, lowest):
    """Gamma's lower tail is shorter than the normal one."""
    first, second = (table.astype(np.float64) for table in tables_of(level))
    assert abs(first.mean() + second.mean() - mean) < 1e-7
    one, two = first - first.mean(), second - second.mean()
    covariance = (one[::2].mean() * two[1::2].mean() + one[1::2].mean() * two[::2].mean()) / 2
    assert abs((one.var() + two.var() + 2 * covariance) / deviation**2 - 1) < 1e-6
    assert first.max() + second.max() > mean + 6 * deviation
    assert first.min() + second.min() < mean + lowest * deviation


@pytest.mark.parametrize("zeta", [0.0025, 0.05, 1.0])
def test_poisson_tables_hold_the_exact_probabilities(zeta):
    """For every 8-bit value, over all words: those below a slot's threshold yield its own count."""
    tables = poisson_tables(zeta)
    thresholds, aliases, differences = (table.astype(np.float64).reshape(256, 256) for table in tables)
    kept = np.clip(thresholds / 2**24 - np.arange(256), 0, 1) / 256
    outcomes = np.arange(int(max((aliases + differences).max(), aliases.max())) + 1)
    for value in range(256):
        share = np.bincount((aliases + differences)[value].astype(int), kept[value], outcomes.size)
        share += np.bincount(aliases[value].astype(int), 1 / 256 - kept[value], outcomes.size)
        error = share - stats.poisson.pmf(outcomes, value / (255 * zeta))
        assert np.abs(error).max() < 1e-7 and np.abs(np.cumsum(error)).max() < 1e-6


# --- distributions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma, value", [(25 / 255, 128), (50 / 255, 0), (1.0, 255)])
def test_gaussian_noise_against_scipy(sigma, value):
    assert stats.kstest(corrupted(Gaussian(sigma), value), stats.norm(value / 255, sigma).cdf).pvalue > 1e-4


@pytest.mark.parametrize("k, value", [(10.0, 200), (100.0, 1), (10_000.0, 255)])
def test_gamma_noise_against_scipy(k, value):
    assert stats.kstest(corrupted(Gamma(k), value), stats.gamma(k, scale=value / (255 * k)).cdf).pvalue > 1e-4


@pytest.mark.parametrize("zeta, value", [(0.0025, 255), (0.01, 128), (0.05, 10), (0.05, 200), (1.0, 255)])
def test_poisson_noise_against_scipy(zeta, value):
    noisy = corrupted(Poisson(zeta), value)
    counts = np.round(noisy / zeta).astype(int)
    np.testing.assert_allclose(noisy, counts * zeta, rtol=1e-6)
    seen, expected = (
        np.bincount(counts),
        counts.size * stats.poisson.pmf(np.arange(counts.max() + 1), value / (255 * zeta)),
    )
    common = expected > 10
    seen = [*seen[common], seen[~common].sum()]
    expected = [*expected[common], counts.size - expected[common].sum()]
    assert stats.chisquare(seen, expected).pvalue > 1e-4


@pytest.mark.parametrize("noise", [Poisson(0.05), Gamma(50.0)])
def test_black_stays_black(noise):
    assert not corrupted(noise, 0).any()


@pytest.mark.parametrize(("zeta", "sigma", "value"), [(0.01, 0.02, 128), (0.001, 0.005, 255), (0.05, 0.1, 3)])
def test_mixed_noise_against_its_law(zeta, sigma, value):
    """A sum over counts of normal distribution functions."""
    mean = value / 255 / zeta
    counts = np.arange(max(0, int(mean - 12 * mean**0.5 - 12)), int(mean + 12 * mean**0.5 + 30))
    points = np.linspace(zeta * counts[0] - 6 * sigma, zeta * counts[-1] + 6 * sigma, 1001)
    law = stats.norm.cdf(points[:, None], zeta * counts, sigma) @ stats.poisson.pmf(counts, mean)
    drawn = corrupted(PoissonGaussian(zeta, sigma), value)
    assert stats.kstest(drawn, lambda x: np.interp(x, points, law)).pvalue > 1e-4


def test_further_words_are_independent_of_the_first():
    """Each bit of one against each of the other, and the normals that they give."""
    first = pixel_bits(channels=1, side=400)
    planes = [
        np.stack([signs(half, bit).ravel() for half in bits.halves() for bit in range(16)])
        for bits in (first, first.others())
    ]
    between = products(*planes) / np.sqrt(planes[0].shape[1])
    constant = [0, 16]  # words are odd: these two bits of a word are one another's opposite
    between = np.delete(np.delete(between, constant, 0), constant, 1)
    assert stats.chi2.sf((between.astype(np.float64) ** 2).sum(), between.size) > 1e-4
    normal = [frozen.draw_sum(normal_tables(1.0), bits, MATH).astype(np.float64) for bits in (first, first.others())]
    for one, two in ((normal[0], normal[1]), (normal[0] ** 2 - 1, normal[1] ** 2 - 1)):
        assert abs((one * two).mean()) / np.sqrt((one**2).mean() * (two**2).mean()) < 5 / 400


# --- independence -----------------------------------------------------------------------------------


def bit_planes(channels: int = 1, side: int = 400) -> np.ndarray:
    """The bits of both halves of each pixel's word, as signs: float32 [31, C, H, W]."""
    first, second = pixel_bits(channels=channels, side=side).halves()
    return np.stack([*(signs(first, bit) for bit in range(16)), *(signs(second, bit) for bit in range(1, 16))])


def test_the_halves_are_one_of_each_parity():
    """What is left out of bit_planes, and why neighbours in a table lie at an even and the next odd place."""
    first, second = pixel_bits().halves()
    assert ((first ^ second) & np.uint32(1) == 1).all() and max(first.max(), second.max()) < 65536
    for table in (*normal_tables(1.0), *gamma_tables(50.0)):
        ranks = np.argsort(np.argsort(table.astype(np.float64), kind="stable"), kind="stable")
        assert (np.abs(ranks[::2] - ranks[1::2]) <= 2).all()  # float32 makes a few neighbours equal
        assert abs(np.corrcoef(table[:-2], table[2:])[0, 1]) < 0.03  # and pairs are in no order


def test_every_bit_is_fair_and_independent():
    """31 bits a pixel, none biased, no two correlated."""
    all_signs = bit_planes().reshape(31, -1)
    pixels = all_signs.shape[1]
    assert np.abs(all_signs.sum(1) / np.sqrt(pixels)).max() < 5
    between = (products(all_signs, all_signs) / np.sqrt(pixels))[np.triu_indices(31, 1)]
    assert stats.chi2.sf((between.astype(np.float64) ** 2).sum(), between.size) > 1e-4
    assert np.abs(between).max() < 5.5  # of 465


@pytest.mark.parametrize("down, across", [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (0, 64), (64, 0), (17, 301)])
def test_neighbours_are_independent(down, across):
    noise = normals()
    moved = np.roll(noise, (down, across), axis=(1, 2))
    for one, two in ((noise, moved), (noise**2 - 1, moved**2 - 1), (noise**2 - 1, moved)):
        assert abs((one * two).mean() / (one * two).std()) < 5 / np.sqrt(noise.size)


def test_channels_images_and_seeds_are_independent():
    noise = normals()
    others = [noise[1], noise[2], normals("b.png")[0], normals(seed=1)[0], noise[0].T]
    for other in others:
        assert abs(np.corrcoef(noise[0].ravel(), other.ravel())[0, 1]) < 5 / SIDE
        assert abs(np.corrcoef(noise[0].ravel() ** 2, other.ravel() ** 2)[0, 1]) < 5 / SIDE


def rectangles(field: np.ndarray) -> float:
    """Mean of n[r,c] n[r,c'] n[r',c] n[r',c'] over all rectangles of a field [H, W], in its standard errors.

    For unit-variance white noise the products have variance 1 and no two of them are correlated. Any
    structure that is separable in rows and columns, as that of the keys is, shows here and not in correlations.
    """
    height, width = field.shape
    gram, squares = field @ field.T, field**2 @ (field**2).T
    above = np.triu_indices(height, 1)
    count = len(above[0]) * width * (width - 1) / 2
    return float(((gram**2 - squares)[above] / 2).sum(dtype=np.float64) / np.sqrt(count))


def test_rectangles_show_what_the_halves_hide():
    """Bits 1 and 2 of a product of odd numbers are sums of their factors' bits: the statistic must see it."""
    word = pixel_bits(channels=1, side=512).word[0]
    for bit in (1, 2):
        assert rectangles(signs(word, bit)) > 1e4


def test_bits_have_no_rectangles():
    """Every bit and random parities of bits; but for a trace of 1 in 10,000 in the product's bits 16 and 17.

    Those are the two lowest of the first half, and the second half's bit 1 repeats one of them.
    """
    planes, rng = bit_planes(side=384)[:, 0], np.random.default_rng(0)
    deviations = [rectangles(plane) for plane in planes]
    count = (384 * 383 / 2) ** 2
    for faint in (16, 1, 0):
        assert abs(deviations.pop(faint)) / np.sqrt(count) < 2e-4
    for _ in range(16):
        deviations.append(rectangles(np.prod(planes[rng.random(31) < 0.5], axis=0)))
    assert np.abs(deviations).max() < 5
    assert stats.chi2.sf(np.square(deviations).sum(), len(deviations)) > 1e-4


def test_noise_has_no_rectangles():
    """Each family, as it is, squared, and its sign; shuffled tables make nothing of any trace in the bits."""
    clean, deviations = np.full((1, 512, 512), 100, np.uint8), []
    for model in (Gaussian(0.1), Gamma(50.0), Poisson(0.01), PoissonGaussian(0.01, 0.05)):
        noise = model.draw(clean, pixel_bits(channels=1, side=512), MATH)[0]
        noise = (noise - noise.mean(dtype=np.float64)) / noise.std()
        square = noise**2 - (noise**2).mean(dtype=np.float64)
        sign = np.sign(noise - np.median(noise) - 1e-6)
        deviations += [rectangles(field.astype(np.float64)) for field in (noise, square / square.std(), sign)]
    assert np.abs(deviations).max() < 5
    assert stats.chi2.sf(np.square(deviations).sum(), len(deviations)) > 1e-4


def test_the_field_has_full_rank():
    """Singular values of an N x N white field fill [0, 2 sqrt(N)] (Marchenko & Pastur); separable ones stand out."""
    values = np.linalg.svd(normals(channels=1, side=512)[0], compute_uv=False)
    assert abs(values[0] / (2 * np.sqrt(512)) - 1) < 0.03
    assert abs(np.median(values**2) / 512 - 0.6528) < 0.02  # the law's median for a square field: 0.6528 N


def test_the_power_spectrum_is_flat():
    noise = normals(channels=1, side=512)[0]
    power = np.abs(np.fft.fft2(noise)) ** 2 / noise.size
    half = power[
        :, 1:256
    ]  # one of each pair of conjugate frequencies; 2 power is chi-squared with 2 degrees of freedom
    assert stats.kstest(half.ravel(), "expon").pvalue > 1e-4
    for axis in (0, 1):
        sums = 2 * half.sum(axis)
        p_values = stats.chi2.sf(sums, 2 * half.shape[axis])
        assert stats.kstest(p_values, "uniform").pvalue > 1e-4
    assert half.max() < np.log(half.size) + 9


def test_noise_depends_on_the_key_alone():
    """A crop's noise is the part of its image's noise: the same function of the same keys."""
    down, across = pixel_keys()
    part = frozen.PixelBits(down[:, 100:164], across[:, :, 300:364], MATH)
    noise = frozen.draw_sum(normal_tables(1.0), part, MATH)
    np.testing.assert_array_equal(noise, normals()[:, 100:164, 300:364].astype(np.float32))


def test_noise_is_pinned():
    """This noise is in every frozen noisy data set: a change of it is a change of all results."""
    bits = pixel_bits(side=2, channels=1)
    assert bits.word.ravel().tolist() == [1279386013, 1329408385, 1021303499, 617117703]
    assert [half.ravel().tolist() for half in bits.halves()] == [
        [19521, 20285, 15583, 9416],
        [44508, 26300, 58900, 23759],
    ]
    gray = np.full((1, 2, 2), 128, np.uint8)
    for model, expected in (
        (Gaussian(25 / 255), [0.4307060, 0.4558011, 0.3401607, 0.5285379]),
        (Poisson(0.01), [0.46, 0.44, 0.48, 0.54]),
        (Gamma(100.0), [0.4638551, 0.4756537, 0.4206274, 0.5126693]),
        (PoissonGaussian(0.01, 0.02), [0.4782760, 0.4712061, 0.4670242, 0.5734580]),
    ):
        np.testing.assert_allclose(model.draw(gray, bits, MATH).ravel(), expected, rtol=0, atol=2e-7)


def test_a_tile_gets_the_noise_of_its_place():
    """corrupt_tile is the part of the whole image's noise where the tile lies."""
    image = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)
    key = hashing.name_key("a.png")
    for model in (Gaussian(0.1), Poisson(0.05), Gamma(50.0)):
        whole = frozen.corrupt_tile(model, image, key, 0, 0, 7)
        part = frozen.corrupt_tile(model, image[30:94, 100:228], key, 30, 100, 7)
        assert whole.dtype == np.float32
        np.testing.assert_array_equal(part, whole[30:94, 100:228])
