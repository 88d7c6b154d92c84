"""Laplace noise: heavy tails, the same at every intensity."""

from dataclasses import dataclass

import numpy as np

from n2s_dist.noise.base import register
from n2s_dist.noise.frozen import shuffled
from n2s_dist.noise.model import NoiseModel, Parameter


@register
@dataclass(frozen=True)
class Laplace(NoiseModel):
    """y = x + n."""

    sigma: float
    family = "laplace"
    parameters = (Parameter("sigma", 0, 255, scale=255, power=0.5, positive=True),)
    title = "Laplace, σ = {}"

    def std(self, x):
        return self.sigma

    def corrupt(self, clean, rng):
        return clean + rng.laplace(0, self.sigma / 2**0.5, clean.shape)

    def draw(self, clean, bits, arrays):
        share = (np.arange(65536) + 0.5) / 65536 - 0.5
        noise = -np.sign(share) * np.log1p(-2 * np.abs(share))
        table = shuffled(noise * self.sigma / 2**0.5, 5).astype(np.float32)
        word, _ = bits.halves()
        return clean * arrays.f32(1 / 255) + arrays.lookup(word, table)

    def stabilize(self, y):
        return y / self.sigma

    def posterior_mean(self, y, score):
        return y + self.sigma * score

    def std_at(self, z):
        return z * 0 + self.sigma
