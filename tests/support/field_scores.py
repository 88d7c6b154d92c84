"""Scores in closed form: of images that are Gaussian random fields, whose posterior mean is a filter."""

import numpy as np
import torch
from torch import Tensor

from n2s_dist.inference.pieces import Pieces
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.blurred import kernel
from n2s_dist.noise.specification import parse_training_noise

SIDE = 192
_ROWS = np.fft.fftfreq(SIDE)[:, None]
_FREQUENCY = np.hypot(_ROWS, _ROWS.T)
# Powers of clean images of each frequency: of fine texture, which noise hides, and of smooth ones.
TEXTURE, SMOOTH = (power * 0.15**2 / power.mean() for power in (1 / (0.02**2 + _FREQUENCY**2) ** k for k in (1.5, 3)))


def noise_power(noise: NoiseModel) -> np.ndarray:
    """Of each frequency, at middle gray; its mean is the variance."""
    taps = kernel(noise.width) if noise.width else np.ones(1)
    transfer = np.abs(np.fft.fft(taps, SIDE)) ** 2
    return float(noise.std(0.5)) ** 2 * np.outer(transfer, transfer)


class FieldScore(ScoreModel):
    """C s for images of a power around a mean brightness, whatever noise it is told.

    strength: 1 for the true score; other scores are wrong by this factor.
    """

    def __init__(
        self, clean_power: np.ndarray = TEXTURE, mean: float = 0.0, strength: float = 1.0, noise: str | None = None
    ) -> None:
        known = parse_training_noise(noise or "gaussian:1-75,gaussian:2-60+blur:0.2-1.5")
        super().__init__(torch.nn.Linear(1, 1), known, "stable", "map")
        self.clean_power, self.mean, self.strength = clean_power, mean, strength

    def given(self, noisy: Tensor, noise: NoiseModel) -> tuple[Tensor, Tensor]:
        self.told = noise
        middle = noise.stabilize(torch.full((1, 1, 1, 1), self.mean, dtype=noisy.dtype)) if self.mean else 0
        return noise.stabilize(noisy) - middle, torch.zeros(1, 1, 1, 1)

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor) -> Tensor:
        power = noise_power(self.told)
        gain = torch.from_numpy(self.strength * power / (self.clean_power + power))
        return -torch.fft.ifft2(torch.fft.fft2(w.double()) * gain).real.to(w.dtype)


def noisy_field(noise: NoiseModel, seed: int, clean_power: np.ndarray = TEXTURE, mean: float = 0.0) -> Pieces:
    """Four images of a power around a mean, with noise as strong as at middle gray."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((2, 4, 1, SIDE, SIDE))
    powers = np.stack([clean_power, noise_power(noise)])[:, None, None]
    clean, added = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(powers)).real
    return Pieces(torch.from_numpy((mean + clean + added).astype(np.float32)), None)
