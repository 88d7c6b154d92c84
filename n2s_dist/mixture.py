"""Several noise families and ranges of levels, for one network that serves them all.

    "gaussian:5-55,poisson:0.005-0.1,gamma:20-200" ──► Mixture ──► each image's own NoiseModel ──► NoiseBatch

Each image has one family and one level, drawn once and for all from (seed, image): noise stays frozen.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from n2s_dist.noise import FAMILIES, NoiseModel, Poisson, PoissonGaussian, PureNoise, format_noise, parse_noise
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError

CONDITIONS = len(FAMILIES) + 1

# The deviation at which the level's channel is 0: that of noise of average strength.
_USUAL_DEVIATION = 0.1
_RANGE = re.compile(r"(\w+):([0-9.]+)-([0-9.]+)")


@dataclass(frozen=True)
class Mixture:
    """Families with equal shares, levels log-uniform between a lowest and a highest one each."""

    ranges: tuple[tuple[PureNoise, PureNoise], ...]

    def draw(self, image_keys: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Places in `ranges`, int64 [N], and levels, float64 [N], of images with keys uint64 [N]."""
        words = hashing.hash64(seed, hashing.STREAM_LEVEL, np.asarray(image_keys, np.uint64)[:, None], np.arange(2))
        share = words / 2.0**64
        which = np.minimum((share[:, 0] * len(self.ranges)).astype(np.int64), len(self.ranges) - 1)
        low, high = np.log([[noise.level for noise in ends] for ends in self.ranges]).T
        return which, np.exp(low[which] + (high - low)[which] * share[:, 1])

    def of_image(self, image_key: int, seed: int) -> PureNoise:
        """The noise of one image."""
        which, level = self.draw(np.array([image_key], np.uint64), seed)
        return type(self.ranges[which[0]][0])(float(level[0]))

    def of_images(self, image_keys: np.ndarray, seed: int, device: torch.device) -> "NoiseBatch":
        """The noise of several images, keys uint64 [N]."""
        which, level = self.draw(image_keys, seed)
        family = np.array([FAMILIES.index(type(low)) for low, _ in self.ranges])[which]
        return NoiseBatch.of(family, level, device)

    @property
    def breadth(self) -> tuple[int, float]:
        """How much it asks of one network: how many families, and how far their ranges go, in logarithms."""
        return len(self.ranges), sum(float(np.log(high.level / low.level)) for low, high in self.ranges)

    def log_raise(self, image_keys: np.ndarray, seed: int, share: np.ndarray, into: "Mixture") -> np.ndarray:
        """Logarithm of how many times images' levels are to be raised to reach others, float64 [N].

        into: ranges of the same families that those lie in, these or parts of them. share: [N], where in its family's,
        0 being the weakest, in logarithms. Negative where the own level is the stronger one.
        """
        which, level = self.draw(image_keys, seed)
        ends = np.array([[noise.level for noise in ends] for ends in into.ranges])[which].T
        weakest, strongest = np.sort([self._log_deviation(which, end) for end in ends], axis=0)
        return weakest + (strongest - weakest) * share - self._log_deviation(which, level)

    def _log_deviation(self, which: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Logarithm of the noise's standard deviation at middle grey, for what `draw` returns: float64 [N]."""
        return np.log(np.choose(which, [type(low)(level).deviation(0.5) for low, _ in self.ranges]))  # type: ignore[arg-type]

    def is_end(self, noise: NoiseModel) -> bool:
        """Whether a level is an end of its family's range, to rounding."""
        ends = [end for pair in self.ranges for end in pair if type(end) is type(noise)]
        return any(abs(np.log(end.level / noise.level)) < 1e-3 for end in ends)  # type: ignore[union-attr]

    def holds(self, noise: NoiseModel) -> bool:
        """Whether a family is among these and a level in its range, ends included to rounding."""
        return any(
            type(noise) is type(low) and low.level * (1 - 1e-9) <= noise.level <= high.level * (1 + 1e-9)
            for low, high in self.ranges
        )

    def contains(self, part: "TrainingNoise") -> bool:
        """Whether another mixture is of the same families, in this order, each with a part of its range here."""
        return (
            isinstance(part, Mixture)
            and [type(low) for low, _ in part.ranges] == [type(low) for low, _ in self.ranges]
            and all(self.holds(end) for ends in part.ranges for end in ends)
        )


TrainingNoise = PureNoise | Mixture


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

    def stable(self, y: Tensor) -> Tensor:
        """z = T(y), each image by its own noise's transform."""
        return self._choose([noise.stable(y) for noise in self._models()])

    def condition(self) -> Tensor:
        """What a network is told: its family, one channel each, and the level, as a strength that families share.

        That strength is the logarithm of the noise's standard deviation at middle grey. float32 [B, CONDITIONS, 1, 1].
        """
        one_hot = [(self.family == number).float() for number in range(len(FAMILIES))]
        deviation = self._choose([noise.deviation(0.5) for noise in self._models()])
        return torch.cat([*one_hot, torch.log(deviation / _USUAL_DEVIATION)], dim=1)


def parse_training_noise(text: str) -> TrainingNoise:
    """Read what parse_noise reads, or ranges of levels: "gaussian:5-55,gamma:20-200".

    Raises UserError for another family, a level out of range, or a range that is none, and for mixed noise.
    """
    if "," not in text and not _RANGE.fullmatch(text):
        return _pure(text)
    ranges = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if not found:
            raise UserError(f"noise '{text}' is not understood: write each part as FAMILY:LOWEST-HIGHEST")
        family, low, high = found.groups()
        ends = _pure(f"{family}:{low}"), _pure(f"{family}:{high}")
        if not ends[0].level < ends[1].level:
            raise UserError(f"noise '{text}' has a range whose ends are not in order: {part.strip()}")
        ranges.append(ends)
    families = [type(low) for low, _ in ranges]
    if len(set(families)) < len(families):
        raise UserError(f"noise '{text}' names a family twice: give each one range")
    return Mixture(tuple(ranges))


def _pure(text: str) -> PureNoise:
    noise = parse_noise(text)
    if isinstance(noise, PoissonGaussian):
        raise UserError(f"noise '{text}' can't be trained on: a network trained on Poisson noise denoises it")
    return noise


def format_training_noise(noise: TrainingNoise) -> str:
    """The text that parse_training_noise reads."""
    if not isinstance(noise, Mixture):
        return format_noise(noise)
    return ",".join(f"{format_noise(low)}-{format_noise(high).split(':')[1]}" for low, high in noise.ranges)
