"""The score model: scaling, conditioning and dtype around a network, and Tweedie's formula on its output."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from n2s_dist.config.schema import Config
from n2s_dist.models.base import run_padded
from n2s_dist.models.resunet import ResUNet
from n2s_dist.models.unet_n2n import UNetN2N
from n2s_dist.noise.base import Coordinates, NoiseModel
from n2s_dist.noise.conditioning import CONDITIONS, NoiseBatch
from n2s_dist.noise.mixtures import Mixture, TrainingNoise
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import parse_training_noise


class ScoreModel(nn.Module):
    """Score of noisy images in working coordinates w (noise/base.py), and the denoised image it implies.

    image     s(w) = network(w): the paper's parametrisation.
    stable    s(z + a u) = -F / r, r = sqrt(1 + a^2), F = network((z + a u) / r, 1, condition + log r).
              Divided by r, a perturbed image has noise of unit deviation again and looks like one of a level r times as
              high, and that level is what the network is told. F then estimates the noise, of unit variance, so the
              AR-DAE loss is an ordinary denoising regression; and what was learned of weak noise made strong serves
              images whose own noise is strong. The constant 1 stands in for the biases that the network lacks.

    Baselines (losses/objectives.py) train F at a = 0, as an estimate of the noise in z: the same formulas then bring
    their clean image z - F back to the 0-1 scale.

    The condition is constant channels: the logarithm of the level, last, and in a model of several noises which family
    it is (noise/conditioning.py). A model of one level knows it, so its condition is 0 but for log r.
    `noise` is what it was trained on. The network runs in whatever precision autocast gives; the score is float32.
    """

    def __init__(self, network: nn.Module, noise: TrainingNoise, coordinates: Coordinates) -> None:
        super().__init__()
        self.network = network
        self.noise = noise
        self.coordinates = coordinates

    @property
    def families(self) -> set[str]:
        """What it was trained on, and mixed noise, whose transform is Poisson's but for a constant."""
        ranges = self.noise.ranges if isinstance(self.noise, Mixture) else [(self.noise, self.noise)]
        trained = {low.family for low, _ in ranges}
        return trained | {"poisson_gaussian"} if "poisson" in trained and self.coordinates == "stable" else trained

    def given(self, noisy: Tensor, noise: NoiseModel | NoiseBatch) -> tuple[Tensor, Tensor]:
        """What the score is a function of: w, and the condition [B or 1, 1 or CONDITIONS, 1, 1].

        noisy: [B, C, H, W] on the 0-1 scale, with this noise.
        """
        if self.coordinates == "image":
            assert not isinstance(noise, NoiseBatch | PoissonGaussian)
            w = noise.natural(noisy)
        else:
            w = noise.stabilize(noisy)
        if not isinstance(self.noise, Mixture):
            return w, w.new_zeros(1, 1, 1, 1)
        told = noise if isinstance(noise, NoiseBatch) else NoiseBatch.same(noise, w.device)
        return w, told.condition()

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor) -> Tensor:
        """Score at w, [B, C, H, W] float32.

        sigma_a: [B, 1, 1, 1], the perturbation's scale in units of w. condition: as given() makes it.
        """
        if self.coordinates == "image":
            return run_padded(self.network, w).float()
        ratio = torch.sqrt(1 + sigma_a**2)
        family, level = condition[:, :-1], condition[:, -1:] + torch.log(ratio)
        constants = [part.expand(len(w), -1, *w.shape[2:]) for part in (torch.ones_like(ratio), family, level)]
        return -run_padded(self.network, torch.cat([w / ratio, *constants], dim=1)).float() / ratio

    def unperturbed(self, w: Tensor, condition: Tensor, run: Callable[..., Tensor] | None = None) -> Tensor:
        """Score of noisy images themselves, [B, C, H, W] float32. run: what computes it, if not the model itself."""
        return (run or self)(w, torch.zeros_like(w[:, :1, :1, :1]), condition)

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
    constants = 0
    if config.ardae.coordinates == "stable":
        constants = 1 + (CONDITIONS if isinstance(noise, Mixture) else 1)
    if config.network.name == "resunet":
        shape = config.network
        network: nn.Module = ResUNet(
            channels + constants, channels, shape.widths, shape.blocks, symmetric=shape.symmetric
        )
    else:
        network = UNetN2N(channels + constants, channels)
    return ScoreModel(network, noise, config.ardae.coordinates)
