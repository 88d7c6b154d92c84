"""The score model: scaling, conditioning and dtype around a network, and Tweedie's formula on its output."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from n2s_dist.config.schema import ConditionKind, Config
from n2s_dist.models.base import build_network
from n2s_dist.models.conditioning import make_conditioning, served_families
from n2s_dist.models.network import Network, run_padded
from n2s_dist.noise.base import Coordinates, NoiseModel
from n2s_dist.noise.batch import NoiseBatch
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.field import Field
from n2s_dist.noise.specification import parse_training_noise


class ScoreModel(nn.Module):
    """Score of noisy images in working coordinates w (noise/base.py), and the denoised image it implies.

    image     s(w) = network(w): the paper's parametrisation.
    stable    s(z + a u) = -e F / r, r = sqrt(1 + a^2), F = network((z + a u) / (e r), planes of the condition and e r).
              Divided by r, a perturbed image has noise of unit deviation again and looks like one of a level r times as
              high, and that level is what the network is told. F then estimates the noise, of unit variance, so the
              AR-DAE loss is an ordinary denoising regression; and what was learned of weak noise made strong serves
              images whose own noise is strong. The constant 1 stands in for the biases that the network lacks.
              e, the excess, is 1 but in training: how many times as much noise the network is told as there is.

    Baselines (losses/base.py) train F at a = 0, as an estimate of the noise in z: the same formulas then bring
    their clean image z - F back to the 0-1 scale.

    The condition is what the network is told of the noise (conditioning.py), of the kind `condition_kind`. Where noise
    is correlated, u is as well, and the score is C s(z), C the noise's covariance: x_hat in z is z - F as before.
    `noise` is what it was trained on. The network runs in whatever precision autocast gives; the score is float32.
    """

    def __init__(
        self,
        network: Network,
        noise: NoiseDistribution,
        coordinates: Coordinates,
        condition_kind: ConditionKind = "families",
    ) -> None:
        super().__init__()
        self.network = network
        self.noise = noise
        self.coordinates = coordinates
        self.condition_kind = condition_kind
        self.conditioning = make_conditioning(condition_kind, noise)

    @property
    def families(self) -> set[str]:
        """What it was trained on, and in stable coordinates the families that look alike there."""
        return set(
            served_families(self.condition_kind, self.noise) if self.coordinates == "stable" else self.noise.families
        )

    def serves(self, noise: NoiseModel) -> bool:
        """Whether it can denoise such noise: of a family that it knows, and correlated only if it learned that.

        Stripes and correlations of channels are those that it trained on. A network of round kernels does not take
        others: a fifth of a pixel between two widths, told as one, cost the shipped gray network decibels.
        """
        return noise.family in self.families and self._knows(noise.field)

    def _knows(self, field: Field) -> bool:
        if self.noise.is_single:
            return field.is_like(self.noise.single.field)
        learned = [each.high.field for each in self.noise.ranges if each.high.field.pattern.is_like(field.pattern)]
        axes = len(field.widths) if any(field.widths) else 0
        return any(len(each.widths) >= axes for each in learned)

    def given(self, noisy: Tensor, noise: NoiseModel | NoiseBatch) -> tuple[Tensor, Tensor]:
        """What the score is a function of: w, and the condition [B or 1, N, 1, 1].

        noisy: [B, C, H, W] on the 0-1 scale, with this noise.
        """
        if self.coordinates == "image":
            assert isinstance(noise, NoiseModel)
            return noise.natural(noisy), noisy.new_zeros(1, 1, 1, 1)
        return noise.stabilize(noisy), self.conditioning.encode(noise, noisy.device)

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor, excess: Tensor | None = None) -> Tensor:
        """Score at w, [B, C, H, W] float32.

        sigma_a: [B, 1, 1, 1], the perturbation's scale in units of w. condition: as given() makes it. excess:
        [B, 1, 1, 1], in stable coordinates, how many times the level of w the network is told, at least 1; None is 1.
        """
        if self.coordinates == "image":
            return run_padded(self.network, w).float()
        ratio = torch.sqrt(1 + sigma_a**2)
        told = ratio if excess is None else ratio * excess
        planes = self.conditioning.planes(w, condition, torch.log(told))
        noise = run_padded(self.network, torch.cat([w / told, planes], dim=1)).float()
        return -noise / ratio if excess is None else -noise * excess / ratio

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
            return noise.posterior_mean(noisy, score)
        return noise.natural_posterior_mean(noisy, score)


def build_score_model(config: Config, channels: int) -> ScoreModel:
    """A score model with freshly drawn weights, for images of 1 or 3 channels."""
    noise, constants = parse_training_noise(config.noise), 0
    if config.ardae.coordinates == "stable":
        constants = make_conditioning(config.network.condition, noise).count(channels)
    network = build_network(config.network, channels + constants, channels)
    return ScoreModel(network, noise, config.ardae.coordinates, config.network.condition)
