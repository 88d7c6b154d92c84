"""The registry of image formats. A format of this package is one file and one line here.

A format from elsewhere calls `register` in a module that N2S_PLUGINS names.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

from n2s_dist.images.decoded import Contents, DecodedImage
from n2s_dist.images.formats import bmp, czi, dicom, exr, fits, jpeg, lif, nd2, npy, npz, png, raw, tiff, webp, zarr
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.plugins import load_plugins

PICTURES, MEASURED, BARE = range(3)  # precedences


class Format(Protocol):
    """What a module of this folder, or an object from elsewhere, says of one format."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of its files' names, in lower case."""

    @property
    def is_lossless(self) -> bool:
        """Whether a folder's files of this format become files of this format again; others become PNGs."""

    def probe(self, stream: BinaryIO, path: Path) -> Contents | None:
        """What a file holds, without decoding it; None where it is no file of this format. path: its name in errors.

        Raises UserError for what this format has but this module does not read, and any error for damage.
        """

    # One of these two decodes, and raises any error for damage:
    # read(stream, path, contents) -> Iterator[DecodedImage]: its images one after the other.
    # reader(stream, path, contents) -> Callable[[int], DecodedImage], where files may hold several: any of its images
    # by its number from 0, as long as the stream is open.

    # takes_axes, of formats that have it: whether `probe` takes a third argument, axes as the user names them.
    # precedence: of several formats in one folder, those of the lowest are its images (files.py); by default 0.
    # is_folder: whether an image is a folder; then streams are empty, and what is read lies at `path`.
    # written_as: of formats that are only read, and have no `write`: the suffix of what a folder's files become.

    def write(self, path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
        """Write a file with these images, and with all that `contents` says of the file that they come from.

        Raises UserError for what this format can't hold, before it asks for the first image.
        """


_FORMATS: dict[str, Format] = {
    "png": png, "jpeg": jpeg, "webp": webp, "bmp": bmp, "tiff": tiff, "npy": npy, "npz": npz,
    "zarr": zarr, "fits": fits, "dicom": dicom, "exr": exr,
    "raw": raw, "czi": czi, "lif": lif, "nd2": nd2,  # type: ignore[dict-item]
}  # type: ignore[dict-item]  # fmt: skip


def register(name: str, added: Format) -> None:
    """Add a format. Raises UserError for a name or a suffix that is taken."""
    taken = {suffix for other in _FORMATS.values() for suffix in other.suffixes}
    if _FORMATS.get(name, added) is not added or (name not in _FORMATS and taken & {*added.suffixes}):
        raise UserError(f"image format '{name}': its name or one of its suffixes is taken")
    _FORMATS[name] = added


def formats() -> dict[str, Format]:
    """All formats by name, those of plugins included."""
    load_plugins()
    return dict(_FORMATS)


def suffixes(is_written: bool = False) -> tuple[str, ...]:
    """Of all images' names, or of those that can be written alone."""
    found = [each for each in formats().values() if not (is_written and hasattr(each, "written_as"))]
    return tuple(suffix for each in found for suffix in each.suffixes)


def format_of(name: str) -> Format | None:
    """The format that a file's name means."""
    return next((each for each in formats().values() if name.lower().endswith(each.suffixes)), None)


def written_as(name: str) -> str | None:
    """The suffix of what is written for a file of a format that is only read; None where the format is written."""
    return getattr(format_of(name), "written_as", None)


def check_written(path: Path) -> None:
    """UserError for the name of a file to be written whose format is only read, or is none."""
    if format_of(path.name) is None:
        raise UserError(f"{path} has no image suffix: end it in one of {', '.join(suffixes(is_written=True))}")
    if other := written_as(path.name):
        raise UserError(f"{path}: {path.suffix} files are read here and not written: end it in {other} or .npy")
