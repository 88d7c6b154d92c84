"""Image files in and out: 8-bit arrays [H, W, C] in the orientation that a viewer shows."""

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from n2s_dist.utils import tar_members
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write

KINDS = {1: "gray", 3: "color"}  # by their number of channels, as people call them
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_PAGED = ("TIFF", "WEBP", "PNG")
_ORIENTATION_TAG, _ORIENTATIONS_ON_THE_SIDE = 0x0112, (5, 6, 7, 8)
Image.MAX_IMAGE_PIXELS = None  # scientific images are large; Pillow's limit guards web servers
# What Pillow and zipfile raise upon damage, and zipfile upon what it can't read (encryption, rare compression).
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    BadZipFile,
    zlib.error,
)


@contextlib.contextmanager
def damage_named(fault: str) -> Iterator[None]:
    """Whatever Pillow or zipfile raises upon damaged bytes becomes one UserError."""
    try:
        yield
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(f"{fault} ({error})") from None


@dataclass(frozen=True)
class ImageFile:
    """An image in a folder, or a member of a zip or tar archive. `name` is unique within its source."""

    source: Path
    name: str
    num_bytes: int
    offset: int | None = None  # where its bytes begin in a tar

    @property
    def path(self) -> Path:
        """What a person calls it."""
        return self.source / self.name

    def open(self) -> BinaryIO:
        """Its bytes. Raises UserError for a file that can't be read and a member that its zip archive does not give."""
        if self.offset is not None:
            with self.source.open("rb") as stream:
                stream.seek(self.offset)
                return io.BytesIO(stream.read(self.num_bytes))
        if self.source.is_dir():
            try:
                return self.path.open("rb")
            except OSError as error:
                raise UserError(unreadable(self.path, error)) from None
        with damage_named(f"{self.path} can't be read from its archive"):
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


@lru_cache(4)
def _zip(path: Path) -> ZipFile:
    """An open archive: its list of members is read once in each process."""
    return ZipFile(path)


def list_images(source: str | Path) -> list[ImageFile]:
    """All images below a folder or in a zip or tar archive, sorted by name; hidden files are left out.

    Links to folders are followed. An image that is a link to nothing is listed, and named when it is opened.
    Raises UserError when the source is missing, is none of these, or holds no image, or one that is to lie elsewhere,
    and for a folder in it that can't be read.
    """
    source = Path(source)
    if source.is_symlink() and not _is_there(source):
        raise UserError(unreadable(source, OSError()))
    if not source.exists():
        raise UserError(f"{source} does not exist: give images, in a folder or a zip or tar archive")
    if source.is_dir():
        found = list(_list_folder(source, "", ()))
    else:
        found = _list_zip(source) if _begins_with(source, b"PK") else _list_tar(source)
    images = [
        image
        for image in sorted(found, key=lambda image: image.name)
        if image.name.lower().endswith(SUFFIXES) and not any(map(_is_hidden, image.name.split("/")))
    ]
    if outside := next((image.name for image in images if image.name.startswith("/")), None):
        raise UserError(f"{source} holds {outside}, which lies outside: pack the archive again with relative names")
    if not images:
        raise UserError(f"{source} holds no images (looked for {', '.join(SUFFIXES)})")
    return images


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
            if entry.is_dir():
                yield from _list_folder(source, f"{name}/", (*above, (status.st_dev, status.st_ino)))
            elif entry.is_file():
                yield ImageFile(source, name, entry.stat().st_size)
            elif entry.is_symlink() and entry.name.lower().endswith(SUFFIXES):
                yield ImageFile(source, name, 0)
            elif entry.is_symlink() and not path.suffix:  # it may stand for a folder of images
                raise UserError(unreadable(path, OSError()))
        except OSError as error:
            raise UserError(unreadable(path, error)) from None


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _list_zip(source: Path) -> list[ImageFile]:
    with damage_named(f"{source} is not a readable zip archive"), ZipFile(source) as archive:
        return [ImageFile(source, i.filename, i.file_size) for i in archive.infolist() if not i.is_dir()]


