"""Frozen noise made of hashes, tables and arithmetic: is it the noise that it claims to be, and independent?

All draws here are NumPy's, of keys made as loader.py makes them; test_loader.py holds DALI to them.
Statistics are held to five standard errors, p-values to 1e-4; nothing here is random from run to run.
"""

import dataclasses

import numpy as np
import pytest
from scipy import integrate, stats

from n2s_dist import dali_noise, order
from n2s_dist.noise import Gamma, Gaussian, Poisson

MATH = dali_noise.numpy_math()
CHANNELS, SIDE = 3, 600  # over a million pixels


def pixel_keys(image: str = "a.png", seed: int = 0, channels: int = CHANNELS, side: int = SIDE) -> tuple:
    """Keys of all pixels of an image, uint32 [C, H, 1] and [C, 1, W], as the loader makes them."""
    image_key, pixels = np.uint64(order.name_key(image)), np.arange(side)
    rows = order.hash64(image_key, seed, order.STREAM_ROW, pixels[None]).repeat(channels, axis=0)
    columns = order.hash64(image_key, seed, order.STREAM_COLUMN, pixels[None] * channels + np.arange(channels)[:, None])
    down, across = ((keys >> np.uint64(32)).astype(np.uint32) for keys in (rows, columns))
    return down[:, :, None], across[:, None, :]


def pixel_bits(*args, **kwargs) -> dali_noise.PixelBits:
    return dali_noise.PixelBits(*pixel_keys(*args, **kwargs), MATH)


def normals(*args, **kwargs) -> np.ndarray:
    """float64 [C, H, W]."""
    return dali_noise.draw_normal(pixel_bits(*args, **kwargs), MATH).astype(np.float64)


def corrupted(noise, value: int) -> np.ndarray:
    clean = np.full((CHANNELS, SIDE, SIDE), value, np.uint8)
    noisy = dali_noise.corrupt(noise, clean, pixel_bits(), MATH)
    assert noisy.dtype == np.float32 and noisy.shape == clean.shape
    return noisy.astype(np.float64).ravel()


def signs(word: np.ndarray, bit: int) -> np.ndarray:
    """A bit of each pixel's word as +1 or -1: float32, in which sums of so few are exact."""
    return 1 - 2 * (word >> np.uint32(bit) & np.uint32(1)).astype(np.float32)


# --- tables -----------------------------------------------------------------------------------------


def looked_up_tables(scale: float = 1.0) -> list[np.ndarray]:
    """The two tables whose entries draw_normal adds."""
    seen = []

    def lookup(index, table):
        seen.append(table.astype(np.float64))
        return table[index]

    dali_noise.draw_normal(pixel_bits(side=2), dataclasses.replace(MATH, lookup=lookup), scale)
    return seen


def test_normal_draws_have_the_normal_distribution():
    """Over all 2^32 pairs of entries, on both sides of each step: the distribution function is right to 1e-6."""
    first, second = looked_up_tables()
    x = np.concatenate([np.linspace(-6.2, 6.2, 125), [-1e-4, -1e-9, 1e-9, 1e-4]])  # zero is among them
    for side in ("left", "right"):
        shares = [np.searchsorted(np.sort(first), value - second, side).mean() / first.size for value in x]
        assert np.abs(shares - stats.norm.cdf(x)).max() < 1e-6


@pytest.mark.parametrize("scale", [1.0, 25 / 255])
def test_normal_draws_have_the_right_moments_and_reach(scale):
    first, second = looked_up_tables(scale)
    assert abs(first.mean() + second.mean()) < 1e-7 * scale
    assert abs((first.var() + second.var()) / scale**2 - 1) < 1e-6
    assert first.max() + second.max() > 6 * scale and first.min() + second.min() < -6 * scale


@pytest.mark.parametrize("zeta", [0.0025, 0.01, 0.05, 1.0])
def test_poisson_tables_hold_the_exact_probabilities(zeta):
    """For every 8-bit value, with the 24 bits that choose between slot and alias counted as they are compared."""
    keep, counts, aliases = (table.astype(np.float64).reshape(256, 256) for table in dali_noise.poisson_tables(zeta))
    kept = np.ceil(keep * 2**24) / 2**24 / 256  # the share of words whose upper 24 bits, times 2^-24, are below keep
    outcomes = np.arange(int(max(counts.max(), aliases.max())) + 1)
    for value in range(256):
        share = np.bincount(counts[value].astype(int), kept[value], outcomes.size)
        share += np.bincount(aliases[value].astype(int), 1 / 256 - kept[value], outcomes.size)
        np.testing.assert_allclose(share, stats.poisson.pmf(outcomes, value / (255 * zeta)), rtol=0, atol=1e-8)


