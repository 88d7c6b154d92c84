"""NumPy arrays (.npy) of numbers, whose axes are named by the user, or can be but one thing."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from n2s_dist.images.axes import Axes, find_axes, plain_axes
from n2s_dist.images.decoded import NUMBERS, Contents, DecodedImage, check_holds
from n2s_dist.images.npy_layout import MAGIC, ArrayLayout, ArrayReader, read_layout, write_array, write_mapped

suffixes = (".npy",)
is_lossless = True
takes_axes = True
precedence = 2


def probe(stream: BinaryIO, path: Path, axes: str | None = None) -> Contents | None:
    if stream.read(len(MAGIC)) != MAGIC:
        return None
    stream.seek(0)
    layout = read_layout(stream, path)
    found = find_axes(path, layout.shape, axes)
    return found.contents("npy", "NumPy array", layout.dtype, path, form=(layout, found))


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    return ArrayReader(stream, *contents.form)


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    check_holds(path, contents, "NumPy array", NUMBERS, images=contents.images)
    layout, axes = contents.form if contents.format == "npy" else plain_form(path, contents)
    if not axes.is_contiguous or layout.is_fortran:
        write_mapped(path, layout, axes, images)
        return
    with path.open("wb") as stream:
        write_array(stream, layout, axes, iter(images))


def plain_form(path: Path, contents: Contents) -> tuple[ArrayLayout, Axes]:
    """For images from a file of another format, or of none."""
    axes = plain_axes(path, contents)
    return ArrayLayout(axes.shape, np.dtype(contents.dtype)), axes
