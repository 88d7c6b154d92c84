"""The score model: scaling, conditioning and dtype around a network, and Tweedie's formula on its output."""

import torch
from torch import Tensor, nn

from n2s_dist.config import Config
from n2s_dist.networks import ResUNet, UNetN2N, run_padded
from n2s_dist.noise import Coordinates, NoiseModel, parse_noise


class ScoreModel(nn.Module):
    """Score of noisy images in working coordinates w (noise.py), and the denoised image it implies.

    image     s(w) = network(w): the paper's parametrisation.
    stable    s_z(z, sigma_a) = -F / (1 + sigma_a^2), F = network(z, 1, sigma_a). F then estimates the
              whole noise in z + sigma_a u, whose variance is 1 + sigma_a^2, so the AR-DAE loss is an
              ordinary denoising regression. The constants are two more channels: the first stands in
              for the biases that the network lacks, the second tells it sigma_a.

    The network runs in whatever precision autocast gives; the score is float32.
    """

    def __init__(self, network: nn.Module, noise: NoiseModel, coordinates: Coordinates) -> None:
        super().__init__()
        self.network = network
        self.noise = noise
        self.coordinates = coordinates

    def working(self, noisy: Tensor) -> Tensor:
        """Noisy images on the 0-1 scale to the coordinates in which the score is learned."""
        return self.noise.stable(noisy) if self.coordinates == "stable" else self.noise.natural(noisy)

    def forward(self, w: Tensor, sigma_a: Tensor) -> Tensor:
        """Score at w, [B, C, H, W] float32. sigma_a: [B, 1, 1, 1], the perturbation's scale in units of w."""
        if self.coordinates == "image":
            return run_padded(self.network, w).float()
        ones = torch.ones_like(w[:, :1])
        residual = run_padded(self.network, torch.cat([w, ones, ones * sigma_a], dim=1)).float()
        return -residual / (1 + sigma_a**2)

    def denoise(self, noisy: Tensor) -> Tensor:
        """Posterior mean of noisy images [B, C, H, W] on the 0-1 scale; float32, not clamped."""
        w = self.working(noisy)
        score = self(w, w.new_zeros(len(w), 1, 1, 1))
        if self.coordinates == "stable":
            return self.noise.posterior_mean_stable(noisy, score)
        return self.noise.posterior_mean(noisy, score)


def build_score_model(config: Config, channels: int) -> ScoreModel:
    """A score model with freshly drawn weights, for images of 1 or 3 channels."""
    constants = 2 if config.ardae.coordinates == "stable" else 0
    if config.network.name == "resunet":
        network: nn.Module = ResUNet(channels + constants, channels, config.network.widths, config.network.blocks)
    else:
        network = UNetN2N(channels + constants, channels)
    return ScoreModel(network, parse_noise(config.noise), config.ardae.coordinates)
