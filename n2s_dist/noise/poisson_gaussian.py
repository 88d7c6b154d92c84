"""Mixed noise: photons, and a sensor's own noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from n2s_dist.noise.transforms import inverse_anscombe

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor


@dataclass(frozen=True)
class PoissonGaussian:
    """y = zeta Poisson(x / zeta) + sigma n, n ~ N(0, 1): photons and a sensor's own noise. sigma is on the 0-1 scale.

    Not of an exponential family with one parameter, so it has a formula in stable coordinates alone.
    """

    zeta: float
    sigma: float
    family = "poisson_gaussian"

    @property
    def level(self) -> float:
        """What a network of Poisson noise is told: in z both signals look alike, however strong the sensor's noise."""
        return self.zeta

    @property
    def _read_variance(self) -> float:
        """Of the sensor's noise, in photons squared."""
        return (self.sigma / self.zeta) ** 2

    def std(self, x: float) -> float:
        """Standard deviation of the noise on a clean value x."""
        return (x * self.zeta + self.sigma**2) ** 0.5

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float64 of the shape of `clean`, unclipped."""
        return self.zeta * rng.poisson(clean / self.zeta) + self.sigma * rng.standard_normal(clean.shape)

    @property
    def _shift(self) -> float:
        """What z is less than the transform: black becomes what it is without the sensor's noise."""
        return 2 * (self._read_variance + 3 / 8) ** 0.5 - 2 * (3 / 8) ** 0.5

    def stabilize(self, y: Tensor) -> Tensor:
        """z = 2 sqrt(y / zeta + 3/8 + (sigma / zeta)^2), less a constant (Murtagh, Starck & Bijaoui 1995)."""
        photons = (y / self.zeta + 3 / 8 + self._read_variance).clamp(min=0)
        return 2 * photons.sqrt() - self._shift

    def posterior_mean_stable(self, y: Tensor, score: Tensor) -> Tensor:
        """Gaussian Tweedie in z, then the exact unbiased inverse in closed form (Makitalo & Foi 2013).

        It is Anscombe's, less the sensor's variance.
        """
        counts = inverse_anscombe(self.stabilize(y) + self._shift + score) - self._read_variance
        return self.zeta * counts.clamp(min=0)