# --- distributions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma, value", [(25 / 255, 128), (50 / 255, 0), (1.0, 255)])
def test_gaussian_noise_against_scipy(sigma, value):
    assert stats.kstest(corrupted(Gaussian(sigma), value), stats.norm(value / 255, sigma).cdf).pvalue > 1e-4


@pytest.mark.parametrize("k, value", [(10.0, 200), (50.0, 128), (100.0, 1), (10_000.0, 255)])
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


@pytest.mark.parametrize("shape, both_refused", [(10.0, 1 / 40_000), (50.0, 1e-6)])
def test_gamma_proposals_are_refused_as_rarely_as_stated(shape, both_refused):
    d = shape - 1 / 3

    def accepted_density(x: float) -> float:
        cube = (1 + x / np.sqrt(9 * d)) ** 3
        return 0.0 if cube <= 0 else stats.norm.pdf(x) * min(1.0, np.exp(x * x / 2 + d * (1 - cube + np.log(cube))))

    refused = 1 - integrate.quad(accepted_density, -8, 8, limit=200)[0]
    assert refused**2 < both_refused
    _, accepted = dali_noise._gamma_proposal(d, pixel_bits(), MATH)
    assert abs((1 - accepted).mean() - refused) < 5 * np.sqrt(refused / accepted.size)


def test_gamma_takes_its_second_proposal_where_the_first_is_refused():
    d, bits = 10.0 - 1 / 3, pixel_bits()
    (first, accepted), (second, _) = (dali_noise._gamma_proposal(d, bits, MATH) for _ in range(2))
    assert 1000 < (accepted == 0).sum() < 0.01 * accepted.size
    expected = d * np.where(accepted == 1, first, second)
    np.testing.assert_allclose(dali_noise.draw_gamma(10.0, pixel_bits(), MATH), expected, rtol=1e-5)


# --- independence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 4096])
def test_mixing_gives_different_states_different_words(step):
    states = np.arange(2**18, dtype=np.uint32) * np.uint32(step)
    assert len(np.unique(dali_noise.mix32(states, MATH))) == states.size


def test_every_bit_of_every_draw_is_fair_and_independent():
    """Of four draws, as gamma noise makes them: 128 bits a pixel, none biased, no two correlated."""
    bits = pixel_bits(channels=1, side=400)
    words = [bits.draw().ravel() for _ in range(4)]
    all_signs = np.stack([signs(word, bit) for word in words for bit in range(32)])
    pixels = all_signs.shape[1]
    assert np.abs(all_signs.sum(1) / np.sqrt(pixels)).max() < 5
    between = (all_signs @ all_signs.T / np.sqrt(pixels))[np.triu_indices(128, 1)]
    assert stats.chi2.sf((between.astype(np.float64) ** 2).sum(), between.size) > 1e-4
    assert np.abs(between).max() < 5.5  # of 8,128


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


def test_rectangles_show_what_mixing_removes():
    """Before mixing, the parity of any bit over a rectangle's corners is even: the statistic must see it."""
    down, across = pixel_keys(channels=1, side=512)
    raw = (down ^ across)[0]
    for bit in (0, 13, 31):
        assert rectangles(signs(raw, bit)) > 1e4


def test_mixing_leaves_no_rectangles():
    """Every bit of three draws, random parities of bits, and the normal noise itself."""
    bits, rng = pixel_bits(channels=1, side=384), np.random.default_rng(0)
    words = [bits.draw()[0] for _ in range(3)]
    deviations = [rectangles(signs(word, bit)) for word in words for bit in range(32)]
    for mask in rng.integers(1, 2**32, 32, dtype=np.uint32):
        deviations.append(rectangles(signs(np.bitwise_count(words[0] & mask).astype(np.uint32), 0)))
    noise = normals(channels=1, side=384)[0]
    deviations += [rectangles(noise), rectangles((noise**2 - 1) / np.sqrt(2)), rectangles(np.sign(noise))]
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
    part = dali_noise.PixelBits(down[:, 100:164], across[:, :, 300:364], MATH)
    np.testing.assert_array_equal(
        dali_noise.draw_normal(part, MATH), normals()[:, 100:164, 300:364].astype(np.float32)
    )  # fmt: skip


def test_noise_is_pinned():
    """These words are in every frozen noisy data set: a change of them is a change of all results."""
    bits = pixel_bits(side=2, channels=1)
    assert [bits.draw().ravel().tolist() for _ in range(2)] == [
        [1861314859, 212749727, 2691377657, 3576104826],
        [859484732, 636366143, 3161703832, 2653930654],
    ]
