"""The noise of each image of a batch, and what a network is told of it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from n2s_dist.noise.base import FAMILIES, NoiseModel, PureNoise
from n2s_dist.noise.mixtures import Mixture
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian

CONDITIONS = len(FAMILIES) + 1
# The deviation at which the level's channel is 0: that of noise of average strength.
_USUAL_STD = 0.1


@dataclass(frozen=True)
class NoiseBatch:
    """The noise of each image of a batch."""

    family: Tensor  # place in FAMILIES, int64 [B, 1, 1, 1]
    level: Tensor  # sigma, zeta or k, float32 [B, 1, 1, 1]

    @staticmethod
    def of(family: np.ndarray, level: np.ndarray, device: torch.device) -> "NoiseBatch":
        place = torch.as_tensor(family, device=device).view(-1, 1, 1, 1)
        return NoiseBatch(place, torch.as_tensor(level, dtype=torch.float32, device=device).view(-1, 1, 1, 1))

    @staticmethod
    def of_images(mixture: Mixture, image_keys: np.ndarray, seed: int, device: torch.device) -> "NoiseBatch":
        """The noise that a mixture gives several images, keys uint64 [N]."""
        which, level = mixture.draw(image_keys, seed)
        family = np.array([FAMILIES.index(type(low)) for low, _ in mixture.ranges])[which]
        return NoiseBatch.of(family, level, device)

    @staticmethod
    def same(noise: NoiseModel, device: torch.device) -> "NoiseBatch":
        """One noise for a batch of any size. Mixed noise goes for Poisson noise of its zeta."""
        if isinstance(noise, PoissonGaussian):
            noise = Poisson(noise.level)
        return NoiseBatch.of(np.array([FAMILIES.index(type(noise))]), np.array([noise.level]), device)

    def _models(self) -> list[PureNoise]:
        """Each family at the levels of this batch."""
        return [family(self.level) for family in FAMILIES]  # type: ignore[arg-type]  # its formulas take tensors

    def _choose(self, values: list) -> Tensor:
        """values: what each family would give."""
        out = values[0]
        for number, value in enumerate(values[1:], 1):
            out = torch.where(self.family == number, value, out)
        return out

    def stabilize(self, y: Tensor) -> Tensor:
        """z = T(y), each image by its own noise's transform."""
        return self._choose([noise.stabilize(y) for noise in self._models()])

    def condition(self) -> Tensor:
        """What a network is told: its family, one channel each, and the level, as a strength that families share.

        That strength is the logarithm of the noise's standard deviation at middle gray. float32 [B, CONDITIONS, 1, 1].
        """
        one_hot = [(self.family == number).float() for number in range(len(FAMILIES))]
        std = self._choose([noise.std(0.5) for noise in self._models()])
        return torch.cat([*one_hot, torch.log(std / _USUAL_STD)], dim=1)
