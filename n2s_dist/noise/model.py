"""The contract of a noise family: what every kind of noise says of itself, and of nothing else.

A family is a frozen dataclass, one file of this folder or of a module that N2S_PLUGINS names. Images are on the 0-1
scale; nothing is clipped or rounded after corruption. A family has two working coordinates in which a network can
learn a score:

    stable    z = T(y), in which the noise has unit standard deviation everywhere
    natural   the paper's: y itself (Gaussian, Gamma), photon counts n = y / zeta (Poisson); a family may lack them

Parameters may be numbers, arrays, or tensors [B, 1, 1, 1] with one a sample where images are tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from n2s_dist.noise.encoding import FLOAT16, Encoding
from n2s_dist.noise.field import WHITE, Field
from n2s_dist.utils.errors import UserError

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor

    from n2s_dist.noise.frozen import ArrayMath, PixelBits


@dataclass(frozen=True)
class Parameter:
    """One parameter of a family, and how people write it.

    Args:
        name: of the dataclass's field
        low, high: limits of the text's number, both allowed
        scale: how much larger the text's number is than the field: 255 for a sigma in 8-bit levels
        power: the field grows as the noise's variance to this power
        positive: whether `low` itself is refused
        is_log: whether levels between two limits are drawn uniformly in logarithms
        default: the field's value where the text leaves out the last parameters; None for one that has to be given
    """

    name: str
    low: float
    high: float
    scale: float = 1.0
    power: float = 0.0
    positive: bool = False
    is_log: bool = True
    default: float | None = None

    @property
    def limits(self) -> str:
        """Such as "SIGMA in (0, 255]"."""
        return f"{self.name.upper()} in {'(' if self.positive else '['}{self.low:g}, {self.high:g}]"

    @property
    def least(self) -> float:
        """The lowest value worth estimating: `low`, or a thousandth of `high` where that is more."""
        return max(self.low, self.high / 1000) / self.scale

    def read(self, text: str) -> float:
        """The field's value. Raises ValueError for what is no number within the limits."""
        number = float(text)
        if not self.low <= number <= self.high or (self.positive and number == self.low):
            raise ValueError(f"{text} is not within the limits: {self.limits}")
        return number / self.scale

    def write(self, value: float) -> str:
        """The text that `read` reads, of at most six digits."""
        return f"{value * self.scale:.6g}"


