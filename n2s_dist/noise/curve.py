"""Noise of any strength as a function of the signal: a noise level function of a few points, per channel if need be.

    curve:0=0.01_0.5=0.04_1=0.05               value = standard deviation, on the 0-1 scale, with straight lines between
    curve:0=0.01:0.02:0.01_1=0.05:0.06:0.05    one standard deviation a channel
    curve:FILE.yaml                            a file with "values: [0, 0.5, 1]" and "std: [0.01, 0.04, 0.05]"

Beyond the first and the last point the standard deviation stays as it is there. On a straight line s + k d the stable
coordinate is log(1 + k d / s) / k, so the transform, its slope and its inverse are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from n2s_dist.noise.frozen import TABLE_SIZE, ArrayMath, PixelBits, draw_sum
from n2s_dist.noise.gaussian import normal_tables
from n2s_dist.noise.model import NoiseModel
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import expanded
from n2s_dist.utils.strict_yaml import read_yaml

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    from torch import Tensor

_STRAIGHT = 1e-9  # slopes below count as none
_MAX_POINTS = 64
_GRID = 2049  # points at which the mean of z is tabulated
_NODES = 40  # of the quadrature for it
_REACH = 6.0  # standard deviations beyond the points that the table covers
TOLD_POINTS = 64  # at which a network's condition holds the curve


class _Lines(NamedTuple):
    """One channel's curve, piece by piece: before the first point, between two, after the last. float64 [K + 1]."""

    value: np.ndarray  # where a piece's line is anchored
    std: np.ndarray
    slope: np.ndarray
    z: np.ndarray  # the stable coordinate there


