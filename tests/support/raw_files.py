"""A raw photograph: a DNG of one page, which is the mosaic of a sensor."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

PATTERNS = {"RGGB": (0, 1, 1, 2), "BGGR": (2, 1, 1, 0), "GRBG": (1, 0, 2, 1), "GBRG": (1, 2, 0, 1)}
_LINEAR_RAW = 34892
_BYTE, _SHORT, _LONG, _ASCII, _RATIO, _SIGNED_RATIO = 1, 3, 4, 2, 5, 10


def write_dng(
    path: Path,
    mosaic: np.ndarray,
    pattern: str = "RGGB",
    black: tuple[int, ...] = (64, 64, 64, 64),
    white: int = 4095,
    **options: Any,
) -> Path:
    """mosaic: uint16 [H, W]. pattern: of its first two rows. black: of each of these four places."""
    tags: list[tuple] = [
        (271, _ASCII, 0, "Maker", True), (272, _ASCII, 0, "Camera", True),
        (33421, _SHORT, 2, (2, 2), True), (33422, _BYTE, 4, bytes(PATTERNS[pattern]), True),
        (50706, _BYTE, 4, bytes((1, 4, 0, 0)), True), (50708, _ASCII, 0, "Maker Camera", True),
        (50713, _SHORT, 2, (2, 2), True), (50714, _SHORT, 4, black, True), (50717, _LONG, 1, white, True),
        (50721, _SIGNED_RATIO, 9, (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1), True),
        (50728, _RATIO, 3, (1, 2, 1, 1, 1, 2), True), (50778, _SHORT, 1, 21, True),
    ]  # fmt: skip
    if area := options.pop("area", None):  # top, left, bottom, right of what the lens lights
        tags.append((50829, _LONG, 4, area, True))
    options = {"photometric": "cfa", "metadata": None, **options}
    is_linear = options["photometric"] == "linear_raw" and mosaic.ndim == 2  # which tifffile would not write
    tifffile.imwrite(path, mosaic, extratags=tags, **(options | ({"photometric": "minisblack"} if is_linear else {})))
    if is_linear:
        with tifffile.TiffFile(path, mode="r+b") as file:
            file.pages.first.tags["PhotometricInterpretation"].overwrite(_LINEAR_RAW)
    return path
