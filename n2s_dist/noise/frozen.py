"""Frozen noise as DALI arithmetic: each pixel's noise is a pure function of (seed, image, row, column, channel).

    row keys (host) ────┐
                        ├──► product ──► a word a pixel ──► two shuffled tables ──► noise
    column keys (host) ─┘

DALI's own generators depend on the pipeline's seed and iteration, so their noise can't be frozen,
resumed or shared by overlapping crops. Here the host hashes only rows and columns (pixel_keys); all
that is done a pixel is a little arithmetic and a few table look-ups, the same operators on
the CPU and on the GPU, and only for the pixels of the crop.

The functions here take any arrays that have operators: `ArrayMath` adds the rest, for NumPy or for
DALI. NumPy is the reference that the tests hold DALI to, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from n2s_dist.utils import hashing

if TYPE_CHECKING:
    from n2s_dist.noise.model import NoiseModel

TABLE_SIZE = 65536  # DALI's look-up tables take 16-bit keys
BORDERS = np.linspace(0, 1, TABLE_SIZE + 1)  # between equally likely bins
# The two draws that are added for one of the noise's own: equal shares would let a symmetric sum be exactly its mean.
SHARES = (0.49, 0.51)
_MIXERS = (0x7FEB352D, 0x45D9F3B)  # odd, and below 2^31, as DALI's constants have to be


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
        self.down_keys, self.across_keys, self._math = down_keys, across_keys, math

    def halves(self) -> tuple[Any, Any]:
        """Two independent words below 65536 a pixel: uint32 [C, H, W] each.

        A product's low bits depend on its factors' low bits alone; XOR with the high half, which
        depends on all, hides it.
        """
        high = self.word >> self._math.u32(16)
        return high, (self.word ^ high) & self._math.u32(0xFFFF)

    def others(self) -> PixelBits:
        """Further words, independent of these: those of mixed keys."""
        down, across = (self._mixed(key) for key in (self.down_keys, self.across_keys))
        return PixelBits(down, across, self._math)

    def _mixed(self, key: Any) -> Any:
        """Another odd key, by a bijection of uint32 in the manner of Mueller's integer hash."""
        u32 = self._math.u32
        for factor in _MIXERS:
            key = (key ^ (key >> u32(16))) * u32(factor)
        return (key ^ (key >> u32(16))) | u32(1)


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


def corrupt_tile(noise: NoiseModel, tile: np.ndarray, image_key: int, row: int, column: int, seed: int) -> np.ndarray:
    """A tile with the frozen noise that the loader gives its pixels: float32 [H, W, C] on the 0-1 scale, unclipped.

    tile: uint8 [H, W, C]. image_key, row, column: where it lies, as in the reader's Sample.
    """
    height, width, channels = tile.shape
    around = noise.margin
    rows = row + np.arange(-around, height + around)[None]
    columns = column + np.arange(-around, width + around)[None]
    down, across = pixel_keys(np.array([image_key], np.uint64), seed, rows, columns, channels)
    math = numpy_math()
    bits = PixelBits(down[0, :, :, None], across[0, :, None, :], math)
    return noise.draw(tile.transpose(2, 0, 1), bits, math).transpose(1, 2, 0)