@dataclass(frozen=True)
class Curve(NoiseModel):
    """y = x + std(x) n, n ~ N(0, 1). points: (value, standard deviation of each channel, or of all)."""

    points: tuple[tuple[float, ...], ...]
    family = "curve"
    parameters = ()
    title = "Curve"
    told_as = ("poisson", "poisson-gaussian")
    is_divisible = True
    text_form = "curve:VALUE=STD_VALUE=STD or curve:FILE.yaml"

    def __post_init__(self) -> None:
        values = [point[0] for point in self.points]
        stds = [std for point in self.points for std in point[1:]]
        if not 2 <= len(values) <= _MAX_POINTS or any(low >= high for low, high in pairwise(values)):
            raise ValueError(f"a curve has 2 to {_MAX_POINTS} points of growing values")
        if {len(point) for point in self.points} not in ({2}, {4}):
            raise ValueError("each point of a curve has one standard deviation, or one for each of three channels")
        if not all(0 < std <= 1 for std in stds) or not all(-1 <= value <= 2 for value in values):
            raise ValueError("a curve's standard deviations lie in (0, 1], its values from -1 to 2")

    # --- text -----------------------------------------------------------------------------------------------

    @classmethod
    def of_text(cls, text: str) -> Self:
        if text.endswith((".yaml", ".yml")):
            return cls(_read(Path(expanded("the noise's file", text))))
        pairs = [point.partition("=") for point in text.split("_")]
        return cls(tuple((float(value), *map(float, std.split(":"))) for value, _, std in pairs))

    def to_text(self) -> str:
        return "_".join(f"{value:.6g}={':'.join(f'{std:.6g}' for std in stds)}" for value, *stds in self.points)

    # --- its shape ------------------------------------------------------------------------------------------

    @cached_property
    def _channels(self) -> list[_Lines]:
        values = np.array([point[0] for point in self.points])
        return [_lines(values, np.array(stds)) for stds in list(zip(*self.points, strict=True))[1:]]

    def with_values(self, *values: Any) -> Self:
        assert not values, "a curve has no parameters to change"
        return self

    def scaled(self, factor: Any) -> Self:
        return type(self)(tuple((value, *(std * factor for std in stds)) for value, *stds in self.points))

    @property
    def is_of_color(self) -> bool:  # type: ignore[override]
        return len(self._channels) > 1

    @property
    def is_stored_only(self) -> bool:  # type: ignore[override]
        """DALI's tables know no channels."""
        return self.is_of_color

    # --- clean to noisy -------------------------------------------------------------------------------------

    def std(self, x: Any) -> Any:
        """Of a number the root mean square over channels; of an array [..., C] each channel's own."""
        stds = [np.interp(x, lines.value[1:], lines.std[1:]) for lines in self._channels]
        if len(stds) == 1:
            return stds[0]
        if np.ndim(x) == 0:
            return float(np.sqrt(np.mean(np.square(stds))))
        return np.stack([std[..., channel] for channel, std in enumerate(stds)], axis=-1)

    def corrupt(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return clean + self.std(clean) * rng.standard_normal(clean.shape)

    def draw(self, clean: Any, bits: PixelBits, arrays: ArrayMath) -> Any:
        tables = np.zeros((len(self._channels), TABLE_SIZE), np.float32)
        for table, lines in zip(tables, self._channels, strict=True):
            table[:256] = np.interp(np.arange(256) / 255, lines.value[1:], lines.std[1:])
        index = clean * arrays.u32(1)
        if len(tables) == 1:
            std = arrays.lookup(index, tables[0])
        else:  # arrays are NumPy's
            std = np.stack([table[plane] for table, plane in zip(tables, index, strict=True)])
        return clean * arrays.f32(1 / 255) + std * draw_sum(normal_tables(1.0), bits, arrays)

    # --- stable coordinates ---------------------------------------------------------------------------------

    def stabilize(self, y: Tensor) -> Tensor:
        """z = integral of dt / std(t)."""
        return self._by_channel(_transform, self._channels, y)

    def std_at(self, z: Tensor) -> Tensor:
        return self._by_channel(_std_at, self._channels, z)

    def posterior_mean(self, y: Tensor, score: Tensor) -> Tensor:
        """Gaussian Tweedie in z, then the exact unbiased inverse, from a table of E[T(y) | x]."""
        return self.unbiased_inverse(self.stabilize(y) + score)

    def unbiased_inverse(self, mean: Tensor) -> Tensor:
        return self._by_channel(_looked_up, self._mean_tables, mean)

    @cached_property
    def _mean_tables(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each channel clean values, and the mean of z that they lead to, both growing: float64 [G]."""
        return [_mean_table(lines) for lines in self._channels]

    def variance_around(self, y: Tensor) -> Tensor:
        return self.std_at(self.stabilize(y)) ** 2

    def told_curve(self) -> np.ndarray:
        """What a network's condition holds: float32 [3, 2 + TOLD_POINTS], a row a channel.

        A row has the first z, the step in z, and the logarithm of the standard deviation at each; beyond, it stays.
        """
        rows = []
        for lines in self._channels:
            z = np.linspace(lines.z[1], lines.z[-1], TOLD_POINTS)
            knots = np.interp(z, lines.z[1:], np.log(lines.std[1:]))  # which is straight between points
            rows.append([z[0], z[1] - z[0], *knots])
        return np.array(rows * (1 if len(rows) == 3 else 3), np.float32)

    def _by_channel(self, function: Callable[[Any, Tensor], Tensor], curves: list, values: Tensor) -> Tensor:
        """A function of each channel's curve and values [B, C, H, W]; of any shape for one curve."""
        if len(curves) == 1:
            return function(curves[0], values)
        assert values.dim() == 4 and values.shape[1] == len(curves), "a curve a channel, and no such channels"
        out = values.clone()
        for channel, curve in enumerate(curves):
            out[:, channel] = function(curve, values[:, channel])
        return out


def _lines(values: np.ndarray, stds: np.ndarray) -> _Lines:
    slope = np.diff(stds) / np.diff(values)
    bent = np.where(np.abs(slope) < _STRAIGHT, 1, slope)
    lengths = np.where(bent == slope, np.log(stds[1:] / stds[:-1]) / bent, np.diff(values) / stds[:-1])
    z = np.concatenate([[0], np.cumsum(lengths)])
    return _Lines(
        np.append(values[0], values), np.append(stds[0], stds), np.concatenate([[0], slope, [0]]), np.append(z[0], z)
    )


def _pieces(lines: _Lines, knots: np.ndarray, values: Tensor) -> tuple[Tensor, ...]:
    """Of the piece that each value lies on, between `knots`: the fields of _Lines."""
    place = _bucketize(values, knots)
    return tuple(values.new_tensor(field)[place] for field in lines)


def _bucketize(values: Tensor, knots: np.ndarray) -> Tensor:
    """How many knots are not above each value: int64."""
    import torch  # here alone, for texts are read without it

    return torch.bucketize(values.detach().contiguous(), values.new_tensor(knots), right=True)


def _transform(lines: _Lines, y: Tensor) -> Tensor:
    value, std, slope, z = _pieces(lines, lines.value[1:], y)
    straight = slope.abs() < _STRAIGHT
    bent = slope.masked_fill(straight, 1)
    beyond = (y - value) / std
    return z + beyond.where(straight, (beyond * bent).where(~straight, beyond * 0).log1p() / bent)


def _std_at(lines: _Lines, z: Tensor) -> Tensor:
    _, std, slope, start = _pieces(lines, lines.z[1:], z)
    return std * ((z - start) * slope).exp()


def _mean_table(lines: _Lines) -> tuple[np.ndarray, np.ndarray]:
    import torch  # here alone, for texts are read without it

    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    below, above = _REACH * lines.std[0], _REACH * lines.std[-1]
    x = np.linspace(lines.value[0] - below, lines.value[-1] + above, _GRID)
    std = np.interp(x, lines.value[1:], lines.std[1:])
    z = _transform(lines, torch.from_numpy(x[:, None] + std[:, None] * nodes)).numpy()
    return x, z @ (weights / weights.sum())


def _looked_up(table: tuple[np.ndarray, np.ndarray], mean: Tensor) -> Tensor:
    """The clean value of each mean of z, along straight lines that go on at both ends."""
    place = _bucketize(mean, table[1]).clamp(1, _GRID - 1)
    x, z = (mean.new_tensor(column) for column in table)
    return x[place - 1] + (mean - z[place - 1]) / (z[place] - z[place - 1]) * (x[place] - x[place - 1])


def _read(path: Path) -> tuple[tuple[float, ...], ...]:
    """A curve's points from a file. Raises UserError for one that holds none."""
    data = read_yaml(path)
    try:
        return tuple(
            (float(value), *(map(float, std) if isinstance(std, list) else [float(std)]))
            for value, std in zip(data["values"], data["std"], strict=True)
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} holds no curve ({type(error).__name__}: {reason}): give lists 'values' and 'std' of one length"
        ) from None
