"""Mixed noise: photons, and a sensor's own noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from n2s_dist.noise.encoding import FLOAT16, Encoding
from n2s_dist.noise.frozen import ArrayMath, PixelBits, draw_sum
from n2s_dist.noise.gaussian import SIGMA, normal_tables
from n2s_dist.noise.model import NoiseModel, Parameter
from n2s_dist.noise.poisson import LOWEST_ZETA, Poisson, check_countable, draw_counts
from n2s_dist.noise.transforms import black_anscombe, inverse_anscombe

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor


BLACK = Parameter("black", 0, 250, scale=255, is_log=False, default=0.0)


@dataclass(frozen=True)
class PoissonGaussian(NoiseModel):
    """y = b + zeta Poisson((x - b) / zeta) + sigma n, n ~ N(0, 1): photons and a sensor's own noise.

    sigma and the black level b are on the 0-1 scale; darker than b is black. The estimate is on the scale of y as well.

    Not of an exponential family with one parameter, so it has a formula in stable coordinates alone. In z it looks like
    Poisson noise of its zeta, however strong the sensor's noise.
    """

    zeta: float
    sigma: float
    black: float = 0.0
    family = "poisson-gaussian"
    parameters = (Parameter("zeta", LOWEST_ZETA, 1, power=1), SIGMA, BLACK)
    title = "Poisson-Gaussian, ζ = {}, σ = {}"
    told_as = ("poisson",)
    is_divisible = True

    @property
    def alike(self) -> Poisson:
        return Poisson(self.zeta)

    @property
    def _read_variance(self) -> Any:
        """Of the sensor's noise, in photons squared."""
        return (self.sigma / self.zeta) ** 2

    def std(self, x: Any) -> Any:
        signal = x - self.black
        signal = np.maximum(signal, 0) if isinstance(signal, float | np.ndarray) else signal.clamp(min=0)
        return (signal * self.zeta + self.sigma**2) ** 0.5

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        photons = self.zeta * rng.poisson(np.maximum(clean - self.black, 0) / self.zeta)
        return photons + self.sigma * rng.standard_normal(clean.shape) + self.black

    def expose(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        photons = Poisson(self.zeta).expose(np.maximum(clean - self.black, 0), rng)
        return photons + self.sigma * rng.standard_normal(clean.shape) + self.black

    def draw(self, clean: Any, bits: PixelBits, arrays: ArrayMath) -> Any:
        photons = draw_counts(self.zeta, clean, bits, arrays, self.black) * arrays.f32(self.zeta)
        noisy = photons + draw_sum(normal_tables(self.sigma), bits.others(), arrays)
        return noisy + arrays.f32(self.black) if self.black else noisy

    @property
    def encoding(self) -> Encoding:
        check_countable(self.zeta)
        return FLOAT16

    @property
    def _shift(self) -> Any:
        """What z is less than the transform: black becomes what it is without the sensor's noise."""
        return 2 * (self._read_variance + 3 / 8) ** 0.5 - black_anscombe()

    def stabilize(self, y: Tensor) -> Tensor:
        """z = 2 sqrt((y - b) / zeta + 3/8 + (sigma / zeta)^2), less a constant (Murtagh, Starck & Bijaoui 1995)."""
        photons = ((y - self.black) / self.zeta + 3 / 8 + self._read_variance).clamp(min=0)
        return 2 * photons.sqrt() - self._shift

    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """Gaussian Tweedie in z, then the exact unbiased inverse in closed form (Makitalo & Foi 2013).

        It is Anscombe's, less the sensor's variance.
        """
        counts = inverse_anscombe(self.stabilize(y) + self._shift + score) - self._read_variance
        return self.zeta * counts.clamp(min=0) + self.black

    def std_at(self, z: Tensor) -> Tensor:
        """The root of zeta (y + 3/8 zeta) + sigma^2, as dy/dz has it."""
        return self.zeta / 2 * (z.clamp(min=black_anscombe()) + self._shift)
