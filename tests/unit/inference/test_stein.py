"""What a score says of an assumed noise, on Gaussian random fields, whose score is a filter known in closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor

from n2s_dist.inference import stein
from n2s_dist.inference.pieces import Pieces
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.blurred import kernel
from n2s_dist.noise.correlated import blurred
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.specification import parse_training_noise

SIDE = 192
NOISE = blurred(Gaussian(0.1), 0.6)
_ROWS = np.fft.fftfreq(SIDE)[:, None]
_FREQUENCY = np.hypot(_ROWS, _ROWS.T)
# Powers of clean images of each frequency: of fine texture, which noise hides, and of smooth ones.
TEXTURE, SMOOTH = (power * 0.15**2 / power.mean() for power in (1 / (0.02**2 + _FREQUENCY**2) ** k for k in (1.5, 3)))


def noise_power(noise: NoiseModel) -> np.ndarray:
    """Of each frequency; its mean is the variance."""
    taps = kernel(noise.width) if noise.width else np.ones(1)
    transfer = np.abs(np.fft.fft(taps, SIDE)) ** 2
    return float(noise.std(0.5)) ** 2 * np.outer(transfer, transfer)


class Field(ScoreModel):
    """C s for images of a power, whatever noise it is told."""

    def __init__(self, clean_power: np.ndarray = TEXTURE) -> None:
        noise = parse_training_noise("gaussian:1-75,gaussian:2-60+blur:0.2-1.5")
        super().__init__(torch.nn.Linear(1, 1), noise, "stable", "map")
        self.clean_power = clean_power

    def given(self, noisy: Tensor, noise: NoiseModel) -> tuple[Tensor, Tensor]:
        self.told = noise
        return noise.stabilize(noisy), torch.zeros(1, 1, 1, 1)

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor) -> Tensor:
        power = noise_power(self.told)
        filtered = torch.fft.ifft2(
            torch.fft.fft2(w.double()) * torch.from_numpy(power / (self.clean_power + power))
        ).real
        return -filtered.to(w.dtype)


def field(noise: NoiseModel, seed: int, clean_power: np.ndarray = TEXTURE) -> Pieces:
    """Images of a power with noise, around 0."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((2, 4, 1, SIDE, SIDE))
    powers = np.stack([clean_power, noise_power(noise)])[:, None, None]
    clean, added = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(powers)).real
    return Pieces(torch.from_numpy((clean + added).astype(np.float32)), None)


@pytest.mark.parametrize("told", [1.0, 0.7, 1.5])
@pytest.mark.parametrize("noise", [Gaussian(0.1), NOISE, blurred(Gaussian(0.05), 1.2)], ids=["white", "0.6", "1.2"])
def test_the_ratio_has_its_closed_form_and_is_1_at_the_truth(noise, told):
    assumed = noise.scaled(told)
    found, _ = stein.ratio(Field(), field(noise, 1).pixels, assumed)
    power = noise_power(assumed)
    gain = power / (TEXTURE + power)
    expected = (gain * power).mean() / (gain**2 * (TEXTURE + noise_power(noise))).mean()
    assert found == pytest.approx(expected, rel=0.03)
    if told == 1:
        assert expected == pytest.approx(1)


@pytest.mark.parametrize("wrong", [0.8, 1.3])
def test_a_noise_is_rescaled_to_its_true_strength(wrong):
    found = stein.rescaled(Field(SMOOTH), field(NOISE, 2, SMOOTH), NOISE.scaled(wrong))
    assert found.width == NOISE.width and found.std(0.5) == pytest.approx(0.1, rel=0.04)


def test_correlated_noise_is_told_from_white_noise():
    """The same is assumed of both; where there is white noise it is too strong, as faint texture makes it."""
    assert stein.is_correlated(Field(), field(NOISE, 3), NOISE)
    assert not stein.is_correlated(Field(), field(Gaussian(0.1), 3), NOISE)
    assert not stein.is_correlated(Field(), field(Gaussian(0.1), 3), NOISE.scaled(1.2))


def test_a_kernel_that_hardly_shows_is_never_sure():
    narrow = blurred(Gaussian(0.1), 0.3)
    assert not stein.is_correlated(Field(), field(narrow, 4), narrow)
