"""Noisy files as people have them, and their truth: at their own depth, on the scale that they or the user name."""

from typing import NamedTuple

import numpy as np

from n2s_dist.images.files import ImageFile
from n2s_dist.images.scale import Scale
from n2s_dist.images.user_files import check_opaque, check_single, open_file, read_on_scale
from n2s_dist.utils.errors import UserError

_EIGHT_BITS = Scale(0, 255)


class NamedScale(NamedTuple):
    """What the user says black and white are in files of more than 8 bits; None where the files say it."""

    white: float | None = None
    black: float | None = None

    def check_used(self, name: str, deep: list[ImageFile]) -> None:
        """UserError where white or black is named for a benchmark without files of more than 8 bits."""
        if self != NO_SCALE and not deep:
            raise UserError(
                f"--white and --black are for noisy files of more than 8 bits, and {name} has none: leave them out"
            )


NO_SCALE = NamedScale()


def shape_of(image: ImageFile) -> tuple[int, int, int]:
    """(height, width, channels) of a file's only image as a viewer shows it, from the header. UserError by name."""
    with open_file(image) as file:
        check_single(file.contents, image.path)
        return *file.contents.size, file.contents.channels


def is_deep(image: ImageFile) -> bool:
    """Whether its values have more than 8 bits."""
    with open_file(image) as file:
        return file.contents.dtype.itemsize > 1


def read_shown(image: ImageFile, named: NamedScale) -> tuple[np.ndarray, Scale]:
    """An image as a viewer shows it, [H, W, C] of the file's type, and the values that are 0 and 1 on the 0-1 scale.

    Raises UserError by name for what can't be measured: transparent images, missing values, an unknown scale.
    """
    white, black = named if is_deep(image) else NO_SCALE
    picture, scale = read_on_scale(image, white, black)
    check_opaque(picture, image.path)
    return picture.shown(), scale if picture.palette is None else _EIGHT_BITS
