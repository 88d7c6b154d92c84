"""Stationary fields of unit variance: which pixels and channels of the noise are alike.

    f = M (sqrt(1 - r - c) K * w + sqrt(r) e_row + sqrt(c) e_column)

    w           white: independent in each pixel and channel        K   a Gaussian kernel of unit energy
    e_row       one value for each row and channel                  r   the share of the variance that rows have
    e_column    one value for each column and channel               c   the share of the variance that columns have
    M           a root of the channels' correlation matrix

All of w, e_row and e_column are normal, of unit variance and independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from n2s_dist.noise.blurred import blur, kernel, radius
from n2s_dist.utils.errors import UserError

if TYPE_CHECKING:  # torch takes a second to import, and the text of a specification needs none of it
    import torch
    from torch import Tensor

_PAIRS = ((0, 1), (0, 2), (1, 2))  # of channels, in the order of Field.channels
_PIXEL = (4 * math.pi) ** -0.5  # the width of a continuous kernel that is as strong over many pixels as a single one
_ROUNDING = 1e-9  # of a sum of shares, and of an eigenvalue


@dataclass(frozen=True)
class Field:
    """The law of one field.

    Args:
        widths: of K in pixels: none, one for both axes, or two, along rows and down columns; tensors [B, 1, 1, 1]
            where those of a batch differ
        rows, columns: r and c, shares of the variance
        channels: correlations of red with green, red with blue and green with blue; none for independent channels
    """

    widths: tuple[Any, ...] = ()
    rows: float = 0.0
    columns: float = 0.0
    channels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 0 or self.rows + self.columns > 1 + _ROUNDING:
            raise ValueError("rows and columns have shares of the variance, which are at most 1 together")
        if self.channels and np.linalg.eigvalsh(self._matrix()).min() < -_ROUNDING:
            raise ValueError("no three channels have such correlations")

    # --- what it is -----------------------------------------------------------------------------------------

    @property
    def pattern(self) -> Field:
        """The same without what a network can be told: stripes and channels, and no kernel."""
        return replace(self, widths=())

    @property
    def is_patterned(self) -> bool:
        """Whether it has stripes or correlated channels."""
        return self.pattern != WHITE

    @property
    def is_white(self) -> bool:
        """Whether all pixels and channels are independent. Its widths are numbers."""
        return not any(self.widths) and not self.is_patterned

    @property
    def is_directional(self) -> bool:
        """Whether it is another one when rows and columns change places."""
        return len(self.widths) == 2 or self.rows != self.columns

    @property
    def ends(self) -> tuple[Any, Any]:
        """Widths along rows and down columns."""
        return (self.widths[0], self.widths[-1]) if self.widths else (0.0, 0.0)

    @property
    def width(self) -> Any:
        """The one width that a network is told: the geometric mean, which is about as strong over many pixels."""
        if len(self.widths) < 2:
            return self.ends[0]
        across, down = (each.clamp(min=_PIXEL) if hasattr(each, "clamp") else max(each, _PIXEL) for each in self.widths)
        return (across * down) ** 0.5

    @property
    def reach(self) -> int:
        """Pixels that its kernel reaches to each side."""
        return max(map(radius, self.ends))

    def is_like(self, other: Field) -> bool:
        """Whether texts, of six digits, tell no difference."""
        figures = ((*each.ends, each.rows, each.columns, *(each.channels or (0.0,) * 3)) for each in (self, other))
        return all(f"{one:.6g}" == f"{two:.6g}" for one, two in zip(*figures, strict=True))

    def redundancy(self, shape: tuple[int, ...]) -> float:
        """How many values of an area [H, W, C] count as one where squares are averaged: the sum of squared
        correlations with all of them.
        """
        height, width, _ = shape
        taps = [kernel(each) for each in self.ends]
        alike = [np.correlate(each, each, "full") for each in taps]
        squared = float(np.sum(alike[0] ** 2)) * float(np.sum(alike[1] ** 2))
        if not self.is_patterned:
            return squared
        rest, rows, columns = 1 - self.rows - self.columns, self.rows, self.columns
        found = rest**2 * squared + rows**2 * width + columns**2 * height + 2 * rows * columns
        found += 2 * rest * float(rows * alike[0].sum() + columns * alike[1].sum())
        return found * float(np.square(self._matrix()).sum() / 3 if self.channels else 1)

    # --- how it is made -------------------------------------------------------------------------------------

    def blurred(self, white: Any) -> Any:
        """K * w from w, an array [.., H + 2 reach, W + 2 reach] of 4 or 8 bytes a value: [.., H, W]."""
        across, down = (kernel(width, self.reach).astype(white.dtype) for width in self.ends)
        return blur(white, down, across)

    def compose(self, blurred: Any, of_rows: Any = None, of_columns: Any = None) -> Any:
        """The field from its parts, arrays or tensors: K * w, [.., C, H, W]; e_row, [.., C, H, 1]; and e_column,
        [.., C, 1, W]. A part that it has no share of is not looked at.

        Every value takes the same operations in the same order. Raises UserError for correlations of other than three
        channels.
        """
        out = blurred
        if self.rows or self.columns:
            out = max(1 - self.rows - self.columns, 0.0) ** 0.5 * out
        if self.rows:
            out = out + self.rows**0.5 * of_rows
        if self.columns:
            out = out + self.columns**0.5 * of_columns
        if not self.channels:
            return out
        if out.shape[-3] != 3:
            raise UserError(f"noise with +channels is noise of color images, and the image has {out.shape[-3]} channel")
        root = _like(self._root(), out)
        return sum(out[..., k : k + 1, :, :] * root[:, k].reshape(3, 1, 1) for k in range(3))

    def _matrix(self) -> np.ndarray:
        """The channels' correlations, float64 [3, 3]."""
        matrix = np.eye(3)
        for (one, two), value in zip(_PAIRS, self.channels, strict=True):
            matrix[one, two] = matrix[two, one] = value
        return matrix

    def _root(self) -> np.ndarray:
        """M, symmetric: float64 [3, 3]."""
        values, vectors = np.linalg.eigh(self._matrix())
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _like(matrix: np.ndarray, other: Any) -> Any:
    """A matrix as an array, or as a tensor where the other one is, of its type."""
    if isinstance(other, np.ndarray):
        return matrix.astype(other.dtype)
    from n2s_dist.noise.transfer import to_device  # here alone, for texts are read without PyTorch

    return to_device(matrix, other.device, other.dtype)


