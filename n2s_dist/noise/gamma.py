"""Gamma noise: speckle, in proportion to the intensity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor

# Gamma noise leaves black pixels black, and log(0) is not a number: half an 8-bit level stands in for less.
_GAMMA_FLOOR = 0.5 / 255


@dataclass(frozen=True)
class Gamma:
    """y = x g, g ~ Gamma(shape k, mean 1)."""

    k: float
    family = "gamma"
    paper_sigma_a = (0.05, 0.001)

    @property
    def level(self) -> float:
        return self.k

    def std(self, x: float) -> float:
        """Standard deviation of the noise on a clean value x."""
        return x / self.k**0.5

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float64 of the shape of `clean`."""
        return clean * rng.gamma(self.k, 1 / self.k, clean.shape)

    def natural(self, y: Tensor) -> Tensor:
        return y

    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = k y / ((k - 1) - y s(y)) = 1 / E[1/x | y]: a harmonic, not an arithmetic, mean.

        The denominator is k times y / x_hat; a score so wrong that it falls under k / 10 is held there.
        """
        return self.k * y / ((self.k - 1) - y * score).clamp(min=self.k / 10)

    def stabilize(self, y: Tensor) -> Tensor:
        """z = sqrt(k) log y."""
        return self.k**0.5 * y.clamp(min=_GAMMA_FLOOR).log()

    def posterior_mean_stable(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = k y / (k - sqrt(k) s_z): the same formula, since y s(y) = sqrt(k) s_z - 1."""
        return self.k * y / (self.k - self.k**0.5 * score).clamp(min=self.k / 10)
