"""The contract of a metric: what is measured on an image beside the clean one, and how tables show it.

A metric is one file of this folder or of a module that N2S_PLUGINS names. Images are [H, W, C] on the 0-1 scale: clean
ones float64, others float32 or float64, denoised ones clamped.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import numpy as np

Version = Literal["noisy", "estimate", "uint8"]  # of an image: as it was, denoised, denoised and rounded to 8 bits


class Measure(NamedTuple):
    """One figure of an image, and its mean over images.

    key: its name in results.json. title: of its column, at most 8 letters. digits: after the point. unit: such as "dB";
    empty for a pure number. version: what of the image is measured.
    """

    key: str
    title: str
    digits: int = 2
    unit: str = ""
    higher_is_better: bool = True
    version: Version = "estimate"


class Metric(ABC):
    """A metric that takes an image whole. While one is registered, no image goes through in tiles.

    Args of a metric's class:
        name: its key in results.json
        title, digits, unit, higher_is_better: see Measure
    """

    name: ClassVar[str]
    title: ClassVar[str]
    digits: ClassVar[int] = 2
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What it puts into results.json: by default one figure, of the denoised image."""
        return (Measure(self.name, self.title, self.digits, self.unit, self.higher_is_better),)

    @abstractmethod
    def of_image(self, clean: np.ndarray, estimate: np.ndarray) -> float | None:
        """The metric of one image; None where it has none."""


class PixelMetric(Metric):
    """A metric that is made of a sum over values, so that an image's tiles add up to the image's.

    Args of its class:
        margin: how far a value's surroundings count, in pixels. Values so near to the image's border are left out
    """

    margin: ClassVar[int] = 0

    @abstractmethod
    def of_pixels(self, clean: np.ndarray, estimate: np.ndarray) -> np.ndarray:
        """The metric at each value, float64 [H, W, C]. It may be anything within the margin of the border."""

    def of_sum(self, total: float, count: int) -> float | None:
        """An image's metric from the sum over its `count` values; None where it has none. By default the mean."""
        return total / count

    def of_image(self, clean: np.ndarray, estimate: np.ndarray) -> float | None:
        if min(clean.shape[:2]) <= 2 * self.margin:
            return None
        bottom, right = (side - self.margin for side in clean.shape[:2])
        inside = self.of_pixels(clean, estimate)[self.margin : bottom, self.margin : right]
        return self.of_sum(float(np.sum(inside)), inside.size)
