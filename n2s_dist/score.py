"""The score model: scaling, conditioning and dtype around a network, and Tweedie's formula on its output."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from n2s_dist.config import Config
from n2s_dist.mixture import CONDITIONS, Mixture, NoiseBatch, TrainingNoise, parse_training_noise
from n2s_dist.networks import ResUNet, UNetN2N, run_padded
from n2s_dist.noise import Coordinates, NoiseModel, PoissonGaussian

# The loss weighs errors of F by (sigma_a / (1 + sigma_a^2))^2: at 0 it says nothing of F, and what the network makes of
# that is a guess, 0.2 to 0.75 dB worse on held-out images than what it makes of this (configs/LOG.md).
_TOLD_SIGMA_A = 0.2


class ScoreModel(nn.Module):
    """Score of noisy images in working coordinates w (noise.py), and the denoised image it implies.

    image     s(w) = network(w): the paper's parametrisation.
    stable    s_z(z, sigma_a) = -F / (1 + sigma_a^2), F = network(z, 1, sigma_a). F then estimates the
              whole noise in z + sigma_a u, whose variance is 1 + sigma_a^2, so the AR-DAE loss is an
              ordinary denoising regression. The constants are two more channels: the first stands in
              for the biases that the network lacks, the second tells it sigma_a. At test time nothing is
              perturbed, and it is told `told_sigma_a`, the least that it learned to tell from none.

    Baselines (objectives.py) train F at sigma_a = 0, as an estimate of the noise in z: the same formulas then bring
    their clean image z - F back to the 0-1 scale.

    A model of several noises has further constant channels, its condition (mixture.py): which noise it is.
    `noise` is what it was trained on. The network runs in whatever precision autocast gives; the score is float32.
    """

    def __init__(
        self, network: nn.Module, noise: TrainingNoise, coordinates: Coordinates, told_sigma_a: float = 0.0
    ) -> None:
        super().__init__()
        self.network = network
        self.noise = noise
        self.coordinates = coordinates
        self.told_sigma_a = told_sigma_a

    @property
    def families(self) -> set[str]:
        """What it was trained on, and mixed noise, whose transform is Poisson's but for a constant."""
        ranges = self.noise.ranges if isinstance(self.noise, Mixture) else [(self.noise, self.noise)]
        trained = {low.family for low, _ in ranges}
        return trained | {"poisson_gaussian"} if "poisson" in trained and self.coordinates == "stable" else trained

    @property
    def conditions(self) -> int:
        """Number of channels that say which noise it is."""
        return CONDITIONS if isinstance(self.noise, Mixture) else 0

    def given(self, noisy: Tensor, noise: NoiseModel | NoiseBatch) -> tuple[Tensor, Tensor]:
        """What the score is a function of: w, and the condition [B or 1, conditions, 1, 1].

        noisy: [B, C, H, W] on the 0-1 scale, with this noise.
        """
        if self.coordinates == "image":
            assert not isinstance(noise, NoiseBatch | PoissonGaussian)
            w = noise.natural(noisy)
        else:
            w = noise.stable(noisy)
        if not self.conditions:
            return w, w.new_empty(1, 0, 1, 1)
        told = noise if isinstance(noise, NoiseBatch) else NoiseBatch.same(noise, w.device)
        return w, told.condition()

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor) -> Tensor:
        """Score at w, [B, C, H, W] float32.

        sigma_a: [B, 1, 1, 1], the perturbation's scale in units of w. condition: as given() makes it.
        """
        if self.coordinates == "image":
            return run_padded(self.network, w).float()
        ones = torch.ones_like(w[:, :1])
        constants = [ones, ones * sigma_a, condition.expand(len(w), -1, *w.shape[2:])]
        residual = run_padded(self.network, torch.cat([w, *constants], dim=1)).float()
        return -residual / (1 + sigma_a**2)

    def unperturbed(self, w: Tensor, condition: Tensor, run: Callable[..., Tensor] | None = None) -> Tensor:
        """Score of noisy images themselves, [B, C, H, W] float32. run: what computes it, if not the model itself."""
        told = self.told_sigma_a
        return (1 + told**2) * (run or self)(w, torch.full_like(w[:, :1, :1, :1], told), condition)

    def denoise(self, noisy: Tensor, noise: NoiseModel, run: Callable[..., Tensor] | None = None) -> Tensor:
        """Posterior mean of images [B, C, H, W] on the 0-1 scale with this noise; float32, not clamped.

        run: what computes the score, if not the model itself.
        """
        w, condition = self.given(noisy, noise)
        score = self.unperturbed(w, condition, run)
        if self.coordinates == "stable":
            return noise.posterior_mean_stable(noisy, score)
        assert not isinstance(noise, PoissonGaussian)
        return noise.posterior_mean(noisy, score)


def build_score_model(config: Config, channels: int) -> ScoreModel:
    """A score model with freshly drawn weights, for images of 1 or 3 channels."""
    noise = parse_training_noise(config.noise)
    constants = 2 if config.ardae.coordinates == "stable" else 0
    constants += CONDITIONS if isinstance(noise, Mixture) else 0
    if config.network.name == "resunet":
        network: nn.Module = ResUNet(channels + constants, channels, config.network.widths, config.network.blocks)
    else:
        network = UNetN2N(channels + constants, channels)
    return ScoreModel(network, noise, config.ardae.coordinates, told_sigma_a(config))


def told_sigma_a(config: Config) -> float:
    """What a network is told where nothing is perturbed: 0 if that is what it learned, else a part of what it did."""
    if config.method != "ardae" or config.ardae.coordinates == "image":
        return 0.0
    return min(max(_TOLD_SIGMA_A, min(config.sigma_a)), max(config.sigma_a))
