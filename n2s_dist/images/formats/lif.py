"""LIF, of Leica's microscopes: all planes of all its images, one after the other. Read and not written.

A plane is what an image stores in one piece, mostly rows and columns; what else it has counts planes. White is what the
file says of a channel's bits.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from n2s_dist.images.decoded import NUMBERS, Contents, DecodedImage, Series
from n2s_dist.images.optional import needed
from n2s_dist.images.scale import Scale
from n2s_dist.utils.errors import UserError

suffixes = (".lif",)
is_lossless = True
precedence = 1
written_as = ".ome.tif"

_MAGIC = b"\x70\0\0\0"
_DESCRIPTION = "./Data/Image/ImageDescription"
_FREE = "QPONMLKJIHGFEDBA"  # letters for dimensions that have none
_TAKEN = "XYS"  # those of a plane
_MICROMETERS = {"m": 1e6, "mm": 1e3, "um": 1.0, "µm": 1.0}


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    head = stream.read(9)
    if head[:4] != _MAGIC or head[8:] != b"*":
        return None
    lif = needed("liffile", path, "microscopes")
    stream.seek(0)
    file = lif.LifFile(stream)
    every = list(file.images)
    images = [image for image in every if not image.is_flim and _is_plane(image)]
    if not images:
        raise UserError(f"{path} holds no image of rows and columns")
    kinds = {(image.dtype.newbyteorder("="), image.frames.frame_sizes.get("S", 1)) for image in images}
    if len(kinds) > 1:
        what = ", ".join(f"{image.name}: {image.dtype.name}" for image in images[:4])
        raise UserError(f"{path} holds images of several kinds ({what}): save each as a file of its own")
    ((dtype, channels),) = kinds
    if dtype.name not in NUMBERS or channels not in (1, 3):
        raise UserError(f"{path} has {channels} values of type {dtype.name} at a pixel: convert them first")
    series = [_series_of(image) for image in images]
    for image, stack in zip(images, series, strict=True):
        _check_size(image, stack, stream)
    sizes = [_size(image) for image, stack in zip(images, series, strict=True) for _ in range(stack.images)]
    left = len(every) - len(images)
    return Contents(
        format="lif",
        kind="LIF stack" if len(sizes) > 1 else "LIF",
        size=tuple(np.max(sizes, axis=0).tolist()),
        channels=channels,
        dtype=dtype,
        images=len(sizes),
        scale=_scale(images, dtype),
        form=(images, series),
        notes=(f"{left} of its {len(every)} images have no rows and columns, and are left out",) if left else (),
        sizes=tuple(sizes) if len(set(sizes)) > 1 else (),
        series=tuple(series),
    )


def _is_plane(image: Any) -> bool:
    return len([name for name in image.frames.frame_sizes if name != "S"]) == 2


def _size(image: Any) -> tuple[int, int]:
    height, width = (length for name, length in image.frames.frame_sizes.items() if name != "S")
    return height, width


def _counts(image: Any) -> dict[str, int]:
    """What counts the planes of an image, by the file's own names."""
    return {name: length for name, length in image.sizes.items() if name not in image.frames.frame_sizes}


def _series_of(image: Any) -> Series:
    axes: list[tuple[str, int]] = []
    for name, length in _counts(image).items():
        taken = {*_TAKEN, *(letter for letter, _ in axes)}
        is_letter = len(name) == 1 and name.isascii() and name.isupper() and name not in taken
        axes.append((name if is_letter else next(letter for letter in _FREE if letter not in taken), length))
    described = image.xml_element.findall(f"{_DESCRIPTION}/Channels/ChannelDescription")
    names = tuple(channel.get("LUTName", "") for channel in described)
    return Series(tuple(axes), image.path, names, _pixel_um(image))


def _pixel_um(image: Any) -> dict[str, float]:
    """From the length between the first pixel and the last."""
    found = {}
    for each in image.xml_element.findall(f"{_DESCRIPTION}/Dimensions/DimensionDescription"):
        letter = {"1": "X", "2": "Y", "3": "Z"}.get(each.get("DimID", ""))
        count = int(each.get("NumberOfElements", 0))
        if letter and count > 1 and each.get("Unit") in _MICROMETERS:
            found[letter] = abs(float(each.get("Length", 0))) * _MICROMETERS[each.get("Unit", "")] / (count - 1)
    return found


def _check_size(image: Any, series: Series, stream: BinaryIO) -> None:
    """ValueError where an image's planes can't be in what the file has of it."""
    values = math.prod(image.frames.frame_sizes.values()) * series.images
    there = min(image.memory_block.size, stream.seek(0, 2) - image.memory_block.offset)
    if values * image.dtype.itemsize > there:
        raise ValueError(f"its image {image.name} is said to be larger than its data")


def _scale(images: list[Any], dtype: np.dtype) -> Scale | None:
    """By the bits of all channels, where they are fewer than a value has."""
    bits = [
        int(channel.get("Resolution", 0))
        for image in images
        for channel in image.xml_element.findall(f"{_DESCRIPTION}/Channels/ChannelDescription")
    ]
    return Scale.of_bits(max(bits, default=0), 8 * dtype.itemsize) if dtype.kind == "u" else None


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    images, series = contents.form
    ends = list(accumulate(stack.images for stack in series))
    counts = lru_cache(None)(lambda which: _counts(images[which]))

    def plane(number: int) -> DecodedImage:
        which = next(place for place, end in enumerate(ends) if number < end)
        lengths = counts(which)
        place = number - ends[which] + series[which].images
        at = np.unravel_index(place, tuple(lengths.values())) if lengths else ()
        found = images[which].frame(**{name: int(index) for name, index in zip(lengths, at, strict=True)})
        pixels = found.astype(contents.dtype, copy=False)
        return DecodedImage(pixels if pixels.ndim == 3 else pixels[:, :, None])

    return plane