WHITE = Field()


class Kernels(NamedTuple):
    """The fields of a batch's noises: widths along rows in pixels, float64 [B], and the radius of the widest there may
    be. down: those down columns, where they are others. pattern: what all of them have in common besides.

    `reach` is the same for every batch of a run, so that what is drawn for a sample never depends on its batch.
    """

    widths: np.ndarray
    reach: int
    down: np.ndarray | None = None
    pattern: Field = WHITE

    @staticmethod
    def of(fields: list[Field], reach: int) -> Kernels:
        """fields: of one pattern, which config/checks.py sees to."""
        (pattern,) = {each.pattern for each in fields}
        across, down = np.array([each.ends for each in fields], float).T
        return Kernels(across, reach, None if np.array_equal(across, down) else down, pattern)

    def blurred(self, white: Tensor) -> Tensor:
        """Each sample of w, [B, C, H + 2 reach, W + 2 reach], with its own kernel: [B, C, H, W]."""
        across = self._taps(self.widths, white.device)
        return blur(white, across if self.down is None else self._taps(self.down, white.device), across)

    def _taps(self, widths: np.ndarray, device: torch.device) -> list[Tensor]:
        """Kernels' taps along one axis, 2 reach + 1 tensors float32 [B, 1, 1, 1]."""
        from n2s_dist.noise.transfer import to_device  # here alone, for texts are read without PyTorch

        taps = np.stack([kernel(float(width), self.reach) for width in widths], axis=1)
        return list(to_device(taps.astype(np.float32), device)[..., None, None, None])
