"""Gaussian noise: the same strength at every intensity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """y = x + sigma n, n ~ N(0, 1). sigma is on the 0-1 scale."""

    sigma: float
    family = "gaussian"
    paper_sigma_a = (0.05, 0.001)

    @property
    def level(self) -> float:
        return self.sigma

    def std(self, x: float) -> float:
        """Standard deviation of the noise on a clean value x."""
        return self.sigma

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float64 of the shape of `clean`, on the 0-1 scale, unclipped."""
        return clean + self.sigma * rng.standard_normal(clean.shape)

    def natural(self, y: Tensor) -> Tensor:
        return y

    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = y + sigma^2 s(y) (Robbins 1956; Efron 2011): exact."""
        return y + self.sigma**2 * score

    def stabilize(self, y: Tensor) -> Tensor:
        """z = y / sigma."""
        return y / self.sigma

    def posterior_mean_stable(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = y + sigma s_z: the same formula, since s(y) = s_z / sigma."""
        return y + self.sigma * score
