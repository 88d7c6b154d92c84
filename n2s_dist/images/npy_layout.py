"""NumPy's own files, read and written image by image: a header, then the values of one array."""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from n2s_dist.images.axes import Axes
from n2s_dist.images.decoded import DecodedImage
from n2s_dist.utils.errors import UserError

MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class ArrayLayout:
    """How an array is stored. is_fortran: whether the first dimension varies fastest. offset: of its first value."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool = False
    offset: int = 0


def read_layout(stream: BinaryIO, path: Path) -> ArrayLayout:
    """From a header. Raises UserError for values that are no numbers, and ValueError for damage."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(stream)
    if dtype.hasobject or dtype.names:
        raise UserError(f"{path} holds {'Python objects' if dtype.hasobject else 'records'}: save its numbers alone")
    return ArrayLayout(shape, dtype, is_fortran, stream.tell())


@dataclass(frozen=True)
class ArrayReader:
    """Images of an array by their numbers. stream: at any place; the array begins at its layout's offset."""

    stream: BinaryIO
    layout: ArrayLayout
    axes: Axes

    def __call__(self, number: int) -> DecodedImage:
        if not self._is_in_order:
            return self.axes.to_image(np.array(self._whole[self.axes.place(number)]))
        size = math.prod(self.axes.plane_shape) * self.layout.dtype.itemsize
        self.stream.seek(self.layout.offset + number * size)
        plane = np.frombuffer(self._exactly(size), self.layout.dtype)
        return self.axes.to_image(plane.reshape(self.axes.plane_shape))

    @property
    def _is_in_order(self) -> bool:
        return self.axes.is_contiguous and not self.layout.is_fortran

    @cached_property
    def _whole(self) -> np.ndarray:
        """All of the array: mapped where it is a file, read where it lies in an archive."""
        layout = self.layout
        order = "F" if layout.is_fortran else "C"
        size = math.prod(layout.shape) * layout.dtype.itemsize
        try:
            self.stream.fileno()
        except (AttributeError, io.UnsupportedOperation):
            self.stream.seek(layout.offset)
            flat = np.frombuffer(self._exactly(size), layout.dtype)
            return flat.reshape(layout.shape, order=order)  # type: ignore[call-overload]
        end = self.stream.seek(0, io.SEEK_END)
        if end < layout.offset + size:
            raise ValueError(f"it ends at byte {end}, before its values do")
        return np.memmap(self.stream, layout.dtype, "r", layout.offset, layout.shape, order)  # type: ignore[call-overload]

    def _exactly(self, size: int) -> bytes:
        data = self.stream.read(size)
        if len(data) < size:
            raise ValueError(f"it ends at byte {self.stream.tell()}, before its values do")
        return data


def write_array(stream: BinaryIO, layout: ArrayLayout, axes: Axes, images: Iterator[DecodedImage]) -> None:
    """A header, and as many images as the array holds. They are collected first where they do not lie in order."""
    npy.write_array_header_1_0(stream, {
        "descr": npy.dtype_to_descr(layout.dtype), "fortran_order": layout.is_fortran, "shape": layout.shape,
    })  # fmt: skip
    planes = (axes.to_plane(next(images)).astype(layout.dtype, copy=False) for _ in range(axes.images))
    if axes.is_contiguous and not layout.is_fortran:
        for plane in planes:
            stream.write(np.ascontiguousarray(plane).data)
        return
    whole = np.empty(layout.shape, layout.dtype)
    for number, plane in enumerate(planes):
        whole[axes.place(number)] = plane
    stream.write(whole.tobytes("F" if layout.is_fortran else "C"))


def write_mapped(path: Path, layout: ArrayLayout, axes: Axes, images: Iterable[DecodedImage]) -> None:
    """A file of its own whose images do not lie in order, put to their places one by one."""
    whole = npy.open_memmap(path, "w+", layout.dtype, layout.shape, layout.is_fortran)
    for number, image in enumerate(images):
        whole[axes.place(number)] = axes.to_plane(image)
    whole.flush()
