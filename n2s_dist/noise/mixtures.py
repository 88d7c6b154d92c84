"""Several noise families and ranges of levels, for one network that serves them all.

    "gaussian:5-55,poisson:0.005-0.1,gamma:20-200" ──► Mixture ──► each image's own NoiseModel

Each image has one family and one level, drawn once and for all from (seed, image): noise stays frozen.
"""

from dataclasses import dataclass

import numpy as np

from n2s_dist.noise.base import NoiseModel, PureNoise
from n2s_dist.utils import hashing


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

    @property
    def specificity(self) -> tuple[int, float]:
        """How much it asks of one network: how many families, and how far their ranges go, in logarithms."""
        return len(self.ranges), sum(float(np.log(high.level / low.level)) for low, high in self.ranges)

    def log_raise(self, image_keys: np.ndarray, seed: int, share: np.ndarray, into: "Mixture") -> np.ndarray:
        """Logarithm of how many times images' levels are to be raised to reach others, float64 [N].

        into: ranges of the same families that those lie in, these or parts of them. share: [N], where in its family's,
        0 being the weakest, in logarithms. Negative where the own level is the stronger one.
        """
        which, level = self.draw(image_keys, seed)
        ends = np.array([[noise.level for noise in ends] for ends in into.ranges])[which].T
        weakest, strongest = np.sort([self._log_std(which, end) for end in ends], axis=0)
        return weakest + (strongest - weakest) * share - self._log_std(which, level)

    def _log_std(self, which: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Logarithm of the noise's standard deviation at middle gray, for what `draw` returns: float64 [N]."""
        return np.log(np.choose(which, [type(low)(level).std(0.5) for low, _ in self.ranges]))  # type: ignore[arg-type]

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
