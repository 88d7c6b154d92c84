"""Image files of every format in the registry: what they hold, decoded one image after the other, and written.

eight_bit.py reads what is trained on and measured: 8 bits, opaque.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from n2s_dist.images.decoded import Contents, DecodedImage
from n2s_dist.images.files import ImageFile, unreadable
from n2s_dist.images.formats.base import Format, check_written, format_of, formats, suffixes
from n2s_dist.images.scale import Scale, check_on_unit_scale, find_scale, value_range
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_folder, atomic_write
from n2s_dist.utils.memory import available_bytes


@contextlib.contextmanager
def damage_named(path: Path, fault: str) -> Iterator[None]:
    """What decoders raise upon damage, which may be anything, becomes one UserError."""
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path} {fault}") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory: take a part of it, or a machine with more") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        reason = f"it lacks {reason}" if isinstance(error, KeyError) else reason
        raise UserError(f"{path} {fault} ({reason})") from None


def probe(stream: BinaryIO, path: Path, axes: str | None = None) -> tuple[Format, Contents]:
    """What a file holds, by its header alone, and which format it has, whatever its name says.

    axes: of an array, as the user names them. Raises UserError by name for what is no readable image.
    """
    usual = format_of(path.name)
    for each in [*([usual] if usual else []), *(other for other in formats().values() if other is not usual)]:
        with damage_named(path, "is not a readable image"):
            stream.seek(0)
            if (contents := _probe(each, stream, path, axes)) is not None:
                return each, contents
    raise UserError(f"{path} {_what_it_is(stream)}")


def _probe(format_: Format, stream: BinaryIO, path: Path, axes: str | None) -> Contents | None:
    if getattr(format_, "takes_axes", False):
        return format_.probe(stream, path, axes)  # type: ignore[call-arg]
    contents = format_.probe(stream, path)
    if contents is not None and axes is not None:
        raise UserError(f"{path} is a {contents.kind}, which says itself what its axes are: leave --axes out")
    return contents


def _what_it_is(stream: BinaryIO) -> str:
    damage = (UnidentifiedImageError, OSError, ValueError, SyntaxError)
    with contextlib.suppress(*damage), warnings.catch_warnings(action="ignore"):
        stream.seek(0)
        with Image.open(stream) as opened:
            others = ", ".join(suffixes(is_written=True))
            return f"is a {opened.format} image, which is not read here: save it as one of {others}"
    return "is not a readable image"


@dataclass(frozen=True)
class OpenFile:
    """An image file, open for as long as `open_file` is. contents: what it holds."""

    stream: BinaryIO
    path: Path
    format: Format
    contents: Contents

    def images(self) -> Iterator[DecodedImage]:
        """Its images, decoded one after the other. Raises UserError by name for damage."""
        check_memory(self.path, self.contents, 2 * self.contents.dtype.itemsize)
        with damage_named(self.path, "can't be decoded"):
            found = map(self._reader, range(self.contents.images)) if self._has_reader else self._read()
        for _ in range(self.contents.images):
            with damage_named(self.path, "can't be decoded"):
                image = next(found)
            yield image

    @property
    def _has_reader(self) -> bool:
        return hasattr(self.format, "reader")

    def _read(self) -> Iterator[DecodedImage]:
        return self.format.read(self.stream, self.path, self.contents)  # type: ignore[attr-defined]

    @cached_property
    def _reader(self) -> Callable[[int], DecodedImage]:
        if self._has_reader:
            return self.format.reader(self.stream, self.path, self.contents)  # type: ignore[attr-defined]
        return lambda number: next(islice(self._read(), number, None))

    def image(self, number: int) -> DecodedImage:
        """One of its images, counted from 0, in any order. Raises UserError by name for damage."""
        check_memory(self.path, self.contents, 2 * self.contents.dtype.itemsize)
        place = f" at image {number + 1} of {self.contents.images}" if self.contents.images > 1 else ""
        with damage_named(self.path, f"can't be decoded{place}"):
            return self._reader(number)

    def find_scale(self, white: float | None, black: float | None) -> Scale | None:
        """The scale of all its images together: one of them may be dark. Raises UserError by name; see scale.py."""
        word, kind = self.contents.scale, self.contents.dtype
        if white is None and black is None and (word or kind.itemsize == 1 or kind.kind == "f"):
            if self.contents.is_open_ended:
                self._check_ends(self.images())
            return word or find_scale(np.zeros(1, kind))
        failure: UserError | None = None
        for image in self.images():
            try:
                return find_scale(self.there(image.pixels), white, black, word)
            except UserError as error:
                failure = failure or error
        raise UserError(f"{self.path}: {failure}")

    def scale_of(self, picture: DecodedImage, white: float | None, black: float | None) -> Scale:
        """The scale of one of its images that is decoded; that of all together where it has several."""
        if self.contents.images > 1:
            return self.find_scale(white, black) or Scale(0, 1)
        if white is None and black is None and self.contents.is_open_ended:
            self._check_ends([picture])
        try:
            return find_scale(self.there(picture.pixels), white, black, self.contents.scale) or Scale(0, 1)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def _check_ends(self, pictures: Iterable[DecodedImage]) -> None:
        """UserError for floats of an unknown scale that is not that of 0 to 1."""
        for picture in pictures:
            _, high = value_range(self.there(picture.pixels))
            if high > 1:
                raise UserError(f"{self.path} has values up to {high:.4g} and no word on white: name it, as --white 4 "
                                "does (in Python: white=4)")  # fmt: skip

    def there(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels, those masked that hold nothing."""
        nodata = self.contents.nodata
        return pixels if nodata is None else np.ma.masked_equal(pixels, nodata)