def _list_tar(source: Path) -> list[ImageFile]:
    if any(_begins_with(source, magic) for magic in (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise UserError(f"{source} is compressed, so its images can't be read one by one: decompress it first")
    try:
        members = {member.name: member for member in tar_members.members(source)}  # of one name, the last counts
    except tar_members.BrokenTar as error:
        kinds = ", ".join(SUFFIXES)
        raise UserError(
            f"{source} is neither a folder, a readable zip or tar archive ({error}), nor an image ({kinds})"
        ) from None
    return [ImageFile(source, name, member.size, member.offset) for name, member in members.items()]


def open_image(stream: BinaryIO, path: Path) -> Image.Image:
    with damage_named(f"{path} is not a readable image"):
        return Image.open(stream)


def refuse_pages(opened: Image.Image, path: Path) -> None:
    """UserError for a file of several pages or frames, of which only the first would be read."""
    pages = getattr(opened, "n_frames", 1) if opened.format in _PAGED else 1
    if pages > 1:
        raise UserError(f"{path} holds {pages} pages: save each of them as a file of its own")


def loses_bits(opened: Image.Image, stream: BinaryIO) -> bool:
    """Pillow reads 16 bits a channel as 8 without a word, but for plain gray; the file's header says what it holds."""
    if isinstance(opened, TiffImageFile):
        return opened.mode not in ("I;16", "I;16B") and max(opened.tag_v2.get(258, (8,))) == 16
    stream.seek(0)
    header = stream.read(26)
    return header[:8] == b"\x89PNG\r\n\x1a\n" and header[24] == 16 and header[25] != 0


def is_turned(opened: Image.Image) -> bool:
    """Whether a viewer turns or flips what the file holds; TIFFs are turned by Pillow as they are read."""
    exif = opened.getexif() if opened.format == "TIFF" else Image.Image.getexif(opened)
    return exif.get(_ORIENTATION_TAG, 1) != 1


def image_size(image: ImageFile) -> tuple[int, int]:
    """(height, width) as `read_image` will return them, from the header alone."""
    with image.open() as stream:
        return measure_image(stream, image.path)[:2]


def measure_image(stream: BinaryIO, path: Path) -> tuple[int, int, int]:
    """(height, width, channels) as `decode` will return them, from the header alone."""
    with open_image(stream, path) as opened, damage_named(f"{path} is not a readable image"):
        width, height = opened.size
        channels = 1 if opened.mode in ("1", "L", "LA") or opened.mode.startswith("I;16") else 3
        if opened.format == "TIFF":
            return height, width, channels  # Pillow has turned it already
        exif = Image.Image.getexif(opened)  # PngImageFile's own would decode the whole image
        on_its_side = exif.get(_ORIENTATION_TAG) in _ORIENTATIONS_ON_THE_SIDE
        return (width, height, channels) if on_its_side else (height, width, channels)


def read_image(image: ImageFile, channels: int | None = None) -> np.ndarray:
    """Decode a file to uint8 [H, W, C]; see `decode`."""
    return pixels_of(read(image, channels))


def decode_image(stream: BinaryIO, path: Path, channels: int | None = None) -> np.ndarray:
    """Decode to uint8 [H, W, C]; see `decode`."""
    return pixels_of(decode(stream, path, channels))


def pixels_of(decoded: Image.Image) -> np.ndarray:
    """uint8 [H, W, C], C = 1 or 3, to be read only."""
    pixels = np.asarray(decoded)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def read(image: ImageFile, channels: int | None = None) -> Image.Image:
    """Decode a file; see `decode`."""
    with image.open() as stream:
        return decode(stream, image.path, channels)


def decode(stream: BinaryIO, path: Path, channels: int | None = None) -> Image.Image:
    """Decode to 8-bit gray ("L") or color ("RGB"). path: what errors call the image.

    channels: 1 converts color to gray (ITU-R 601 luma), 3 repeats gray, None keeps what the file has.
    16-bit gray is scaled to 8 bits (v / 257, rounded). 16-bit color, floating point and transparent
    images raise UserError by name: their conversion is the user's to choose.
    """
    with open_image(stream, path) as opened:
        mode = opened.mode
        if loses_bits(opened, stream):
            raise UserError(f"{path} has 16 bits a channel: convert it to 8 bits first")
        if mode in ("F", "I") or (mode.startswith("I;") and mode != "I;16" and mode != "I;16B"):
            raise UserError(f"{path} has pixels of type '{mode}': convert it to 8-bit gray or color first")
        with damage_named(f"{path} can't be decoded"):
            refuse_pages(opened, path)
            upright = ImageOps.exif_transpose(opened) if is_turned(opened) else opened  # it copies, turned or not
            if "A" in upright.getbands() or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                if upright.getchannel("A").getextrema() != (255, 255):
                    raise UserError(f"{path} is transparent in places: flatten it onto a background first")
                upright = upright.convert("L" if mode == "LA" else "RGB")
            if mode in ("I;16", "I;16B"):
                wide = np.asarray(upright).astype(np.float64)
                upright = Image.fromarray(np.round(wide / 257).astype(np.uint8))
            gray = upright.mode in ("L", "1", "LA") if channels is None else channels == 1
            wanted = "L" if gray else "RGB"
            if upright.mode != wanted:
                upright = upright.convert(wanted)  # it copies, too
            upright.load()
    return upright


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Floats on the 0-1 scale to 8 bits: clamped, then rounded to nearest."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, C], C = 1 or 3, so that the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(partial)
