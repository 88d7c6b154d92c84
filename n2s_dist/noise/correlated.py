"""Correlated noise, as demosaicing, resizing, scanning optics and readouts leave it: stripes, blur, mixed channels.

    n = sqrt(v(x)) f        v the family's variance; f a stationary field of unit variance (noise/field.py)

In stable coordinates the noise is f, whatever the signal. The signal is not blurred.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from n2s_dist.noise.field import Field
from n2s_dist.noise.frozen import ArrayMath, PixelBits, draw_sum
from n2s_dist.noise.gaussian import normal_tables
from n2s_dist.noise.model import NoiseModel, Parameter
from n2s_dist.utils import hashing

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor

WIDTH = Parameter("width", 0, 8, is_log=False)
_ACROSS, _DOWN = replace(WIDTH, name="across"), replace(WIDTH, name="down")


@dataclass(frozen=True)
class Correlated(NoiseModel):
    """Noise of another family's strength that a field correlates: y = x + std(x) f.

    Its family is the other's; whoever asks for `white` or `field` sees the two parts. Its parameters are the other's
    and the field's widths; shares and channels' correlations are no parameters, for they have no ranges.
    """

    base: NoiseModel
    field: Field
    is_stored_only = True  # DALI's arithmetic knows single pixels

    @property
    def family(self) -> str:  # type: ignore[override]
        return self.base.family

    @property
    def parameters(self) -> tuple[Parameter, ...]:  # type: ignore[override]
        return (*self.base.parameters, *((), (WIDTH,), (_ACROSS, _DOWN))[len(self.field.widths)])

    @property
    def text_form(self) -> str:  # type: ignore[override]
        return self.base.text_form

    def to_text(self) -> str:
        return self.base.to_text()

    @property
    def values(self) -> tuple[Any, ...]:
        return (*self.base.values, *self.field.widths)

    def with_values(self, *values: Any) -> Self:
        count = len(self.base.parameters)
        return type(self)(self.base.with_values(*values[:count]), replace(self.field, widths=values[count:]))

    def scaled(self, factor: Any) -> Self:
        return replace(self, base=self.base.scaled(factor))

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
    def is_of_color(self) -> bool:  # type: ignore[override]
        return self.base.is_of_color or bool(self.field.channels)

    def std(self, x: Any) -> Any:
        return self.base.std(x)

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        *outer, height, width, channels = clean.shape
        around = 2 * self.margin
        white = rng.standard_normal((*outer, channels, height + around, width + around))
        of_rows = rng.standard_normal((*outer, channels, height, 1)) if self.field.rows else None
        of_columns = rng.standard_normal((*outer, channels, 1, width)) if self.field.columns else None
        field = self.field.compose(self.field.blurred(white), of_rows, of_columns)
        return clean + self.std(clean) * np.moveaxis(field, -3, -1)

    def draw(self, clean: Any, bits: PixelBits, arrays: ArrayMath) -> Any:
        x = clean * arrays.f32(1 / 255)
        blurred = self.field.blurred(draw_sum(normal_tables(1.0), bits, arrays))
        std = np.asarray(self.std(np.moveaxis(x, 0, -1)), np.float32)
        std = np.moveaxis(std, -1, 0) if std.ndim else std
        inner = slice(self.margin, -self.margin or None)
        of_rows = _of_lines(bits.down_keys[:, inner]) if self.field.rows else None
        of_columns = _of_lines(bits.across_keys[:, :, inner]) if self.field.columns else None
        return x + std * self.field.compose(blurred, of_rows, of_columns)

    def stabilize(self, y: Tensor) -> Tensor:
        return self.base.stabilize(y)

    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """The white family's, `score` being C s_z with the noise's covariance C: what perturbations like f teach."""
        return self.base.posterior_mean(y, score)

    def std_at(self, z: Tensor) -> Tensor:
        return self.base.std_at(z)

    def variance_around(self, y: Tensor) -> Tensor:
        return self.base.variance_around(y)


def blurred(base: NoiseModel, width: Any) -> Correlated:
    """Noise of a family, blurred by a Gaussian kernel of this width in pixels."""
    return Correlated(base, Field((width,)))


def _of_lines(keys: np.ndarray) -> np.ndarray:
    """One standard normal value for each channel and line, float32, from the lines' keys, uint32 of that shape."""
    channels = np.arange(len(keys))[:, None, None]
    words = hashing.hash64(hashing.STREAM_LINES, channels, keys)
    first, second = normal_tables(1.0)
    return first[words & np.uint64(0xFFFF)] + second[words >> np.uint64(48)]
