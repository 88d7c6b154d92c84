"""What a network is told of the noise besides the image: planes that are stacked on its input.

    families    1; which family it is, a plane each of gaussian, poisson and gamma; the level. A network of one noise
                knows both, so it is given 1 and how many times as strong the noise is.
    map         1; the noise's standard deviation at every value, a plane a channel; the width of its correlation. It
                needs no list of families. Of a kernel of two widths it is told one, NoiseModel.width.

Neither tells of stripes and of correlations between channels: a network learns those that all its noise has.

The kind is `network.condition` of a run's configuration, so it is part of a checkpoint. A level is told as the
logarithm of the noise's standard deviation, on middle gray or at each value, over a usual one. `encode` makes a small
tensor of a batch's noise, which data parallelism can hand over, and `planes` what the network sees.
"""

from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from n2s_dist.config.checks import TOLD_FAMILIES
from n2s_dist.config.schema import ConditionKind
from n2s_dist.noise.base import families
from n2s_dist.noise.batch import NoiseBatch
from n2s_dist.noise.curve import TOLD_POINTS
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.model import NoiseModel

_NO_CURVE = np.ones((3, 2 + TOLD_POINTS), np.float32)
_USUAL_STD = 0.1  # the standard deviation that is told as 0


class Conditioning(Protocol):
    """A way to tell a network the noise."""

    def count(self, channels: int) -> int:
        """Planes that a network for images of so many channels is given."""

    def encode(self, noise: NoiseModel | NoiseBatch, device: torch.device) -> Tensor:
        """What `planes` has to know of the noise, float32 [B or 1, N, 1, 1]."""

    def planes(self, w: Tensor, condition: Tensor, log_ratio: Tensor) -> Tensor:
        """The planes [B, count, H, W]. w: what the network sees, before scaling, in stable coordinates [B, C, H, W].

        condition: as encode makes it. log_ratio: [B or 1, 1, 1, 1], the logarithm of how many times as strong as in
        `condition` the noise is to be told.
        """


def make_conditioning(kind: ConditionKind, noise: NoiseDistribution) -> Conditioning:
    """noise: what the network is trained on."""
    if kind == "map":
        return _Map(noise)
    return _OneNoise() if noise.is_single else _Families()


def as_told_maps(first: Tensor, channels: int) -> Tensor:
    """The first layer of a network told families, as that of one that is told maps.

    first: weights [..., K * (channels + 5), h, w], K inputs in a row being of one plane; returns
    [..., K * (2 * channels + 2), h, w]. Told Gaussian noise, both networks are the same function: its map is one level.
    """
    planes = channels + len(TOLD_FAMILIES) + 2
    assert first.shape[-3] % planes == 0, "no first layer of a network that is told families"
    inputs = first.unflatten(-3, (planes, -1))
    one, family, level = channels, channels + 1 + TOLD_FAMILIES.index("gaussian"), planes - 1
    image = inputs[..., :channels, :, :, :]
    constant = (inputs[..., one, :, :, :] + inputs[..., family, :, :, :]).unsqueeze(-4)
    map_of_each = (inputs[..., level, :, :, :] / channels).unsqueeze(-4).expand_as(image)
    return torch.cat([image, constant, map_of_each, torch.zeros_like(constant)], dim=-4).flatten(-4, -3)


def served_families(kind: ConditionKind, noise: NoiseDistribution) -> tuple[str, ...]:
    """The families that a network trained on `noise` denoises, in stable coordinates: those, and those alike.

    A family whose parameters are no numbers can be told as a map alone.
    """
    alike = (
        name
        for name, family in families().items()
        if set(family.told_as) & set(noise.families) and (kind == "map" or not family.text_form)
    )
    return tuple(dict.fromkeys([*noise.families, *alike]))


class _OneNoise:
    """Of kind `families`, for a network of one noise: nothing but how strong it was made."""

    def count(self, channels: int) -> int:
        return 2

    def encode(self, noise: NoiseModel | NoiseBatch, device: torch.device) -> Tensor:
        return torch.zeros(1, 1, 1, 1, device=device)

    def planes(self, w: Tensor, condition: Tensor, log_ratio: Tensor) -> Tensor:
        return _stacked(w, torch.ones_like(log_ratio), condition + log_ratio)


