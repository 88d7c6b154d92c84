"""Where image files lie: in folders, zip and tar archives. What they hold is user_files.py's and eight_bit.py's."""

import contextlib
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

from n2s_dist.images.formats.base import BARE, format_of, suffixes
from n2s_dist.utils import tar_members
from n2s_dist.utils.errors import UserError

KINDS = {1: "gray", 3: "color"}  # by their number of channels, as people call them
# What zipfile raises upon damage, and upon what it can't read (encryption, rare compression).
_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, struct.error, BadZipFile, zlib.error)


@contextlib.contextmanager
def _damage_named(fault: str) -> Iterator[None]:
    """Whatever zipfile raises upon damaged bytes becomes one UserError."""
    try:
        yield
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(f"{fault} ({error})") from None


class _Part(io.RawIOBase):
    """A part of a file as a file of its own, of which no more is read than is asked for."""

    def __init__(self, whole: io.RawIOBase, offset: int, size: int) -> None:
        self._whole, self._offset, self._size, self._at = whole, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        self._whole.seek(self._offset + self._at)
        count = self._whole.readinto(view) or 0  # type: ignore[attr-defined]
        self._at += count
        return count

    def close(self) -> None:
        self._whole.close()
        super().close()


@dataclass(frozen=True)
class ImageFile:
    """An image in a folder, or a member of a zip or tar archive. `name` is unique within its source."""

    source: Path
    name: str
    num_bytes: int
    offset: int | None = None  # where its bytes begin in a tar
    axes: str | None = None  # what the user says of its dimensions, such as TZCYX

    @property
    def path(self) -> Path:
        """What a person calls it."""
        return self.source / self.name

    def open(self) -> BinaryIO:
        """Its bytes; none of an image that is a folder.

        Raises UserError for a file that can't be read and a member that its zip archive does not give.
        """
        if self.offset is not None:
            return io.BufferedReader(_Part(self.source.open("rb", buffering=0), self.offset, self.num_bytes))
        if self.source.is_dir():
            try:
                return io.BytesIO() if is_image_folder(self.path) else self.path.open("rb")
            except OSError as error:
                raise UserError(unreadable(self.path, error)) from None
        with _damage_named(f"{self.path} can't be read from its archive"):
            return _zip(self.source).open(self.name)  # type: ignore[return-value]


def unreadable(path: Path, error: OSError) -> str:
    """What to say of a file or folder that the system does not give."""
    if path.is_symlink() and not _is_there(path):
        return f"{path} is a link to {path.readlink()}, which is not there: mend the link or remove it"
    return f"{path} can't be read ({os.strerror(error.errno) if error.errno else error})"


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # but out of reach


