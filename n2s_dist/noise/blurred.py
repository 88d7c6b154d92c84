"""Noise with correlation between neighbours, as demosaicing, resizing and scanning optics leave it.

    n = sqrt(v(x)) (K * w)        w white, unit variance; K a Gaussian kernel of unit energy; v the family's variance

In stable coordinates the noise is K * w, whatever the signal. The signal is not blurred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from n2s_dist.noise.frozen import ArrayMath, PixelBits, draw_sum
from n2s_dist.noise.gaussian import normal_tables
from n2s_dist.noise.model import NoiseModel, Parameter

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    import torch
    from torch import Tensor

_REACH = 4.0  # standard deviations of the kernel, beyond which it is cut off

WIDTH = Parameter("width", 0, 8, is_log=False)


def radius(width: float) -> int:
    """Pixels that a kernel of this width reaches to each side."""
    return math.ceil(_REACH * width)


def kernel(width: float, reach: int | None = None) -> np.ndarray:
    """A Gaussian of this standard deviation in pixels along one axis, of unit energy: float64 [2 R + 1].

    reach: R, at least radius(width), which it is by default; what is further out than that is 0.
    """
    own = radius(width)
    reach = own if reach is None else reach
    taps = np.zeros(2 * reach + 1)
    at = np.arange(-own, own + 1)
    taps[reach - own : reach + own + 1] = np.exp(-0.5 * (at / width) ** 2) if width else 1.0
    return taps / np.sqrt(np.sum(taps**2))


def autocorrelation(width: float, lags: Sequence[int]) -> list[float]:
    """How alike noise of this width is along one axis at distances of some pixels, all above 0."""
    taps = kernel(width, max(radius(width), *lags))
    return [float((taps[lag:] * taps[:-lag]).sum()) for lag in lags]


def coarse_strength(width: float) -> float:
    """How many times as strong as white noise of its standard deviation such noise is over many pixels, at least 1."""
    return float(np.sum(kernel(width))) ** 2


def blur(white: Any, taps: Sequence[Any] | np.ndarray) -> Any:
    """Filter the last two axes [.., H + 2 R, W + 2 R] with a kernel of 2 R + 1 taps along each: [.., H, W].

    Arrays or tensors; taps may be tensors [B, 1, 1, 1]. Every pixel takes the same additions in the same order, so
    pieces of one field agree to the last bit.
    """
    reach = len(taps) - 1
    height, width = white.shape[-2] - reach, white.shape[-1] - reach
    rows = sum(tap * white[..., i : i + height, :] for i, tap in enumerate(taps))
    return sum(tap * rows[..., i : i + width] for i, tap in enumerate(taps))


class Kernels(NamedTuple):
    """The correlations of a batch's noises: widths in pixels, float64 [B], and the radius of the widest there may be.

    `reach` is the same for every batch of a run, so that what is drawn for a sample never depends on its batch.
    """

    widths: np.ndarray
    reach: int

    def coarse_strengths(self) -> np.ndarray:
        """coarse_strength of each, float64 [B]."""
        return np.array([coarse_strength(float(width)) for width in self.widths])

    def taps(self, device: torch.device) -> list[Tensor]:
        """The kernels' taps along one axis, 2 reach + 1 tensors float32 [B, 1, 1, 1]."""
        from n2s_dist.noise.transfer import to_device  # here alone, for texts are read without PyTorch

        taps = np.stack([kernel(float(width), self.reach) for width in self.widths], axis=1)
        return list(to_device(taps.astype(np.float32), device)[..., None, None, None])


@dataclass(frozen=True)
class Blurred(NoiseModel):
    """Noise of another family's strength, blurred: y = x + std(x) (K * w). width: of K, in pixels, above 0.

    Its family is the other's; whoever asks for `white` or `width` sees the two parts.
    """

    base: NoiseModel
    width: float
    is_stored_only = True  # DALI's arithmetic knows single pixels

    @property
    def family(self) -> str:  # type: ignore[override]
        return self.base.family

    @property
    def parameters(self) -> tuple[Parameter, ...]:  # type: ignore[override]
        return (*self.base.parameters, WIDTH)

    @property
    def text_form(self) -> str:  # type: ignore[override]
        return self.base.text_form

    def to_text(self) -> str:
        return self.base.to_text()

    @property
    def values(self) -> tuple[Any, ...]:
        return (*self.base.values, self.width)

    def with_values(self, *values: Any) -> Self:
        return type(self)(self.base.with_values(*values[:-1]), values[-1])

    @property
    def white(self) -> NoiseModel:
        return self.base

    @property
    def alike(self) -> NoiseModel:
        return self.base.alike

    @property
    def is_divisible(self) -> bool:  # type: ignore[override]
        return self.base.is_divisible

    @property
    def margin(self) -> int:  # type: ignore[override]
        return radius(self.width)

    def std(self, x: Any) -> Any:
        return self.base.std(x)

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        *outer, height, width, channels = clean.shape
        white = rng.standard_normal((*outer, channels, height + 2 * self.margin, width + 2 * self.margin))
        return clean + self.std(clean) * np.moveaxis(blur(white, kernel(self.width)), -3, -1)

    def draw(self, clean: Any, bits: PixelBits, arrays: ArrayMath) -> Any:
        x = clean * arrays.f32(1 / 255)
        white = draw_sum(normal_tables(1.0), bits, arrays)
        std = np.asarray(self.std(np.moveaxis(x, 0, -1)), np.float32)
        std = np.moveaxis(std, -1, 0) if std.ndim else std
        return x + std * blur(white, kernel(self.width).astype(np.float32))

    def stabilize(self, y: Tensor) -> Tensor:
        return self.base.stabilize(y)

    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """The white family's, `score` being C s_z with the noise's covariance C: what perturbations of K * w teach."""
        return self.base.posterior_mean(y, score)

    def std_at(self, z: Tensor) -> Tensor:
        return self.base.std_at(z)

    def variance_around(self, y: Tensor) -> Tensor:
        return self.base.variance_around(y)