class _Families:
    """Of kind `families`, for a network of several noises."""

    def count(self, channels: int) -> int:
        return 1 + len(TOLD_FAMILIES) + 1

    def encode(self, noise: NoiseModel | NoiseBatch, device: torch.device) -> Tensor:
        batch = _batch(noise, device)
        none = torch.zeros(batch.place.shape, device=device)

        def is_of(name: str) -> Tensor:
            return batch.choose(lambda kind: none + float(kind.alike.family == name))

        level = torch.log(batch.choose(lambda kind: kind.alike.std(0.5)) / _USUAL_STD)
        return torch.cat([*map(is_of, TOLD_FAMILIES), level], dim=1)

    def planes(self, w: Tensor, condition: Tensor, log_ratio: Tensor) -> Tensor:
        return _stacked(w, torch.ones_like(log_ratio), condition[:, :-1], condition[:, -1:] + log_ratio)


class _Map:
    """The noise's strength wherever it is, from the very image that the network sees.

    From the image before its perturbation it would tell the perturbation.
    """

    def __init__(self, noise: NoiseDistribution) -> None:
        self._families = {name: families()[name] for name in served_families("map", noise)}
        self._formulas = {name: family for name, family in self._families.items() if not family.text_form}
        self._most = max((len(family.parameters) for family in self._formulas.values()), default=0)

    def count(self, channels: int) -> int:
        return 1 + channels + 1

    def encode(self, noise: NoiseModel | NoiseBatch, device: torch.device) -> Tensor:
        batch = _batch(noise, device)
        none = torch.zeros(batch.place.shape, device=device)
        names = list(self._families)

        def value(kind: NoiseModel, number: int) -> Tensor:
            values = kind.white.values
            return none + values[number] if number < len(values) else none

        place = batch.choose(lambda kind: none + names.index(kind.family))
        values = [batch.choose(partial(value, number=number)) for number in range(self._most)]
        width = batch.choose(lambda kind: none + kind.width)
        return torch.cat([place, *values, width, *self._curves(batch, device)], dim=1)

    def _curves(self, batch: NoiseBatch, device: torch.device) -> list[Tensor]:
        """Of noises that have no formula, their curves, [B or 1, N, 1, 1]; nothing where all have one."""
        if not any(kind.text_form for kind in batch.kinds):
            return []
        told = [
            torch.as_tensor(kind.white.told_curve() if kind.text_form else _NO_CURVE, device=device)
            for kind in batch.kinds
        ]
        return [torch.stack(told)[batch.place.flatten()].flatten(1)[:, :, None, None]]

    def planes(self, w: Tensor, condition: Tensor, log_ratio: Tensor) -> Tensor:
        place, *values, width = condition[:, : self._most + 2].split(1, dim=1)
        std = torch.zeros_like(w)
        if condition.shape[1] > self._most + 2:
            std = _std_on_curve(condition[:, self._most + 2 :], w)
        for number, (name, family) in enumerate(self._families.items()):
            if name in self._formulas:
                std = torch.where(place == number, family(*values[: len(family.parameters)]).std_at(w), std)
        return _stacked(w, torch.ones_like(log_ratio), torch.log(std / _USUAL_STD) + log_ratio, width)


def _std_on_curve(curves: Tensor, w: Tensor) -> Tensor:
    """The standard deviation at each value of w, [B, C, H, W], from told_curve's rows, [B or 1, N, 1, 1]."""
    rows = curves.view(len(curves), 3, -1)[:, : w.shape[1]].expand(len(w), -1, -1)
    first, step, knots = rows[:, :, :1], rows[:, :, 1:2], rows[:, :, 2:]
    place = ((w.flatten(2) - first) / step).clamp(0, knots.shape[2] - 1)
    below = place.floor().clamp(max=knots.shape[2] - 2)
    low, high = (knots.gather(2, (below + more).long()) for more in (0, 1))
    return (low + (place - below) * (high - low)).exp().view_as(w)


def _batch(noise: NoiseModel | NoiseBatch, device: torch.device) -> NoiseBatch:
    return noise if isinstance(noise, NoiseBatch) else NoiseBatch.same(noise, device)


def _stacked(w: Tensor, *parts: Tensor) -> Tensor:
    """Constants and planes, each [B or 1, N, ...], as planes of w's size."""
    return torch.cat([part.expand(len(w), -1, *w.shape[2:]) for part in parts], dim=1)
