"""Frozen noise as DALI arithmetic: each pixel's noise is a pure function of (seed, image, row, column, channel).

    row keys (host) ────┐
                        ├──► product ──► a word a pixel ──► two shuffled tables ──► noise
    column keys (host) ─┘

DALI's own generators depend on the pipeline's seed and iteration, so their noise can't be frozen,
resumed or shared by overlapping crops. Here the host hashes only rows and columns (hashing.py); all
that is done a pixel is a little arithmetic and two or three table look-ups, the same operators on
the CPU and on the GPU, and only for the pixels of the crop.

The functions here take any arrays that have operators: `ArrayMath` adds the rest, for NumPy or for
DALI. NumPy is the reference that the tests hold DALI to, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import format_noise
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError

TABLE_SIZE = 65536  # DALI's look-up tables take 16-bit keys
_BORDERS = np.linspace(0, 1, TABLE_SIZE + 1)  # between equally likely bins
_POISSON_SLOTS = 256
_KEEP_STEPS = 65536  # in which a slot's probability is counted: float32 holds such thresholds exactly
# The two draws that are added for one of the noise's own: equal shares would let a symmetric sum be exactly its mean.
_SHARES = (0.49, 0.51)


@dataclass(frozen=True)
class ArrayMath:
    """What arithmetic needs beyond operators: typed constants and table look-ups."""

    u32: Callable[[int], Any]  # a uint32 scalar
    f32: Callable[[float], Any]  # a float32 scalar
    lookup: Callable[[Any, np.ndarray], Any]  # (uint32 indices below 65536, table [65536]) -> the table's type


def numpy_math() -> ArrayMath:
    return ArrayMath(np.uint32, np.float32, lambda index, table: table[index])


def pixel_keys(
    image_keys: np.ndarray, seed: int, rows: np.ndarray, columns: np.ndarray, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the rows and of the columns of some crops, for every channel: odd uint32 [B, C, H] and [B, C, W].

    image_keys: uint64 [B]. rows: int [B, H], columns: int [B, W], both in pixels of the source image.
    """
    image_keys = np.asarray(image_keys, np.uint64)[:, None, None]
    subpixels = columns[:, None, :] * channels + np.arange(channels)[:, None]
    down = hashing.hash64(image_keys, seed, hashing.STREAM_ROW, rows[:, None, :]).repeat(channels, axis=1)
    across = hashing.hash64(image_keys, seed, hashing.STREAM_COLUMN, subpixels)
    # An odd factor permutes the words, so none is likelier than another.
    odd = np.uint32(1)
    return (down >> np.uint64(32)).astype(np.uint32) | odd, (across >> np.uint64(32)).astype(np.uint32) | odd


class PixelBits:
    """A random word for each pixel of a crop, uint32 [C, H, W], odd, and its two halves.

    down_keys: uint32 [C, H, 1], across_keys: uint32 [C, 1, W], as pixel_keys makes them. The word is
    their product modulo 2^32: two rows' words are in a fixed ratio, random and odd, which leaves no
    trace of order in them once a shuffled table is looked up.
    """

    def __init__(self, down_keys: Any, across_keys: Any, math: ArrayMath) -> None:
        self.word = down_keys * across_keys
        self._math = math

    def halves(self) -> tuple[Any, Any]:
        """Two independent words below 65536 a pixel: uint32 [C, H, W] each.

        A product's low bits depend on its factors' low bits alone; XOR with the high half, which
        depends on all, hides it.
        """
        high = self.word >> self._math.u32(16)
        return high, (self.word ^ high) & self._math.u32(0xFFFF)


def shuffled(table: np.ndarray, key: int) -> np.ndarray:
    """A sorted table of even length in a pseudo-random order, always the same, in which pairs of neighbours stay whole.

    Words are odd, so one bit of the second half repeats one of the first. As the bit that tells a
    pair's two entries apart, it decides next to nothing.
    """
    pairs = len(table) // 2
    places = hashing.permute(np.arange(pairs), pairs, np.uint64(key))
    out = np.empty_like(table)
    out[2 * places], out[2 * places + 1] = table[::2], table[1::2]
    return out


