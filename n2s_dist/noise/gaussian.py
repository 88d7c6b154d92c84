"""Gaussian noise: the same strength at every intensity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import special

from n2s_dist.noise.encoding import HIGHEST, Encoding
from n2s_dist.noise.frozen import BORDERS, SHARES, ArrayMath, PixelBits, bin_means, draw_sum, shuffled
from n2s_dist.noise.model import NoiseModel, Parameter
from n2s_dist.noise.transforms import haar, spread

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor

_REACH = 8.0  # standard deviations; values beyond are held there in stored tiles

SIGMA = Parameter("sigma", 0, 255, scale=255, power=0.5, positive=True)


@dataclass(frozen=True)
class Gaussian(NoiseModel):
    """y = x + sigma n, n ~ N(0, 1). sigma is on the 0-1 scale."""

    sigma: float
    family = "gaussian"
    parameters = (SIGMA,)
    title = "Gaussian, σ = {}"
    is_divisible = True
    paper_sigma_a = (0.05, 0.001)

    def std(self, x: Any) -> Any:
        return self.sigma

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return clean + self.sigma * rng.standard_normal(clean.shape)

    def draw(self, clean: Any, bits: PixelBits, arrays: ArrayMath) -> Any:
        return clean * arrays.f32(1 / 255) + draw_sum(normal_tables(self.sigma), bits, arrays)

    @property
    def encoding(self) -> Encoding:
        """Rounding is 1e-4 of the noise at sigma 25/255."""
        return Encoding("uint16", (1 + 2 * _REACH * self.sigma) / HIGHEST, -_REACH * self.sigma)

    def stabilize(self, y: Tensor) -> Tensor:
        """z = y / sigma."""
        return y / self.sigma

    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = y + sigma s_z: the formula for y itself, since s(y) = s_z / sigma."""
        return y + self.sigma * score

    def std_at(self, z: Tensor) -> Tensor:
        return z * 0 + self.sigma

    @property
    def constant_std(self) -> float:
        return self.sigma

    def first_guess(self, pieces: Tensor) -> Self:
        diagonal, _ = haar(pieces)
        return self.with_values(spread(diagonal) ** 0.5)

    def natural(self, y: Tensor) -> Tensor:
        return y

    def natural_posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = y + sigma^2 s(y) (Robbins 1956; Efron 2011): exact."""
        return y + self.sigma**2 * score


@lru_cache(16)
def normal_tables(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Entries that add up to N(0, sigma^2): two float32 [65536].

    The largest error of the sum's distribution function is under 1e-6, and it reaches beyond six
    standard deviations.
    """
    borders = special.ndtri(BORDERS)
    means = bin_means(-np.exp(-(borders**2) / 2) / np.sqrt(2 * np.pi), 0, 1)
    return tuple(  # type: ignore[return-value]
        shuffled(means * (sigma * share**0.5), key).astype(np.float32) for key, share in enumerate(SHARES)
    )
