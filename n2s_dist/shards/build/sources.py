"""What shards are built from: image files, and the images of those that hold several, each with a name of its own."""

import contextlib
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from lzma import LZMAError
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np

from n2s_dist.datasets.catalogue import resolve_source
from n2s_dist.images.decoded import DecodedImage
from n2s_dist.images.eight_bit import scale_of_stack
from n2s_dist.images.files import ImageFile, is_image_folder, list_images
from n2s_dist.images.scale import Scale
from n2s_dist.images.user_files import OpenFile, check_memory, keep_open, open_file
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.utils.errors import RunFailed, UserError
from n2s_dist.utils.files import as_utf8, sha256_file

Size = tuple[int, int]  # (height, width)

# A file up to this size is read once, and hashed and decoded from memory.
_READ_WHOLE_BYTES = 64 * 2**20


class StackPage(NamedTuple):
    """Which image of a file of several, counted from 0. scale: of all of them; None for floats on the 0-1 scale."""

    number: int
    scale: Scale | None


@dataclass(frozen=True)
class Source:
    """An image to build from, and the name it goes by in the shards. page: where its file holds several."""

    file: ImageFile
    name: str
    page: StackPage | None = None

    @property
    def path(self) -> str:
        """What errors call it."""
        return f"{self.file.path}{page_ending(self.page.number)}" if self.page else str(self.file.path)


def page_ending(number: int) -> str:
    """What the name of a file's image ends with, where it holds several."""
    return f"/page-{number:03d}"


def gather(sources: list[str], axes: str | None = None) -> list[Source]:
    """The image files of all sources, in an order that depends on their names alone. axes: of arrays."""
    found = []
    for source in map(resolve_source, sources):
        prefix = f"{source.name}/" if len(sources) > 1 else ""
        images = [replace(image, axes=axes) for image in list_images(source)]
        twice = [name for name, count in Counter(image.name for image in images).items() if count > 1]
        if twice:
            raise UserError(
                f"{source} holds several images with the name {twice[0]}: rename them or leave all but one out"
            )
        found += [Source(image, as_utf8(prefix + image.name)) for image in images]
    if len({source.name for source in found}) < len(found):
        raise UserError("two sources have the same folder name and the same image names: rename one folder")
    return sorted(found, key=lambda source: source.name)


# --- sizes, from headers ------------------------------------------------------------------------------------


class Stack(NamedTuple):
    """What the header of a file of several images says: the size of each, and the scale of all, as JSON has them."""

    sizes: list[list[int]]
    scale: list[float] | None


Measured = Size | Stack | str  # a string: why the file can't be read


def measure(options: BuildOptions, sources: list[Source]) -> list[Measured]:
    """(height, width) of each file's image or images, or why it can't be read."""
    sizes: list[Measured] = []
    for source in sources:
        try:
            with reading(source.file), open_file(source.file) as file:
                check_memory(file.path, file.contents, 2 * file.contents.dtype.itemsize)
                sizes.append(file.contents.size if file.contents.images == 1 else _stack(file, options))
        except UserError as error:
            sizes.append(str(error))
    return sizes


def _stack(file: OpenFile, options: BuildOptions) -> Stack:
    """The scale is that of all images, for one of them may be dark: where the type does not say it, the first that fill
    their type do.
    """
    noisy = options.already_noisy
    scale = file.find_scale(options.white, options.black) if noisy else scale_of_stack(file)
    contents = file.contents
    return Stack([[*contents.size_of(i)] for i in range(contents.images)], [*scale] if scale else None)


def expanded(source: Source, measured: Any) -> list[tuple[Source, Size]]:
    """A file's images and their sizes. measured: what `measure` found, which may have been JSON."""
    if isinstance(measured[0], int):
        return [(source, (measured[0], measured[1]))]
    sizes, scale = measured
    scale = Scale(*scale) if scale else None
    return [
        (replace(source, name=source.name + page_ending(i), page=StackPage(i, scale)), (height, width))
        for i, (height, width) in enumerate(sizes)
    ]


# --- content ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _StreamFile(ImageFile):
    """A file that is open: what is decoded is what was hashed, whatever happens to its name."""

    stream: BinaryIO | None = None

    def open(self) -> BinaryIO:
        assert self.stream
        return self.stream


@dataclass(frozen=True)
class OpenSource:
    """An image to be cut into tiles.

    sha256: of its file's bytes; of its own values where its file holds several, for that may be read once for each.
    file: to decode. picture: decoded already, where the file holds several. nodata: its value of missing pixels.
    """

    sha256: str
    file: ImageFile
    picture: DecodedImage | None = None
    nodata: float | None = None


@contextlib.contextmanager
def opened(source: Source) -> Iterator[OpenSource]:
    """An image, open at its beginning. Raises UserError by name."""
    file = source.file
    if source.page is not None:
        stack = keep_open(file)
        if source.page.number >= stack.contents.images:
            raise UserError(f"{file.path} changed while shards were built: run the command again")
        picture = stack.image(source.page.number)
        yield OpenSource(_digest_of(picture, source.page.scale), file, picture, stack.contents.nodata)
        return
    if is_image_folder(file.path):
        yield OpenSource(_digest_of_folder(file.path), file)
        return
    with file.open() as stream:
        if file.num_bytes <= _READ_WHOLE_BYTES:
            stream = io.BytesIO(stream.read())
        found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        stream.seek(0)
        yield OpenSource(found, _StreamFile(**vars(file), stream=stream))


def _digest_of_folder(folder: Path) -> str:
    """SHA-256 of the names and bytes of all files in it."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def _digest_of(picture: DecodedImage, scale: Scale | None) -> str:
    """SHA-256 of a decoded image and of what its values mean."""
    found = hashlib.sha256(repr(scale and tuple(map(float, scale))).encode())
    for array in (picture.pixels, picture.alpha, picture.palette):
        found.update(b"none" if array is None else f"{array.dtype.name} {array.shape}".encode())
        found.update(b"" if array is None else np.ascontiguousarray(array).data)
    return found.hexdigest()


@contextlib.contextmanager
def reading(file: ImageFile) -> Iterator[None]:
    """Whatever an image can't be read for becomes a UserError; RunFailed when that is so for all of its source."""
    try:
        yield
    except (UserError, OSError) as error:
        try:
            next(file.source.iterdir(), None) if file.source.is_dir() else file.source.open("rb").close()
        except OSError as of_all:
            raise RunFailed(f"{file.source} can no longer be read ({of_all.strerror or of_all})") from None
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file.path} can't be read ({error.strerror or error})") from None
    except MemoryError:
        raise UserError(f"{file.path} needs more memory than there is: leave it out, or cut it into parts") from None
    except (BadZipFile, zlib.error, LZMAError, EOFError) as error:
        raise UserError(f"{file.path} can't be read from its archive ({error})") from None


def digest(source: Source) -> str:
    """What `opened` calls the SHA-256 of an image. Raises UserError when it can't be read."""
    with reading(source.file), opened(source) as found:
        return found.sha256
