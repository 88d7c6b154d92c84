"""BMP: gray or color, 8 bits."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from n2s_dist.images.decoded import Contents, DecodedImage, check_holds, to_eight_bits
from n2s_dist.images.pillow import about_pillow, decode_pillow, is_gray, sees_through, to_pillow, upright_size

suffixes = (".bmp",)
is_lossless = True


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    if stream.read(2) != b"BM":
        return None
    opened = _opened(stream)
    return Contents(
        format="bmp",
        kind="BMP",
        size=upright_size(opened),
        channels=1 if is_gray(opened) else 3,
        dtype=np.dtype(np.uint8),
        has_alpha=sees_through(opened),
        about=about_pillow(opened),
    )


def read(stream: BinaryIO, path: Path, contents: Contents) -> Iterator[DecodedImage]:
    yield decode_pillow(_opened(stream))


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    check_holds(path, contents, "BMP", ("uint8", "uint16"), alpha=False)
    (image,) = images
    dpi = {"dpi": contents.about.dpi} if contents.about.dpi else {}
    to_pillow(to_eight_bits(image.pixels, contents.scale), image.palette).save(path, "BMP", **dpi)


def _opened(stream: BinaryIO) -> Image.Image:
    stream.seek(0)
    return Image.open(stream, formats=("BMP",))