@contextlib.contextmanager
def open_file(image: ImageFile) -> Iterator[OpenFile]:
    """Open a file and read its header. Raises UserError by name for what is no readable image."""
    with image.open() as stream:
        yield OpenFile(stream, image.path, *probe(stream, image.path, image.axes))


def keep_open(image: ImageFile) -> OpenFile:
    """A file that stays open until another is asked for: to read a long stack's pages one by one, its list of pages is
    read once. Raises UserError as open_file does.
    """
    try:
        state = (image.path if image.source.is_dir() else image.source).stat()
    except OSError as error:
        raise UserError(unreadable(image.path, error)) from None
    return _kept_open(image, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(1)
def _kept_open(image: ImageFile, *state: int) -> OpenFile:
    stream = image.open()
    return OpenFile(stream, image.path, *probe(stream, image.path, image.axes))


def read_picture(image: ImageFile) -> DecodedImage:
    """The only image of a file, upright, at its own depth. Raises UserError by name, also for files of several."""
    with open_file(image) as file:
        check_single(file.contents, image.path)
        return next(file.images())


def read_on_scale(
    image: ImageFile, white: float | None = None, black: float | None = None
) -> tuple[DecodedImage, Scale]:
    """The only image of a file at its own depth, and which of its values are 0 and 1 on the 0-1 scale; decoded once.

    white, black: see scale.py. Raises UserError by name, also for what check_measured refuses.
    """
    with open_file(image) as file:
        check_single(file.contents, image.path)
        picture = next(file.images())
        scale = file.scale_of(picture, white, black)
        check_measured(picture, file.contents.nodata, scale, image.path)
        return picture, scale


def check_measured(picture: DecodedImage, nodata: float | None, scale: Scale, path: Path) -> None:
    """UserError for values that are missing, not finite or, being floats, of another scale than is said."""
    pixels = picture.pixels
    if (nodata is not None and (pixels == nodata).any()) or not np.isfinite(pixels).all():
        raise UserError(f"{path} has pixels that hold nothing: cut them off or leave it out")
    if pixels.dtype.kind == "f":
        try:
            check_on_unit_scale(scale.to_unit(pixels)[None], np.zeros((), bool))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def check_opaque(picture: DecodedImage, path: Path) -> None:
    """UserError for an image that is transparent in places."""
    if picture.alpha is not None and (picture.alpha != np.iinfo(picture.pixels.dtype).max).any():
        raise UserError(f"{path} is transparent in places: flatten it onto a background first")


def check_single(contents: Contents, path: Path) -> None:
    """UserError for a file of several images, of which only the first would be read."""
    if contents.images > 1:
        article = "an" if contents.kind[0] in "IO" else "a"  # ImageJ, OME
        raise UserError(
            f"{path} is {article} {contents.kind} of {contents.images} images: save each as a file of its own"
        )


def check_memory(path: Path, contents: Contents, bytes_per_value: int) -> None:
    """UserError for an image that can't fit into memory. bytes_per_value: what each of its values takes in all."""
    height, width = contents.size
    need = height * width * (contents.channels + contents.has_alpha) * bytes_per_value
    free = available_bytes()
    if free is not None and need > free:
        raise UserError(
            f"{path} has {width} x {height} pixels, which take {need / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} are free: take a part of it, or a machine with more"
        )


def write_picture(path: Path, picture: DecodedImage) -> None:
    """Write one image of no particular origin; see write_file."""
    height, width, channels = picture.pixels.shape
    kind, has_alpha = picture.pixels.dtype, picture.alpha is not None
    write_file(path, [picture], Contents("", "array", (height, width), channels, kind, has_alpha=has_alpha))


def write_file(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    """Write a file that appears whole, in the format that its name says.

    contents: of the file that the images come from, whose profile, resolution and other words stay. 16 bits become 8
    where the format has no more. Before the first image is asked for, raises UserError for what it can't hold, and
    OSError for a place that can't be written.
    """
    check_written(path)
    chosen: Any = format_of(path.name)
    if getattr(chosen, "is_folder", False) and path.exists() and not chosen.is_one(path):
        raise UserError(f"{path} is there and is no {path.suffix[1:].capitalize()}: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    is_folder = getattr(chosen, "is_folder", False)
    with atomic_folder(path) if is_folder else atomic_write(path) as partial:
        try:
            # What can't be written is found before the first image is made.
            partial.mkdir() if is_folder else partial.touch()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        try:
            chosen.write(partial, images, contents)
        except UserError as error:
            raise UserError(str(error).replace(str(partial), str(path))) from None
