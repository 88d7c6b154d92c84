"""Which of an array's dimensions are rows, columns and color. All others count images.

Letters are those of TIFF: Y rows, X columns, S the values of a color. Others count images, such as T, Z and C.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from n2s_dist.images.decoded import NUMBERS, Contents, DecodedImage
from n2s_dist.utils.errors import UserError

AXES_HELP = "axes of arrays whose files do not say it, such as TZCYX or YXS: Y rows, X columns, S color, others count"
_PLANE = "YXS"
_LEAST_SIDE = 16  # of an image whose axes nobody names
_HINT = "say which they are, such as --axes {} (Y rows, X columns, S color, other letters count images)"


@dataclass(frozen=True)
class Axes:
    """An array's dimensions. names: a letter each, such as "TZCYX"."""

    names: str
    shape: tuple[int, ...]

    def length(self, name: str) -> int:
        """Of a dimension; 1 where there is no such one."""
        return self.shape[self.names.index(name)] if name in self.names else 1

    @property
    def counts(self) -> tuple[int, ...]:
        """The lengths of the dimensions that count images."""
        return tuple(length for name, length in zip(self.names, self.shape, strict=True) if name not in _PLANE)

    @property
    def images(self) -> int:
        return math.prod(self.counts)

    @property
    def plane(self) -> str:
        """The letters of one image, in their order."""
        return "".join(name for name in self.names if name in _PLANE)

    @property
    def plane_shape(self) -> tuple[int, ...]:
        return tuple(self.length(name) for name in self.plane)

    @property
    def is_contiguous(self) -> bool:
        """Whether the values of each image follow one another, those of later images behind."""
        return self.names.endswith(self.plane)

    def place(self, number: int) -> tuple[Any, ...]:
        """The index of an image, counted from 0, in the array."""
        at = iter(np.unravel_index(number, self.counts) if self.counts else ())
        return tuple(slice(None) if name in _PLANE else int(next(at)) for name in self.names)

    def to_image(self, plane: np.ndarray) -> DecodedImage:
        """From what the array has at `place`. Numbers get this machine's byte order."""
        order = [self.plane.index(name) for name in _PLANE if name in self.plane]
        pixels = plane.astype(plane.dtype.newbyteorder("="), copy=False).transpose(order)
        return DecodedImage.of(pixels if pixels.ndim == 3 else pixels[:, :, None])

    def to_plane(self, image: DecodedImage) -> np.ndarray:
        """The reverse."""
        joined = image.joined()
        joined = joined if "S" in self.plane else joined[:, :, 0]
        names = [name for name in _PLANE if name in self.plane]
        return joined.transpose([names.index(name) for name in self.plane])

    def contents(self, format_name: str, kind: str, dtype: np.dtype, path: Path, **more: Any) -> Contents:
        """What a file of this array holds. Raises UserError for values and colors that no image has."""
        if dtype.newbyteorder("=").name not in NUMBERS:
            raise UserError(f"{path} has values of type {dtype.name}: convert them to integers or floats first")
        samples = self.length("S")
        if samples > 4:
            raise UserError(f"{path} has color of {samples} values: name that axis otherwise, such as C, not S")
        if not math.prod(self.shape):
            raise UserError(f"{path} holds no values: its shape is {list(self.shape)}")
        return Contents(
            format=format_name,
            kind=f"{kind} stack" if self.images > 1 else kind,
            size=(self.length("Y"), self.length("X")),
            channels=samples - (samples % 2 == 0),
            dtype=dtype.newbyteorder("="),
            images=self.images,
            has_alpha=samples % 2 == 0,
            **more,
        )


def counting(contents: Contents) -> tuple[tuple[str, int], ...]:
    """What counts a file's images, slowest first: what the file says, or Q for all of them."""
    if len(contents.series) == 1:
        return contents.series[0].axes
    return (("Q", contents.images),) if contents.images > 1 else ()


def plain_axes(path: Path, contents: Contents) -> Axes:
    """Of an array for the images of a file of another format. Raises UserError for several sizes."""
    if contents.sizes:
        raise UserError(f"{path} can't hold images of several sizes, as an array has one: end it in .tif")
    samples = contents.channels + contents.has_alpha
    plane = (("Y", contents.size[0]), ("X", contents.size[1]), *((("S", samples),) if samples > 1 else ()))
    names, lengths = zip(*counting(contents), *plane, strict=True)
    return Axes("".join(names), lengths)


def check_axes(names: str | None) -> str | None:
    """What --axes says, in capitals. Raises UserError for what names no axes."""
    if names is None:
        return None
    found = names.upper()
    if not re.fullmatch("[A-Z]+", found) or len(set(found)) < len(found) or not {"Y", "X"} <= set(found):
        raise UserError(f"--axes is {names}: give a letter for each dimension, Y and X among them, such as TZCYX")
    return found


def find_axes(path: Path, shape: tuple[int, ...], named: str | None, word: str | None = None) -> Axes:
    """An array's axes. named: by the user. word: by the file, where it says so.

    Raises UserError for a number of letters that is not the array's, and where nobody names axes that may be several.
    """
    names = named or word or _guess(shape)
    if names is None:
        example = "TZCYX"[-len(shape) :] if 1 < len(shape) < 6 else "YX"
        raise UserError(f"{path} has axes of lengths {list(shape)}: {_HINT.format(example)}")
    if len(names) != len(shape):
        raise UserError(f"{path} has {len(shape)} axes, of lengths {list(shape)}, and --axes {names} {len(names)}")
    return Axes(names, shape)


def _guess(shape: tuple[int, ...]) -> str | None:
    """The names of axes that can be but one thing; None where they can be several."""
    counting = "QPONM"
    if len(shape) == 2:
        return "YX"
    if not 3 <= len(shape) <= len(counting) + 2:
        return None
    first, last = counting[: len(shape) - 2], shape[-1]
    if last in (1, 3) and min(shape[-3:-1]) >= _LEAST_SIDE:
        return first[:-1] + "YXS"
    is_color_first = shape[-3] in (3, 4)
    if min(shape[-2:]) < _LEAST_SIDE or is_color_first:
        return None
    # Where the last dimensions are the shortest, images may lie behind each other.
    is_short = last < min(shape[:-1]) or (len(shape) > 3 and max(shape[-2:]) < min(shape[:-2]))
    return None if is_short else first + "YX"
