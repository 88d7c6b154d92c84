"""Which noise images have: one noise for all, or each its own out of several families and ranges of parameters.

    "gaussian:5-55,poisson:0.005-0.1,gamma:20-200" ──► NoiseDistribution ──► each image's own NoiseModel

Each image has one family and one value a parameter, drawn once and for all from (seed, image): noise stays frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from n2s_dist.noise.encoding import FLOAT16, Encoding
from n2s_dist.noise.field import Field, Kernels
from n2s_dist.noise.model import NoiseModel, Parameter
from n2s_dist.utils import hashing

_ROUNDING = 1e-9  # of levels that were written as text and read again
_AT_END = 1e-3  # how near an end of a range a level counts as that end, in logarithms or in parts of the range


@dataclass(frozen=True)
class NoiseRange:
    """One family, each parameter between its values in `low` and in `high`; equal ends are a single level."""

    low: NoiseModel
    high: NoiseModel

    def parameters(self) -> Iterator[tuple[Parameter, float, float]]:
        """Each parameter with its lowest and highest value."""
        return zip(self.low.parameters, self.low.values, self.high.values, strict=True)

    @property
    def is_single(self) -> bool:
        return self.low == self.high

    @property
    def is_correlated(self) -> bool:
        """Whether its noise may be correlated."""
        return not self.high.field.is_white

    @property
    def breadth(self) -> float:
        """How far its parameters go: in logarithms, or in their own unit where they are drawn so."""
        return sum(
            float(np.log(high / low)) if each.is_log else high - low for each, low, high in self.parameters()
        )  # fmt: skip

    def is_of(self, noise: NoiseModel) -> bool:
        """Whether a noise is of this family, whatever its parameters; what is no number counts as the family."""
        return noise.family == self.low.family and (not self.low.text_form or noise.white == self.low.white)

    def at(self, values: np.ndarray) -> NoiseModel:
        """The noise of these values, one a parameter, each a float64 or float64 [N]."""
        return self.low.with_values(*values[: len(self.low.parameters)])

    def between(self, share: np.ndarray) -> np.ndarray:
        """Values of the parameters where `share`, float64 [N, P] in [0, 1), says between their ends: float64 [N, P]."""
        values = np.empty((len(share), len(self.low.parameters)))
        for number, (each, low, high) in enumerate(self.parameters()):
            if low == high:
                values[:, number] = low
            elif each.is_log:
                log_low, log_high = np.log(low), np.log(high)
                values[:, number] = np.exp(log_low + (log_high - log_low) * share[:, number])
            else:
                values[:, number] = low + (high - low) * share[:, number]
        return values

    def holds(self, noise: NoiseModel) -> bool:
        """Whether a noise is of this family and within the ranges, ends included to rounding."""
        own = (*noise.white.values, *_widths(noise.field, len(self.low.field.widths)))
        alike = self.is_of(noise) and noise.field.pattern.is_like(self.low.field.pattern)
        return alike and len(own) == len(self.low.values) and all(
            each.write(value) == each.write(low) if low == high
            else low * (1 - _ROUNDING) <= value <= high * (1 + _ROUNDING)
            for value, (each, low, high) in zip(own, self.parameters(), strict=True)
        )  # fmt: skip

    def is_end(self, noise: NoiseModel) -> bool:
        """Whether some parameter is at an end of its range, to rounding; a single level has no end."""
        return self.is_of(noise) and any(
            abs(np.log(end / value)) < _AT_END if each.is_log else abs(end - value) < _AT_END * (high - low)
            for value, (each, low, high) in zip(noise.values, self.parameters(), strict=False)
            for end in (low, high)
            if low < high
        )


def _widths(field: Field, count: int) -> tuple[float, ...]:
    """A kernel's widths as so many numbers; its own, which are more, where fewer don't tell them."""
    if len(field.widths) > count and any(field.widths):
        return field.widths
    return field.ends[:count]


@dataclass(frozen=True)
class NoiseDistribution:
    """Kinds of noise with equal shares. Parameters lie log-uniformly, or as they say, between two values each."""

    ranges: tuple[NoiseRange, ...]

    @classmethod
    def of(cls, noise: NoiseModel) -> NoiseDistribution:
        """One noise for all images."""
        return cls((NoiseRange(noise, noise),))

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def is_single(self) -> bool:
        """Whether all images have one and the same noise."""
        return len(self.ranges) == 1 and self.ranges[0].is_single

    @property
    def single(self) -> NoiseModel:
        """The one noise that all images have."""
        assert self.is_single, "images have noise of several levels"
        return self.ranges[0].low

    @property
    def families(self) -> tuple[str, ...]:
        """Names of its families, in their order."""
        return tuple(dict.fromkeys(each.low.family for each in self.ranges))

    @property
    def specificity(self) -> tuple[int, float]:
        """How much it asks of one network: how many kinds, and how far their ranges go; 0 for one level."""
        return (0, 0.0) if self.is_single else (len(self.ranges), sum(each.breadth for each in self.ranges))

    @property
    def max_width(self) -> float:
        """The largest width of its noise's correlation in pixels, as networks are told it; 0 without blur."""
        return max(each.high.width for each in self.ranges)

    @property
    def is_correlated(self) -> bool:
        """Whether some of its noise is."""
        return any(each.is_correlated for each in self.ranges)

    @property
    def is_directional(self) -> bool:
        """Whether rows and columns of some of its noise differ, so that images must not be turned."""
        return any(each.high.field.is_directional for each in self.ranges)

    @property
    def is_of_color(self) -> bool:
        """Whether gray images can't have it."""
        return any(each.low.is_of_color for each in self.ranges)

    @property
    def patterns(self) -> set[Field]:
        """Stripes and correlations of channels that its noises have, white ones included."""
        return {each.low.field.pattern for each in self.ranges}

    @property
    def is_stored_only(self) -> bool:
        """Whether tiles have to be stored with their noise, since the loader can't draw it."""
        return not self.is_single or self.single.is_stored_only

    @property
    def encoding(self) -> Encoding:
        """How tiles with this noise are stored."""
        return self.single.encoding if self.is_single else FLOAT16

    @property
    def paper_sigma_a(self) -> tuple[float, float] | None:
        """Ends of the paper's annealing, for one noise of a family that has natural coordinates."""
        return self.single.paper_sigma_a if self.is_single else None

    def spread(self, count: int) -> list[NoiseModel]:
        """`count` levels of each kind from the first to the last of its range, evenly in between; or its only one."""
        out = []
        for each in self.ranges:
            share = np.linspace(0, 1, 1 if each.is_single else count)
            values = each.between(np.repeat(share[:, None], len(each.low.parameters), axis=1))
            out += [each.low] if each.is_single else [each.at(row) for row in values.tolist()]
        return out

    # --- what it holds ------------------------------------------------------------------------------------

    def range_of(self, family: str) -> NoiseRange | None:
        """The first range of a family."""
        return next((each for each in self.ranges if each.low.family == family), None)

    def holds(self, noise: NoiseModel) -> bool:
        """Whether a noise is one of these, ends of ranges included to rounding."""
        return any(each.holds(noise) for each in self.ranges)

    def is_end(self, noise: NoiseModel) -> bool:
        """Whether a level is an end of its family's range, to rounding."""
        return any(each.is_end(noise) for each in self.ranges)

    def contains(self, part: NoiseDistribution) -> bool:
        """Whether another has the same ranges, in this order, or a part of each."""
        return len(part.ranges) == len(self.ranges) and all(
            own.holds(end)
            for own, other in zip(self.ranges, part.ranges, strict=True)
            for end in (other.low, other.high)
        )

    def is_within(self, whole: NoiseDistribution) -> bool:
        """Whether each range lies in one of another's."""
        return all(whole.holds(end) for each in self.ranges for end in (each.low, each.high))

    # --- draws --------------------------------------------------------------------------------------------

    def draw(self, image_keys: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The noise of images with keys uint64 [N]: places in `ranges`, int64 [N], and values, float64 [N, P].

        P is the largest number of parameters; what a family lacks is 0. The first word of a key decides the family, and
        one each of the further ones the parameters.
        """
        most = max(len(each.low.parameters) for each in self.ranges)
        keys = np.asarray(image_keys, np.uint64)[:, None]
        share = hashing.hash64(seed, hashing.STREAM_LEVEL, keys, np.arange(1 + most)) / 2.0**64
        which = np.minimum((share[:, 0] * len(self.ranges)).astype(np.int64), len(self.ranges) - 1)
        values = np.zeros((len(which), most))
        for number, each in enumerate(self.ranges):
            mine = which == number
            drawn = each.between(share[mine, 1:])
            values[mine, : drawn.shape[1]] = drawn
        return which, values

    def kernels(self, image_keys: np.ndarray, seed: int) -> Kernels | None:
        """The correlation of each image's noise, of one pattern; None where all noise is white."""
        if not self.is_correlated:
            return None
        which, values = self.draw(image_keys, seed)
        fields = [self.ranges[place].at(row).field for place, row in zip(which, values, strict=True)]
        return Kernels.of(fields, max(each.high.field.reach for each in self.ranges))

    def of_image(self, image_key: int, seed: int) -> NoiseModel:
        """The noise of one image."""
        if self.is_single:
            return self.single
        which, values = self.draw(np.array([image_key], np.uint64), seed)
        return self.ranges[which[0]].at(values[0].tolist())

    def log_raise(self, image_keys: np.ndarray, seed: int, share: np.ndarray, into: NoiseDistribution) -> np.ndarray:
        """Logarithm of how many times images' noise is to be raised to reach other levels, float64 [N].

        into: ranges of the same families that those lie in, these or parts of them. share: [N], where in its family's,
        0 being the weakest, in logarithms. Negative where the own level is the stronger one.
        """
        which, values = self.draw(image_keys, seed)
        raises = np.empty(len(which))
        for number, (own, other) in enumerate(zip(self.ranges, into.ranges, strict=True)):
            mine = which == number
            weakest, strongest = sorted(float(np.log(end.std(0.5))) for end in (other.low, other.high))
            own_std = np.log(own.at(values[mine].T).std(0.5))
            raises[mine] = weakest + (strongest - weakest) * share[mine] - own_std
        return raises
