"""WebP: color of 8 bits, with or without transparency. What is denoised is written without loss."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from n2s_dist.images.decoded import About, Contents, DecodedImage, check_holds, to_eight_bits
from n2s_dist.images.pillow import (
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    about_pillow,
    decode_pillow,
    exif_dpi,
    sees_through,
    to_pillow,
    upright_size,
)
from n2s_dist.utils.errors import UserError

suffixes = (".webp",)
is_lossless = False  # not every WebP is


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    head = stream.read(2**16)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    opened = _opened(stream)
    if (frames := getattr(opened, "n_frames", 1)) > 1:
        raise UserError(f"{path} is an animated WebP of {frames} frames: save each of them as a file of its own")
    is_lossy = b"VP8L" not in head
    return Contents(
        format="webp",
        kind="WebP",
        size=upright_size(opened),
        channels=3,
        dtype=np.dtype(np.uint8),
        has_alpha=sees_through(opened),
        is_lossy=is_lossy,
        chroma_subsampled=is_lossy,  # always, then
        about=about_pillow(opened),
    )


def read(stream: BinaryIO, path: Path, contents: Contents) -> Iterator[DecodedImage]:
    yield decode_pillow(_opened(stream))


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    check_holds(path, contents, "WebP", ("uint8", "uint16"))
    (image,) = images
    about = contents.about
    extra = {"icc_profile": about.icc, "exif": _exif(about), "xmp": about.xmp}
    shown = DecodedImage(image.shown(), image.alpha)
    to_pillow(to_eight_bits(shown.joined(), contents.scale)).save(
        path, "WEBP", lossless=True, exact=True, **{key: value for key, value in extra.items() if value}
    )


def _exif(about: About) -> bytes | None:
    """EXIF with the resolution, which WebP has nowhere else."""
    exif = Image.Exif()
    exif.load(about.exif or b"")
    if about.dpi is None or exif_dpi(exif) is not None:
        return about.exif
    exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[RESOLUTION_UNIT] = *about.dpi, 2
    return exif.tobytes()


def _opened(stream: BinaryIO) -> Image.Image:
    stream.seek(0)
    return Image.open(stream, formats=("WEBP",))
