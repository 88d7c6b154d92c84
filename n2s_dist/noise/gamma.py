"""Gamma noise: speckle, in proportion to the intensity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import special

from n2s_dist.noise.frozen import BORDERS, SHARES, ArrayMath, PixelBits, bin_means, draw_sum, shuffled
from n2s_dist.noise.model import NoiseModel, Parameter
from n2s_dist.noise.transforms import DARK, DIM, haar, spread

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor


@dataclass(frozen=True)
class Gamma(NoiseModel):
    """y = x g, g ~ Gamma(shape k, mean 1)."""

    k: float
    family = "gamma"
    parameters = (Parameter("k", 10, 10_000, power=-1),)
    title = "Gamma, k = {}"
    is_nonnegative = True
    is_divisible = True
    paper_sigma_a = (0.05, 0.001)

    def std(self, x: Any) -> Any:
        return x / self.k**0.5

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return clean * rng.gamma(self.k, 1 / self.k, clean.shape)

    def draw(self, clean: Any, bits: PixelBits, arrays: ArrayMath) -> Any:
        return clean * arrays.f32(1 / 255) * draw_sum(gamma_tables(self.k), bits, arrays)

    def stabilize(self, y: Tensor) -> Tensor:
        """z = sqrt(k) log y. Noise leaves black pixels black, and log 0 is no number: DARK stands in for less."""
        return self.k**0.5 * y.clamp(min=DARK).log()

    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = k y / (k - sqrt(k) s_z): the paper's formula, since y s(y) = sqrt(k) s_z - 1."""
        return self.k * y / (self.k - self.k**0.5 * score).clamp(min=self.k / 10)

    def std_at(self, z: Tensor) -> Tensor:
        """y / sqrt(k)."""
        return (z / self.k**0.5).exp().clamp(min=DARK) / self.k**0.5

    @property
    def stable_std(self) -> float:
        """log g has the variance trigamma(k)."""
        return float(np.sqrt(self.k * special.polygamma(1, self.k)))

    def unbiased_inverse(self, mean: Tensor) -> Tensor:
        """E[log y] = log x + digamma(k) - log k."""
        return (mean / self.k**0.5 - float(special.digamma(self.k)) + math.log(self.k)).exp()

    def variance_around(self, y: Tensor) -> Tensor:
        """y^2 / k is too large by 1 + 1/k on average."""
        return y**2 / (self.k + 1)

    def first_guess(self, pieces: Tensor) -> Self:
        """From the logarithm, of bright pixels where there are some."""
        diagonal, mean = haar(pieces.clamp(min=DARK).log())
        bright = mean > math.log(DIM)
        return self.with_values(spread(diagonal[bright] if bright.float().mean() > 0.05 else diagonal) ** -1.0)

    def natural(self, y: Tensor) -> Tensor:
        return y

    def natural_posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = k y / ((k - 1) - y s(y)) = 1 / E[1/x | y]: a harmonic, not an arithmetic, mean.

        The denominator is k times y / x_hat; a score so wrong that it falls under k / 10 is held there.
        """
        return self.k * y / ((self.k - 1) - y * score).clamp(min=self.k / 10)


@lru_cache(16)
def gamma_tables(k: float) -> tuple[np.ndarray, np.ndarray]:
    """Entries that add up to Gamma(shape k, mean 1): two float32 [65536].

    A Gamma variable is the sum of two whose shapes add up to its own. The largest error of the
    distribution function is under 1e-6.
    """
    tables = []
    for key, share in enumerate(SHARES):
        shape = share * k
        below = shape * special.gammainc(shape + 1, special.gammaincinv(shape, BORDERS))
        means = bin_means(below, shape, shape**0.5)
        tables.append(shuffled(means / k, key).astype(np.float32))
    return tuple(tables)  # type: ignore[return-value]
