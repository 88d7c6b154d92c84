"""Images of a chunked array, one after the other: each chunk is decoded once, and written once."""

import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from n2s_dist.images.axes import Axes
from n2s_dist.images.decoded import DecodedImage

_MOST_BYTES = 2**28  # of the images that are decoded together


class Slabs:
    """An array and its axes. A slab is as many images that follow each other along one dimension as a chunk holds."""

    def __init__(self, array: Any, axes: Axes) -> None:
        self.array, self.axes = array, axes
        counting = [place for place, name in enumerate(axes.names) if name not in "YXS"]
        self._along = counting[-1] if counting else None
        self._length = axes.shape[self._along] if self._along is not None else 1
        chunk = (getattr(array, "shards", None) or array.chunks)[self._along] if self._along is not None else 1
        plane = math.prod(axes.plane_shape) * np.dtype(array.dtype).itemsize
        self._depth = max(1, min(chunk, self._length, _MOST_BYTES // plane))
        self._slab = lru_cache(1)(self._read)

    def _index(self, number: int) -> tuple[tuple[Any, ...], int]:
        """Where the slab with an image lies, and how many images it holds."""
        place = list(self.axes.place(number))
        if self._along is None:
            return tuple(place), 1
        first = place[self._along] // self._depth * self._depth
        last = min(first + self._depth, self._length)
        place[self._along] = slice(first, last)
        return tuple(place), last - first

    def _first(self, number: int) -> int:
        return number - number % self._length % self._depth

    def _read(self, first: int) -> np.ndarray:
        return np.asarray(self.array[self._index(first)[0]])

    @property
    def _axis(self) -> int:
        """Which dimension of a slab counts its images."""
        return 0 if self._along is None else sum(name in "YXS" for name in self.axes.names[: self._along])

    def image(self, number: int) -> DecodedImage:
        """One image, counted from 0."""
        first = self._first(number)
        slab = self._slab(first)
        return self.axes.to_image(slab if self._along is None else slab.take(number - first, self._axis))

    def write(self, images: Iterable[DecodedImage]) -> None:
        """All images in their order."""
        stack, number = iter(images), 0
        while number < self.axes.images:
            place, count = self._index(number)
            planes = [self.axes.to_plane(image) for image in islice(stack, count)]
            self.array[place] = planes[0] if self._along is None else np.stack(planes, self._axis)
            number += count