def bin_means(below: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Means of a distribution in 65,536 equally likely bins, spread a little to its own standard deviation.

    below: its partial means E[X; X < x] at the bins' borders, float64 [65537].
    """
    means = TABLE_SIZE * np.diff(below)
    return mean + (means - mean) * (std / means.std())


def draw_sum(tables: tuple[np.ndarray, np.ndarray], bits: PixelBits, math: ArrayMath) -> Any:
    """The sum of two independent draws, one from each table: float32 [C, H, W]."""
    first, second = bits.halves()
    return math.lookup(first, tables[0]) + math.lookup(second, tables[1])


@lru_cache(16)
def normal_tables(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Entries that add up to N(0, sigma^2): two float32 [65536].

    The largest error of the sum's distribution function is under 1e-6, and it reaches beyond six
    standard deviations.
    """
    borders = special.ndtri(_BORDERS)
    means = bin_means(-np.exp(-(borders**2) / 2) / np.sqrt(2 * np.pi), 0, 1)
    return tuple(  # type: ignore[return-value]
        shuffled(means * (sigma * share**0.5), key).astype(np.float32) for key, share in enumerate(_SHARES)
    )


@lru_cache(16)
def gamma_tables(k: float) -> tuple[np.ndarray, np.ndarray]:
    """Entries that add up to Gamma(shape k, mean 1): two float32 [65536].

    A Gamma variable is the sum of two whose shapes add up to its own. The largest error of the
    distribution function is under 1e-6.
    """
    tables = []
    for key, share in enumerate(_SHARES):
        shape = share * k
        below = shape * special.gammainc(shape + 1, special.gammaincinv(shape, _BORDERS))
        means = bin_means(below, shape, shape**0.5)
        tables.append(shuffled(means / k, key).astype(np.float32))
    return tuple(tables)  # type: ignore[return-value]


@lru_cache(16)
def poisson_tables(zeta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walker's alias tables of Poisson(v / (255 zeta)) for every 8-bit value v: three [65536].

    Entry 256 v + slot: the word below which the slot's own count is taken (uint32), the other count
    that it may yield (its alias) and how far its own is from that (float32). A word's upper 8 bits
    are the slot. 256 counts around the mean hold all but 2e-9 of the probability, as long as
    zeta >= 0.0025; each count's probability is right to 1e-7.
    """
    places = hashing.permute(np.arange(_POISSON_SLOTS), _POISSON_SLOTS, np.uint64(0))
    thresholds, aliases, differences = (np.zeros((256, _POISSON_SLOTS)) for _ in range(3))
    for value in range(256):
        mean = value / (255 * zeta)
        counts = np.arange(_POISSON_SLOTS) + max(0, int(mean) - _POISSON_SLOTS // 2)
        keep, partner = _alias(np.exp(special.xlogy(counts, mean) - mean - special.gammaln(counts + 1)))
        # Below 2^32 even for the last slot: the few words above are given its alias, itself.
        thresholds[value, places] = np.minimum(places * 2.0**24 + keep * (2**24 // _KEEP_STEPS), 2.0**32 - 2**8)
        aliases[value, places], differences[value, places] = counts[partner], counts - counts[partner]
    return (
        thresholds.reshape(-1).astype(np.uint32),
        aliases.reshape(-1).astype(np.float32),
        differences.reshape(-1).astype(np.float32),
    )


def _alias(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each slot, in how many of _KEEP_STEPS cases it yields its own outcome, and else which other: int [N] both.

    What rounding takes from one slot is given to the next, so errors do not add up.
    """
    share = probability * (len(probability) / probability.sum())
    keep, partner = np.full(share.shape, _KEEP_STEPS), np.arange(share.size)
    poor = [slot for slot in range(share.size) if share[slot] < 1]
    rich = [slot for slot in range(share.size) if share[slot] >= 1]
    carry = 0.0
    while poor and rich:
        slot, donor = poor.pop(), rich[-1]
        exact = share[slot] * _KEEP_STEPS + carry
        keep[slot], partner[slot] = min(max(round(exact), 0), _KEEP_STEPS), donor
        carry = exact - keep[slot]
        share[donor] -= 1 - keep[slot] / _KEEP_STEPS
        if share[donor] < 1:
            poor.append(rich.pop())
    return keep, partner


def draw_poisson(zeta: float, clean: Any, bits: PixelBits, math: ArrayMath) -> Any:
    """Poisson(clean / (255 zeta)) from one word a pixel. clean: uint8; returns float32 counts."""
    slot = clean * math.u32(_POISSON_SLOTS) + (bits.word >> math.u32(24))
    thresholds, aliases, differences = (math.lookup(slot, table) for table in poisson_tables(zeta))
    return aliases + (bits.word < thresholds) * differences


def corrupt(noise: NoiseModel, clean: Any, bits: PixelBits, math: ArrayMath) -> Any:
    """Noisy image on the 0-1 scale, unclipped. clean: uint8 [C, H, W]; returns float32 [C, H, W]."""
    match noise:
        case Gaussian(sigma):
            return clean * math.f32(1 / 255) + draw_sum(normal_tables(sigma), bits, math)
        case Poisson(zeta):
            return draw_poisson(zeta, clean, bits, math) * math.f32(zeta)
        case Gamma(k):
            return clean * math.f32(1 / 255) * draw_sum(gamma_tables(k), bits, math)
        case PoissonGaussian():
            raise UserError(f"noise {format_noise(noise)} can't be drawn by the loader: take one of its parts")


def corrupt_tile(noise: NoiseModel, tile: np.ndarray, image_key: int, row: int, column: int, seed: int) -> np.ndarray:
    """A tile with the frozen noise that the loader gives its pixels: float32 [H, W, C] on the 0-1 scale, unclipped.

    tile: uint8 [H, W, C]. image_key, row, column: where it lies, as in the reader's Sample.
    """
    height, width, channels = tile.shape
    rows, columns = (start + np.arange(length)[None] for start, length in ((row, height), (column, width)))
    down, across = pixel_keys(np.array([image_key], np.uint64), seed, rows, columns, channels)
    math = numpy_math()
    bits = PixelBits(down[0, :, :, None], across[0, :, None, :], math)
    return corrupt(noise, tile.transpose(2, 0, 1), bits, math).transpose(1, 2, 0)
