"""Gaussian, Poisson, Gamma and mixed noise: how clean becomes noisy, and how a score becomes a denoised image.

Images are on the 0-1 scale; nothing is clipped or quantised after corruption. Each family has two
working coordinates w in which a network can learn the score d/dw log p(w):

    natural   the paper's: y itself (Gaussian, Gamma), photon counts n = y / zeta (Poisson)
    stable    z = T(y), in which the noise has unit standard deviation everywhere

A level may be one number, or a tensor [B, 1, 1, 1] with one a sample where images are tensors.

For each there is the posterior mean by Tweedie's formula, E[eta | y] = d/dy log p(y) - d/dy log h(y) for
p(y | eta) = h(y) exp(eta y - A(eta)) (Kim & Ye 2021, Section 3 and Table 1).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from n2s_dist.utils.errors import UserError

Coordinates = Literal["image", "stable"]
# Gamma noise leaves black pixels black, and log(0) is not a number: half an 8-bit level stands in for less.
_GAMMA_FLOOR = 0.5 / 255


@dataclass(frozen=True)
class Gaussian:
    """y = x + sigma n, n ~ N(0, 1). sigma is on the 0-1 scale."""

    sigma: float
    family = "gaussian"
    paper_sigma_a = (0.05, 0.001)

    @property
    def level(self) -> float:
        return self.sigma

    def deviation(self, x: float) -> float:
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

    def stable(self, y: Tensor) -> Tensor:
        """z = y / sigma."""
        return y / self.sigma

    def posterior_mean_stable(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = y + sigma s_z: the same formula, since s(y) = s_z / sigma."""
        return y + self.sigma * score


@dataclass(frozen=True)
class Poisson:
    """y = zeta Poisson(x / zeta): zeta is the intensity of one photon."""

    zeta: float
    family = "poisson"
    paper_sigma_a = (1.0, 0.5)  # in counts

    @property
    def level(self) -> float:
        return self.zeta

    def deviation(self, x: float) -> float:
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
        return (y + self.zeta / 2) * torch.exp(score)

    def stable(self, y: Tensor) -> Tensor:
        """z = 2 sqrt(y / zeta + 3/8) (Anscombe 1948); smooth at zero counts, held below minus a quarter."""
        return 2 * torch.sqrt(torch.clamp(y / self.zeta, min=-1 / 4) + 3 / 8)

    def posterior_mean_stable(self, y: Tensor, score: Tensor) -> Tensor:
        """Gaussian Tweedie in z, d = z + s_z, then the exact unbiased inverse of Anscombe's transform."""
        return self.zeta * inverse_anscombe(self.stable(y) + score)


@dataclass(frozen=True)
class Gamma:
    """y = x g, g ~ Gamma(shape k, mean 1)."""

    k: float
    family = "gamma"
    paper_sigma_a = (0.05, 0.001)

    @property
    def level(self) -> float:
        return self.k

    def deviation(self, x: float) -> float:
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
        return self.k * y / torch.clamp((self.k - 1) - y * score, min=self.k / 10)

    def stable(self, y: Tensor) -> Tensor:
        """z = sqrt(k) log y."""
        return self.k**0.5 * torch.log(torch.clamp(y, min=_GAMMA_FLOOR))

    def posterior_mean_stable(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat = k y / (k - sqrt(k) s_z): the same formula, since y s(y) = sqrt(k) s_z - 1."""
        return self.k * y / torch.clamp(self.k - self.k**0.5 * score, min=self.k / 10)


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

    def deviation(self, x: float) -> float:
        """Standard deviation of the noise on a clean value x."""
        return (x * self.zeta + self.sigma**2) ** 0.5

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float64 of the shape of `clean`, unclipped."""
        return self.zeta * rng.poisson(clean / self.zeta) + self.sigma * rng.standard_normal(clean.shape)

    @property
    def _shift(self) -> float:
        """What z is less than the transform: black becomes what it is without the sensor's noise."""
        return 2 * (self._read_variance + 3 / 8) ** 0.5 - 2 * (3 / 8) ** 0.5

    def stable(self, y: Tensor) -> Tensor:
        """z = 2 sqrt(y / zeta + 3/8 + (sigma / zeta)^2), less a constant (Murtagh, Starck & Bijaoui 1995)."""
        photons = torch.clamp(y / self.zeta + 3 / 8 + self._read_variance, min=0)
        return 2 * torch.sqrt(photons) - self._shift

    def posterior_mean_stable(self, y: Tensor, score: Tensor) -> Tensor:
        """Gaussian Tweedie in z, then the exact unbiased inverse in closed form (Makitalo & Foi 2013).

        It is Anscombe's, less the sensor's variance.
        """
        counts = inverse_anscombe(self.stable(y) + self._shift + score) - self._read_variance
        return self.zeta * torch.clamp(counts, min=0)


PureNoise = Gaussian | Poisson | Gamma  # of one level each: what networks are trained on
NoiseModel = PureNoise | PoissonGaussian
FAMILIES = (Gaussian, Poisson, Gamma)
UNKNOWN = "unknown"  # where noise is named: it is to be estimated


def inverse_anscombe(d: Tensor) -> Tensor:
    """Counts whose Anscombe transform has mean d: the exact unbiased inverse in closed form (Makitalo & Foi 2011).

    Zero counts transform to 2 sqrt(3/8), below which there is nothing to invert.
    """
    d = torch.clamp(d, min=2 * math.sqrt(3 / 8))
    root = math.sqrt(3 / 2)
    counts = d**2 / 4 + root / (4 * d) - 11 / (8 * d**2) + 5 * root / (8 * d**3) - 1 / 8
    return torch.clamp(counts, min=0)


def parse_noise(text: str) -> NoiseModel:
    """Read "gaussian:25" (sigma in 8-bit levels), "poisson:0.01" (zeta), "gamma:100" (k) or "poisson_gaussian:0.01:5".

    Raises UserError for another family or a level out of range.
    """
    family, *level_texts = text.split(":")
    try:
        levels = [float(level) for level in level_texts]
    except ValueError:
        levels = []
    match family, levels:
        case "gaussian", [level] if 0 < level <= 255:
            return Gaussian(level / 255)
        case "poisson", [level] if 0.0025 <= level <= 1:
            return Poisson(level)
        case "gamma", [level] if 10 <= level <= 10_000:
            return Gamma(level)
        case "poisson_gaussian", [zeta, sigma] if 0.0025 <= zeta <= 1 and 0 < sigma <= 255:
            return PoissonGaussian(zeta, sigma / 255)
    raise UserError(
        f"noise '{text}' is not understood: write gaussian:SIGMA with SIGMA in (0, 255], "
        "poisson:ZETA with ZETA in [0.0025, 1], gamma:K with K in [10, 10000], or poisson_gaussian:ZETA:SIGMA"
    )


def format_noise(noise: NoiseModel) -> str:
    """The text that parse_noise reads, with the level as people write it: "gaussian:25"."""
    match noise:
        case Gaussian(sigma):
            return f"gaussian:{sigma * 255:.6g}"
        case Poisson(zeta):
            return f"poisson:{zeta:.6g}"
        case Gamma(k):
            return f"gamma:{k:.6g}"
        case PoissonGaussian(zeta, sigma):
            return f"poisson_gaussian:{zeta:.6g}:{sigma * 255:.6g}"