class NoiseModel(ABC):
    """One noise: a family at its parameters' values. The fields of a subclass are its parameters, in their order.

    Args of a family's class:
        family: its name in text, words joined by hyphens
        parameters: what its fields mean
        title: how reports call it, with places for the first parameters: "Gaussian, σ = {}"
        told_as: families whose networks serve this one as well, since they look alike in stable coordinates
        text_form: how the family is written where its parameters are no plain numbers; then it has of_text and to_text
        is_stored_only: whether the loader can't draw it, so that it is stored with the tiles
        is_nonnegative: whether noisy values are never below 0
        is_divisible: whether the mean of N noisy versions of an image has such noise again, of 1/sqrt(N) the deviation
        is_of_color: whether only images of three channels have such noise
        paper_sigma_a: ends of the paper's annealing in natural coordinates; None where there are none
    """

    family: str
    parameters: tuple[Parameter, ...]
    title: str = ""
    told_as: ClassVar[tuple[str, ...]] = ()
    text_form: ClassVar[str] = ""
    is_stored_only: bool = False
    is_nonnegative: bool = False
    is_divisible: bool = False
    is_of_color: bool = False
    paper_sigma_a: ClassVar[tuple[float, float] | None] = None
    field: Field = WHITE  # how pixels and channels are correlated; only noise/correlated.py has another

    # --- its parameters -------------------------------------------------------------------------------------

    @property
    def values(self) -> tuple[Any, ...]:
        """Its parameters' values."""
        return tuple(getattr(self, parameter.name) for parameter in self.parameters)

    @property
    def level(self) -> Any:
        """The value of the first parameter."""
        return self.values[0]

    def with_values(self, *values: Any) -> Self:
        """The same family at other values."""
        return type(self)(*values)

    def scaled(self, factor: Any) -> Self:
        """Noise of `factor` times the standard deviation."""
        return self.with_values(
            *(value * factor ** (2 * each.power) for value, each in zip(self.values, self.parameters, strict=True))
        )

    @property
    def white(self) -> NoiseModel:
        """The same without correlation between pixels."""
        return self

    @property
    def width(self) -> Any:
        """Of the correlation between pixels, in pixels: the one that a network is told."""
        return self.field.width

    @property
    def margin(self) -> int:
        """Pixels around a tile whose words its draw takes as well."""
        return self.field.reach

    @property
    def alike(self) -> NoiseModel:
        """What a network that tells families apart is told instead; itself where there is none."""
        return self

    @classmethod
    def of_text(cls, text: str) -> Self:
        """The noise that a text after "family:" names. Raises ValueError for one that is not understood."""
        raise AssertionError(f"{cls.family} noise is written by its parameters")

    def to_text(self) -> str:
        """The text that of_text reads."""
        raise AssertionError(f"{self.family} noise is written by its parameters")

    # --- clean to noisy -------------------------------------------------------------------------------------

    @abstractmethod
    def std(self, x: Any) -> Any:
        """Standard deviation of the noise on a clean value x, a number, an array or a tensor."""

    @abstractmethod
    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Noisy images, float64 of the shape of `clean`, [..., H, W, C], unclipped."""

    def expose(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """As corrupt, but each value from random numbers of its own: what rounding does to one leaves the others."""
        return self.corrupt(clean, rng)

    @abstractmethod
    def draw(self, clean: Any, bits: PixelBits, arrays: ArrayMath) -> Any:
        """Frozen noise: the noisy image, float32 [C, H, W], as a function of a random word a pixel (noise/frozen.py).

        clean: uint8 [C, H, W], of NumPy or, unless is_stored_only, of DALI. bits: of the same pixels and `margin` more
        on each side.
        """

    @property
    def encoding(self) -> Encoding:
        """How tiles with this noise are stored."""
        return FLOAT16

    # --- stable coordinates ---------------------------------------------------------------------------------

    @abstractmethod
    def stabilize(self, y: Tensor) -> Tensor:
        """z = T(y), elementwise and differentiable, finite for every y."""

    @abstractmethod
    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat by Tweedie's formula, from the score s_z of z."""

    @abstractmethod
    def std_at(self, z: Tensor) -> Tensor:
        """Standard deviation of the noise around z, on the 0-1 scale: dy/dz, held at black's where T ends."""

    @property
    def stable_std(self) -> float:
        """The noise's exact standard deviation in z, far from black."""
        return 1.0

    @property
    def constant_std(self) -> float | None:
        """Its standard deviation where that is the same at every intensity; else None."""
        return None

    def unbiased_inverse(self, mean: Tensor) -> Tensor:
        """The clean value x whose noisy version has this mean in z."""
        black = mean * 0
        return self.posterior_mean(black, mean - self.stabilize(black))

    def variance_around(self, y: Tensor) -> Tensor:
        """Unbiased estimate of the noise's variance from noisy values alone."""
        return y * 0 + self.std(y.clamp(min=0)) ** 2

    def first_guess(self, pieces: Tensor) -> Self:
        """Roughly the noise of images [N, C, H, W], for a level that nobody knows; self is at any level.

        Raises UserError for a family whose level can't be estimated.
        """
        raise UserError(f"{self.family} noise can't be estimated from an image: name its level")

    def told_curve(self) -> np.ndarray:
        """Of a family with a text_form: its std_at as a table for a network's condition (noise/curve.py)."""
        raise AssertionError(f"{self.family} noise is written by its parameters")

    # --- natural coordinates --------------------------------------------------------------------------------

    def natural(self, y: Tensor) -> Tensor:
        """The paper's coordinates of y."""
        raise AssertionError(f"{self.family} noise has no natural coordinates, as the configuration's checks say")

    def natural_posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """x_hat by the paper's formula, from the score in natural coordinates."""
        raise AssertionError(f"{self.family} noise has no natural coordinates, as the configuration's checks say")
