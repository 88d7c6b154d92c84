"""What image files hold: their images, decoded, and all else that another file like them is to keep."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from n2s_dist.images.scale import Scale
from n2s_dist.utils.errors import UserError

# Types of values that images may have.
NUMBERS = tuple(np.dtype(kind).name for kind in ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"))


class DecodedImage(NamedTuple):
    """One image.

    pixels: [H, W, C], C = 1 or 3, of any type of integer or float, upright. alpha: opacity, of the same type,
    [H, W, 1]; None where the file has none. palette: uint8 [N, 3], in which color a viewer shows each value of a gray
    image; None for gray.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    palette: np.ndarray | None = None

    @property
    def channels(self) -> int:
        return self.pixels.shape[-1]

    def joined(self) -> np.ndarray:
        """All channels in one array, [H, W, C + 1] with alpha."""
        return self.pixels if self.alpha is None else np.concatenate([self.pixels, self.alpha], axis=-1)

    def shown(self) -> np.ndarray:
        """The pixels as a viewer shows them: in color where there is a palette."""
        return self.pixels if self.palette is None else self.palette[self.pixels[:, :, 0]]

    def measured(self) -> np.ndarray:
        """The pixels; of one channel where the others equal it or are constant, as gray ones may be stored."""
        if self.channels == 1:
            return self.pixels
        first, *others = [n for n in range(3) if np.ptp(self.pixels[:, :, n])] or range(3)
        plane = self.pixels[:, :, first : first + 1]
        return plane if (self.pixels[:, :, others] == plane).all() else self.pixels

    @staticmethod
    def of(channels: np.ndarray) -> "DecodedImage":
        """From what `joined` gives, [..., H, W, 1 to 4]."""
        if channels.shape[-1] % 2:
            return DecodedImage(channels)
        return DecodedImage(channels[..., :-1], channels[..., -1:])


@dataclass(frozen=True)
class About:
    """What a file says of its images.

    icc: the color profile. exif: EXIF as JPEG has it, from "Exif" on, without the orientation. dpi: pixels an inch,
    across and down. xmp: XMP.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None


@dataclass(frozen=True)
class Series:
    """Some of a file's images, which follow each other, and what numbers them.

    Args:
        axes: a letter for each thing that counts them and how many there are, slowest first: (("T", 5), ("Z", 20))
        name: what the file calls them
        channels: the name of each of C
        pixel_um: the sides of a pixel in micrometers, by the letters X, Y and Z, where the file says them
    """

    axes: tuple[tuple[str, int], ...] = ()
    name: str = ""
    channels: tuple[str, ...] = ()
    pixel_um: dict[str, float] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return math.prod(length for _, length in self.axes)


@dataclass(frozen=True)
class Contents:
    """What an image file holds, by its header alone.

    Args:
        format: the format's name in the registry
        kind: what people call it, such as "TIFF stack"
        size: (height, width) of each image, upright; of images of several sizes, the largest of both
        channels: of each as a viewer shows it, 1 or 3, without transparency
        dtype: of its values
        images: how many it holds
        has_alpha: whether they may be transparent
        scale: the file's own word on black and white; None where it has none
        nodata: the value of pixels that hold nothing; None where all hold something
        is_lossy: whether compression has changed the values
        chroma_subsampled: whether color was stored at half its resolution
        about: what else it says of them
        form: what its format needs to write another like it
        notes: what another like it will lack, and what else there is to know
        sizes: (height, width) of each image, where they are of several; else empty
        series: what numbers them, where the file says so and its own format can't be written; else empty
        is_open_ended: whether values, being floats, may lie on any scale: white is to be named where they exceed 1
    """

    format: str
    kind: str
    size: tuple[int, int]
    channels: int
    dtype: np.dtype
    images: int = 1
    has_alpha: bool = False
    scale: Scale | None = None
    nodata: float | None = None
    is_lossy: bool = False
    chroma_subsampled: bool = False
    about: About = field(default_factory=About)
    form: Any = None
    notes: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    series: tuple[Series, ...] = ()
    is_open_ended: bool = False

    def size_of(self, number: int) -> tuple[int, int]:
        """(height, width) of one image, counted from 0."""
        return self.sizes[number] if self.sizes else self.size


def check_holds(
    path: Path, contents: Contents, name: str, dtypes: tuple[str, ...], alpha: bool = True, images: int = 1
) -> None:
    """UserError where a format can't hold what a file does. dtypes: of values that it holds, or can round."""
    if contents.images > images:
        raise UserError(f"{path} can't hold {contents.images} images, as a {name} holds one: end it in .tif")
    if contents.has_alpha and not alpha:
        raise UserError(f"{path} can't hold the image's transparency: end it in .png")
    if contents.dtype.name not in dtypes:
        raise UserError(f"{path} can't hold values of type {contents.dtype.name}, as a {name} has none: end it in .tif")


def to_eight_bits(values: np.ndarray, scale: Scale | None) -> np.ndarray:
    """Values between black and white to 0 to 255, rounded. scale: None for all of an unsigned type's range."""
    if values.dtype == np.uint8:
        return values
    scale = scale or Scale(0, float(np.iinfo(values.dtype).max))
    return np.round(np.clip(scale.to_unit(values), 0, 1) * 255).astype(np.uint8)