def _zip(path: Path) -> ZipFile:
    """An open archive: its list of members is read once in each process, and anew when the archive was replaced."""
    state = path.stat()
    return _open_zip(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(4)
def _open_zip(path: Path, *state: int) -> ZipFile:
    return ZipFile(path)


def list_images(source: str | Path) -> list[ImageFile]:
    """All images below a folder or in a zip or tar archive, sorted by name, or the one image that is named.

    Hidden files are left out.

    Links to folders are followed. An image that is a link to nothing is listed, and named when it is opened.
    Raises UserError when the source is missing, is none of these, or holds no image, or one that is to lie elsewhere,
    and for a folder in it that can't be read.
    """
    source = Path(source)
    if source.is_symlink() and not _is_there(source):
        raise UserError(unreadable(source, OSError()))
    if not source.exists():
        raise UserError(f"{source} does not exist: give images, in a folder or a zip or tar archive")
    if is_image(source):
        return [image_at(source)]
    if source.is_dir():
        found = list(_list_folder(source, "", ()))
    else:
        found = _list_zip(source) if _begins_with(source, b"PK") else _list_tar(source)
    visible = [image for image in found if not any(map(_is_hidden, image.name.split("/")))]
    images = sorted(_those_that_count(visible, source), key=lambda image: image.name)
    if outside := next((image.name for image in images if image.name.startswith("/")), None):
        raise UserError(f"{source} holds {outside}, which lies outside: pack the archive again with relative names")
    if not images:
        bare = any(_precedence(image.name) == BARE for image in visible)
        rule = "; .npy and .npz count where they are named, or in a folder without other files" if bare else ""
        raise UserError(f"{source} holds no images (looked for {', '.join(suffixes())}{rule})")
    return images


def is_image(path: Path) -> bool:
    """Whether a path is one image by its name, and no archive of images whatever its name says."""
    if format_of(path.name) is None or is_image_folder(path):
        return is_image_folder(path)
    return (
        path.is_file()
        and (path.suffix.lower() == ".npz" or not _begins_with(path, b"PK"))
        and not tarfile.is_tarfile(path)
    )


def is_image_folder(path: Path) -> bool:
    """Whether a path is a folder that is one image, such as a Zarr."""
    return getattr(format_of(path.name), "is_folder", False) and path.is_dir()


def image_at(path: Path) -> ImageFile:
    """The image that a path is."""
    return ImageFile(path.parent, path.name, _size_of(path))


def _size_of(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _precedence(name: str) -> int | None:
    """Of an image's format: 0 for pictures; None for what is no image."""
    found = format_of(name)
    return None if found is None else getattr(found, "precedence", 0)


def _those_that_count(visible: list[ImageFile], source: Path) -> list[ImageFile]:
    """The images among files: of the formats of the lowest precedence that is there.

    So a folder of pictures with measured data beside them holds the pictures. Arrays without a word on what they are,
    which may be anyone's results or an unpacked shard's tiles, count in a folder without other files alone.
    """
    ranks = {image.name: _precedence(image.name) for image in visible}
    lowest = min((rank for rank in ranks.values() if rank is not None), default=None)
    images = [image for image in visible if lowest is not None and ranks[image.name] == lowest]
    return [] if lowest == BARE and (len(images) < len(visible) or not source.is_dir()) else images


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__"))


def _list_folder(source: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[ImageFile]:
    """The files in `below`, a path in `source`, and in all folders there that are not hidden.

    above: device and inode of each folder on the way. A link back to one of them is not followed: all that it leads to
    is listed already.
    """
    folder = source / below
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in above:
            return
        with os.scandir(folder) as listing:
            entries = [entry for entry in listing if not _is_hidden(entry.name)]
    except OSError as error:
        raise UserError(unreadable(folder, error)) from None
    for entry in entries:
        name, path = f"{below}{entry.name}", folder / entry.name
        try:
            if entry.is_dir() and is_image_folder(path):
                yield ImageFile(source, name, _size_of(path))
            elif entry.is_dir():
                yield from _list_folder(source, f"{name}/", (*above, (status.st_dev, status.st_ino)))
            elif entry.is_file():
                yield ImageFile(source, name, entry.stat().st_size)
            elif entry.is_symlink() and entry.name.lower().endswith(suffixes()):
                yield ImageFile(source, name, 0)
            elif entry.is_symlink() and not path.suffix:  # it may stand for a folder of images
                raise UserError(unreadable(path, OSError()))
        except OSError as error:
            raise UserError(unreadable(path, error)) from None


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _list_zip(source: Path) -> list[ImageFile]:
    with _damage_named(f"{source} is not a readable zip archive"), ZipFile(source) as archive:
        return [ImageFile(source, i.filename, i.file_size) for i in archive.infolist() if not i.is_dir()]


def _list_tar(source: Path) -> list[ImageFile]:
    if any(_begins_with(source, magic) for magic in (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise UserError(f"{source} is compressed, so its images can't be read one by one: decompress it first")
    try:
        members = {member.name: member for member in tar_members.members(source)}  # of one name, the last counts
    except tar_members.BrokenTar as error:
        kinds = ", ".join(suffixes())
        raise UserError(
            f"{source} is neither a folder, a readable zip or tar archive ({error}), nor an image ({kinds})"
        ) from None
    return [ImageFile(source, name, member.size, member.offset) for name, member in members.items()]
