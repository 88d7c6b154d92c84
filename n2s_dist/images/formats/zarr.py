"""Zarr arrays and OME-Zarr images, folders that end in .zarr: read and written chunk by chunk, of versions 2 and 3.

What is written is a copy of the folder in which the pixels are other ones: chunks, codecs, attributes, labels and all
other arrays stay. Of a pyramid, the smaller copies are left out.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from n2s_dist.images.axes import Axes, find_axes, plain_axes
from n2s_dist.images.decoded import NUMBERS, Contents, DecodedImage, check_holds
from n2s_dist.images.optional import needed
from n2s_dist.images.zarr_folder import METADATA, copy_without_pixels, find_image
from n2s_dist.images.zarr_slabs import Slabs

suffixes = (".zarr",)
is_lossless = True
is_folder = True
takes_axes = True
precedence = 1

_CHUNK = 1024  # side of a chunk of a new array


def is_one(path: Path) -> bool:
    """Whether a folder is a Zarr, by its metadata, which may then be replaced by another."""
    return any((path / name).is_file() for name in METADATA)


def probe(stream: BinaryIO, path: Path, axes: str | None = None) -> Contents | None:
    if not path.is_dir():
        return None
    found = find_image(needed("zarr", path).open(path, mode="r"), path)
    named = find_axes(path, found.array.shape, axes, found.word)
    return named.contents(
        "zarr", found.kind, np.dtype(found.array.dtype), path, form=(path, found, named), notes=found.notes
    )


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    _, found, axes = contents.form
    return Slabs(found.array, axes).image


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    check_holds(path, contents, "Zarr", NUMBERS, images=contents.images)
    zarr = needed("zarr", path)
    if contents.format == "zarr":
        source, found, axes = contents.form
        copy_without_pixels(source, path, found)
        array = zarr.open_array(path / found.place, mode="r+")
    else:
        axes = plain_axes(path, contents)
        array = _new_array(zarr, path, axes, contents)
    Slabs(array, axes).write(images)


def _new_array(zarr: Any, path: Path, axes: Axes, contents: Contents) -> Any:
    sides = {"Y": min(_CHUNK, contents.size[0]), "X": min(_CHUNK, contents.size[1]), "S": axes.length("S")}
    return zarr.create_array(
        path,
        shape=axes.shape,
        dtype=contents.dtype,
        chunks=tuple(sides.get(name, 1) for name in axes.names),
        dimension_names=[name.lower() for name in axes.names],
    )
