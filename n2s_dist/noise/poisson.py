"""Poisson noise: the counting of photons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from n2s_dist.noise.transforms import inverse_anscombe

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor


@dataclass(frozen=True)
class Poisson:
    """y = zeta Poisson(x / zeta): zeta is the intensity of one photon."""

    zeta: float
    family = "poisson"
    paper_sigma_a = (1.0, 0.5)  # in counts

    @property
    def level(self) -> float:
        return self.zeta

    def std(self, x: float) -> float:
        """Standard deviation of the noise on a clean value x."""
        return (x * self.zeta) ** 0.5

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float64 of the shape of `clean`, whole multiples of zeta."""
        return self.zeta * rng.poisson(clean / self.zeta)

    def natural(self, y: Tensor) -> Tensor:
        """Photon counts n = y / zeta."""
        return y / self.zeta

    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = (y + zeta / 2) exp(s_n), s_n the score in counts: the paper's approximation."""
        return (y + self.zeta / 2) * score.exp()

    def stabilize(self, y: Tensor) -> Tensor:
        """z = 2 sqrt(y / zeta + 3/8) (Anscombe 1948); smooth at zero counts, held below minus a quarter."""
        return 2 * ((y / self.zeta).clamp(min=-1 / 4) + 3 / 8).sqrt()

    def posterior_mean_stable(self, y: Tensor, score: Tensor) -> Tensor:
        """Gaussian Tweedie in z, d = z + s_z, then the exact unbiased inverse of Anscombe's transform."""
        return self.zeta * inverse_anscombe(self.stabilize(y) + score)
