"""Poisson noise: the counting of photons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import special

from n2s_dist.noise.encoding import Encoding
from n2s_dist.noise.frozen import ArrayMath, PixelBits
from n2s_dist.noise.model import NoiseModel, Parameter
from n2s_dist.noise.transforms import DARK, DIM, black_anscombe, haar, inverse_anscombe, spread
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor

# Below the first, z = 2 sqrt(y / zeta), a float32, is rounded by more than a hundredth of the noise's deviation.
# Below the second, 16 bits do not hold the counts of values up to 1.3.
LOWEST_ZETA, LOWEST_STORED_ZETA = 1e-9, 2e-5
_SLOTS = 256
_FINE_STD = 20  # up to which each count has a slot of its own
_DIRECT_MEAN = 20  # up to which quantiles are found count by count
_KEEP_STEPS = 65536  # in which a slot's probability is counted: float32 holds such thresholds exactly


@dataclass(frozen=True)
class Poisson(NoiseModel):
    """y = zeta Poisson(x / zeta): zeta is the intensity of one photon."""

    zeta: float
    family = "poisson"
    parameters = (Parameter("zeta", LOWEST_ZETA, 1, power=1),)
    title = "Poisson, ζ = {}"
    is_nonnegative = True
    is_divisible = True
    paper_sigma_a = (1.0, 0.5)  # in counts

    def std(self, x: Any) -> Any:
        return (x * self.zeta) ** 0.5

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Whole multiples of zeta."""
        return self.zeta * rng.poisson(clean / self.zeta)

    def expose(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.zeta * poisson_quantiles(rng.random(clean.shape), clean / self.zeta)

    def draw(self, clean: Any, bits: PixelBits, arrays: ArrayMath) -> Any:
        return draw_counts(self.zeta, clean, bits, arrays) * arrays.f32(self.zeta)

    @property
    def encoding(self) -> Encoding:
        """Whole counts: no rounding."""
        check_countable(self.zeta)
        return Encoding("uint16", self.zeta, 0.0)

    def stabilize(self, y: Tensor) -> Tensor:
        """z = 2 sqrt(y / zeta + 3/8) (Anscombe 1948); smooth at zero counts, held below minus a quarter."""
        return 2 * ((y / self.zeta).clamp(min=-1 / 4) + 3 / 8).sqrt()

    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """Gaussian Tweedie in z, d = z + s_z, then the exact unbiased inverse of Anscombe's transform."""
        return self.zeta * inverse_anscombe(self.stabilize(y) + score)

    def std_at(self, z: Tensor) -> Tensor:
        """zeta z / 2, the root of zeta (y + 3/8 zeta)."""
        return self.zeta / 2 * z.clamp(min=black_anscombe())

    def first_guess(self, pieces: Tensor) -> Self:
        """From differences over the root of the mean, of bright pixels where there are some."""
        diagonal, mean = haar(pieces)
        diagonal, bright = diagonal / mean.clamp(min=DARK).sqrt(), mean > DIM
        return self.with_values(spread(diagonal[bright] if bright.float().mean() > 0.05 else diagonal))

    def natural(self, y: Tensor) -> Tensor:
        """Photon counts n = y / zeta."""
        return y / self.zeta

    def natural_posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = (y + zeta / 2) exp(s_n), s_n the score in counts: the paper's approximation."""
        return (y + self.zeta / 2) * score.exp()


def check_countable(zeta: float) -> None:
    """UserError for noise of more photons than can be drawn and stored."""
    if zeta < LOWEST_STORED_ZETA:
        raise UserError(
            f"Poisson noise of zeta {zeta:g} can't be drawn or stored: photons are counted in 16 bits, so the least "
            f"zeta is {LOWEST_STORED_ZETA:g}"
        )


def poisson_quantiles(share: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The counts below or at which a Poisson law has `share`, in [0, 1), of its probability: float64 of their shape.

    Exact for means up to 20; above, one in a hundred is off by one (Cornish & Fisher 1938), and none by more.
    """
    below, probability = share - np.exp(-mean), np.exp(-mean)
    few = mean <= _DIRECT_MEAN
    counts, count = np.zeros(mean.shape), 0
    while (further := few & (below > 0)).any() and count < 10 * _DIRECT_MEAN:
        count += 1
        probability *= mean / count
        counts += further
        below -= probability
    n, root = special.ndtri(np.clip(share, 1e-16, 1 - 1e-16)), np.sqrt(np.maximum(mean, _DIRECT_MEAN))
    many = np.rint(mean + root * n + (n**2 - 1) / 6 + (n - n**3) / (72 * root))
    return np.where(few, counts, many)


@lru_cache(16)
def poisson_tables(zeta: float, black: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walker's alias tables of Poisson((v / 255 - black) / zeta) for every 8-bit value v: three [65536].

    Entry 256 v + slot: the word below which the slot's own count is taken (uint32), the other count
    that it may yield (its alias) and how far its own is from that (float32). A word's upper 8 bits
    are the slot. 256 counts around the mean hold all but 2e-9 of the probability of at most 400; each
    count's probability is right to 1e-7. For larger means a slot stands for 3, 5, ... neighbouring counts,
    a twentieth of a standard deviation.
    """
    check_countable(zeta)
    places = hashing.permute(np.arange(_SLOTS), _SLOTS, np.uint64(0))
    thresholds, aliases, differences = (np.zeros((256, _SLOTS)) for _ in range(3))
    for value in range(256):
        mean = max(0.0, value - 255 * black) / (255 * zeta)
        half = max(0, math.ceil((mean**0.5 / _FINE_STD - 1) / 2 - 1e-9))
        counts = (2 * half + 1) * (np.arange(_SLOTS) - _SLOTS // 2) + max(_SLOTS // 2, int(mean))
        share = np.sum([_probability(counts + offset, mean) for offset in range(-half, half + 1)], axis=0)
        keep, partner = _alias(share)
        # Below 2^32 even for the last slot: the few words above are given its alias, itself.
        thresholds[value, places] = np.minimum(places * 2.0**24 + keep * (2**24 // _KEEP_STEPS), 2.0**32 - 2**8)
        aliases[value, places], differences[value, places] = counts[partner], counts - counts[partner]
    return (
        thresholds.reshape(-1).astype(np.uint32),
        aliases.reshape(-1).astype(np.float32),
        differences.reshape(-1).astype(np.float32),
    )


def _probability(counts: np.ndarray, mean: float) -> np.ndarray:
    """Of Poisson counts, float64 of their shape."""
    return np.exp(special.xlogy(counts, mean) - mean - special.gammaln(counts + 1))


def _alias(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each slot, in how many of _KEEP_STEPS cases it yields its own outcome, and else which other: int [N] both.

    What rounding takes from one slot is given to the next, so errors do not add up.
    """
    share = (probability * (len(probability) / probability.sum())).tolist()  # Python's numbers are quicker one by one
    keep, partner = [_KEEP_STEPS] * len(share), list(range(len(share)))
    poor = [slot for slot in partner if share[slot] < 1]
    rich = [slot for slot in partner if share[slot] >= 1]
    carry = 0.0
    while poor and rich:
        slot, donor = poor.pop(), rich[-1]
        exact = share[slot] * _KEEP_STEPS + carry
        keep[slot], partner[slot] = min(max(round(exact), 0), _KEEP_STEPS), donor
        carry = exact - keep[slot]
        share[donor] -= 1 - keep[slot] / _KEEP_STEPS
        if share[donor] < 1:
            poor.append(rich.pop())
    return np.array(keep), np.array(partner)


def draw_counts(zeta: float, clean: Any, bits: PixelBits, arrays: ArrayMath, black: float = 0.0) -> Any:
    """Poisson((clean / 255 - black) / zeta) from one word a pixel. clean: uint8; returns float32 counts."""
    slot = clean * arrays.u32(_SLOTS) + (bits.word >> arrays.u32(24))
    thresholds, aliases, differences = (arrays.lookup(slot, table) for table in poisson_tables(zeta, black))
    return aliases + (bits.word < thresholds) * differences
