"""The noise of each image of a batch, which may be of several families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.transfer import to_device


@dataclass(frozen=True)
class NoiseBatch:
    """The noise of each image of a batch. Its methods are NoiseModel's, each image by its own noise."""

    kinds: tuple[NoiseModel, ...]  # each at tensors [B, 1, 1, 1], which hold for the images of its place
    place: Tensor  # in kinds, int64 [B, 1, 1, 1]

    @staticmethod
    def of_images(
        distribution: NoiseDistribution, image_keys: np.ndarray, seed: int, device: torch.device
    ) -> NoiseBatch:
        """The noise that several images have, keys uint64 [N]."""
        which, values = distribution.draw(image_keys, seed)
        tensors = [_column(column, device) for column in values.T]
        kinds = tuple(each.low.with_values(*tensors[: len(each.low.parameters)]) for each in distribution.ranges)
        return NoiseBatch(kinds, to_device(which, device).view(-1, 1, 1, 1))

    @staticmethod
    def same(noise: NoiseModel, device: torch.device) -> NoiseBatch:
        """One noise for a batch of any size."""
        kind = noise.with_values(*(_column(np.array([value]), device) for value in noise.values))
        return NoiseBatch((kind,), torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=device))

    def choose(self, ask: Callable[[NoiseModel], Tensor]) -> Tensor:
        """What each image's own noise answers. ask: from a noise at tensors to a tensor that broadcasts."""
        out, *rest = (ask(kind) for kind in self.kinds)
        for number, value in enumerate(rest, 1):
            out = torch.where(self.place == number, value, out)
        return out

    def stabilize(self, y: Tensor) -> Tensor:
        """z = T(y), each image by its own noise's transform."""
        return self.choose(lambda noise: noise.stabilize(y))


def _column(values: np.ndarray, device: torch.device) -> Tensor:
    return to_device(values, device, torch.float32).view(-1, 1, 1, 1)
