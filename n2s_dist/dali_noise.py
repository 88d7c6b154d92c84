"""Frozen noise as DALI arithmetic: each pixel's noise is a pure function of (seed, image, row, column, channel).

    row keys (host) ────┐
                        ├──► XOR ──► mix ──► 32 random bits a pixel ──► tables ──► noise
    column keys (host) ─┘

DALI's own generators depend on the pipeline's seed and iteration, so their noise can't be frozen,
resumed or shared by overlapping crops. Here the host hashes only rows and columns (order.py); all
that is done a pixel is arithmetic and table look-ups, the same operators on the CPU and on the GPU,
and only for the pixels of the crop.

The functions here take any arrays that have operators: `ArrayMath` adds the rest, for NumPy or for
DALI. NumPy is the reference that the tests hold DALI to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

from n2s_dist.noise import Gamma, Gaussian, NoiseModel, Poisson

_TABLE_SIZE = 65536  # DALI's look-up tables take 16-bit keys
_POISSON_SLOTS = 256


@dataclass(frozen=True)
class ArrayMath:
    """What arithmetic needs beyond operators: typed constants, table look-ups, casts and functions."""

    u32: Callable[[int], Any]  # a uint32 scalar
    f32: Callable[[float], Any]  # a float32 scalar
    to_u32: Callable[[Any], Any]
    to_f32: Callable[[Any], Any]
    lookup: Callable[[Any, np.ndarray], Any]  # (uint32 indices below 65536, float32 table [65536]) -> float32
    log: Callable[[Any], Any]


def numpy_math() -> ArrayMath:
    return ArrayMath(
        np.uint32,
        np.float32,
        lambda x: x.astype(np.uint32),
        lambda x: x.astype(np.float32),
        lambda index, table: table[index],
        np.log,
    )


def dali_math() -> ArrayMath:
    import nvidia.dali.math
    from nvidia.dali import fn, types

    keys = list(range(_TABLE_SIZE))
    return ArrayMath(
        lambda value: types.Constant(value).uint32(),
        lambda value: types.Constant(value).float32(),
        lambda x: fn.cast(x, dtype=types.UINT32),
        lambda x: fn.cast(x, dtype=types.FLOAT),
        lambda index, table: fn.lookup_table(index, keys=keys, values=table.tolist(), dtype=types.FLOAT),
        nvidia.dali.math.log,
    )


def mix32(x: Any, math: ArrayMath) -> Any:
    """A bijection of uint32 in which each bit depends on all: MurmurHash3's finaliser but for its first shift.

    That shift would mix what the host's hash has mixed already (order.py).
    """
    x = x * math.u32(0x85EBCA6B)
    x = (x ^ (x >> math.u32(13))) * math.u32(0xC2B2AE35)
    return x ^ (x >> math.u32(16))


class PixelBits:
    """A stream of independent 32-bit words for each pixel.

    down_keys: uint32 [C, H, 1], across_keys: uint32 [C, 1, W]: hashes of (seed, image, row) and of
    (seed, image, column, channel). Their XOR is uniform but linear in rows and columns; the mixing
    removes the linearity.
    """

    def __init__(self, down_keys: Any, across_keys: Any, math: ArrayMath) -> None:
        self._math = math
        self._next = down_keys ^ across_keys

    def draw(self) -> Any:
        """The next word of every pixel: uint32 [C, H, W]."""
        word = mix32(self._next, self._math)
        self._next = (word ^ (word >> self._math.u32(15))) + self._math.u32(0x9E3779B9)
        return word


@cache
def normal_table() -> np.ndarray:
    """Means of N(0, 1) in 65,536 equally likely bins, scaled to variance 1: float32 [65536]."""
    edges = stats.norm.ppf(np.linspace(0, 1, _TABLE_SIZE + 1))
    means = -_TABLE_SIZE * np.diff(stats.norm.pdf(edges))
    return (means / means.std()).astype(np.float32)


def draw_normal(bits: PixelBits, math: ArrayMath, scale: float = 1.0) -> Any:
    """N(0, scale^2) from one word a pixel, as the sum of two table entries: float32.

    The largest error of its distribution function is under 1e-6, and it reaches beyond six standard
    deviations. The weights differ a little, since equal ones would let the sum cancel to exactly 0.
    """
    word = bits.draw()
    low, high = (normal_table() * np.float32(scale * weight**0.5) for weight in (0.49, 0.51))
    return math.lookup(word & math.u32(0xFFFF), low) + math.lookup(word >> math.u32(16), high)


def draw_gamma(shape: float, bits: PixelBits, math: ArrayMath) -> Any:
    """Gamma(shape, scale 1) by Marsaglia & Tsang (2000), for shape >= 10: float32.

    Two proposals, the second taken as it is when the first is refused: both are refused, and the
    second wrongly taken, less often than once in 40,000 pixels at shape 10 and in a million at 50.
    """
    d = shape - 1 / 3
    first, accepted = _gamma_proposal(d, bits, math)
    second, _ = _gamma_proposal(d, bits, math)
    return d * (second + accepted * (first - second))


def _gamma_proposal(d: float, bits: PixelBits, math: ArrayMath) -> tuple[Any, Any]:
    normal = draw_normal(bits, math)
    uniform = (math.to_f32(bits.draw() >> math.u32(8)) + 0.5) * 2.0**-24
    root = 1.0 + normal * (9 * d) ** -0.5
    cube = root * root * root
    accepted = math.log(uniform) < 0.5 * normal * normal + d * (1.0 - cube + math.log(cube))
    return cube, math.to_f32(accepted)


@cache
def poisson_tables(zeta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walker's alias tables of Poisson(v / (255 zeta)) for every 8-bit value v: three float32 [65536].

    Entry 256 v + slot: the probability of keeping the slot, the slot's count, and its alias's count.
    256 counts around the mean hold all but 2e-9 of the probability, as long as zeta >= 0.0025.
    """
    keep = np.ones((256, _POISSON_SLOTS))
    counts = np.zeros((256, _POISSON_SLOTS))
    aliases = np.zeros((256, _POISSON_SLOTS))
    for value in range(256):
        mean = value / (255 * zeta)
        counts[value] = np.arange(_POISSON_SLOTS) + max(0, int(mean) - _POISSON_SLOTS // 2)
        aliases[value] = counts[value]
        share = stats.poisson.pmf(counts[value], mean)
        share *= _POISSON_SLOTS / share.sum()
        poor = [slot for slot in range(_POISSON_SLOTS) if share[slot] < 1]
        rich = [slot for slot in range(_POISSON_SLOTS) if share[slot] >= 1]
        while poor and rich:
            slot, donor = poor.pop(), rich[-1]
            keep[value, slot], aliases[value, slot] = share[slot], counts[value, donor]
            share[donor] -= 1 - share[slot]
            if share[donor] < 1:
                poor.append(rich.pop())
    return tuple(table.reshape(-1).astype(np.float32) for table in (keep, counts, aliases))  # type: ignore[return-value]


def draw_poisson(zeta: float, clean: Any, bits: PixelBits, math: ArrayMath) -> Any:
    """Poisson(clean / (255 zeta)) from one word a pixel, exact to float32. clean: uint8; returns float32 counts."""
    word = bits.draw()
    slot = math.to_u32(clean) * math.u32(_POISSON_SLOTS) + (word & math.u32(0xFF))
    keep, counts, aliases = (math.lookup(slot, table) for table in poisson_tables(zeta))
    kept = math.to_f32(math.to_f32(word >> math.u32(8)) * 2.0**-24 < keep)
    return aliases + kept * (counts - aliases)


def corrupt(noise: NoiseModel, clean: Any, bits: PixelBits, math: ArrayMath) -> Any:
    """Noisy image on the 0-1 scale, unclipped. clean: uint8 [C, H, W]; returns float32 [C, H, W]."""
    match noise:
        case Gaussian(sigma):
            return clean * math.f32(1 / 255) + draw_normal(bits, math, scale=sigma)
        case Poisson(zeta):
            return draw_poisson(zeta, clean, bits, math) * zeta
        case Gamma(k):
            return clean * math.f32(1 / (255 * k)) * draw_gamma(k, bits, math)
