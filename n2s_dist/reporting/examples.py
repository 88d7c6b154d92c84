"""Which pictures of an evaluation to show, and what of them: the worst images, some others, at full resolution.

Pictures lie in DIR/pictures/NOISE-LEVEL/BENCHMARK/STEM-KIND.png, NOISE with "_" for ":". They are Noise2Score's where
it was evaluated, else the first method's.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from n2s_dist.evaluation.published import PAPERS_OWN
from n2s_dist.evaluation.results import ResultCell, picture_name
from n2s_dist.reporting.comparison import cell_title
from n2s_dist.utils.errors import UserError

KINDS = ("clean", "noisy", "denoised", "std", "sample-1", "sample-2")
# All kinds of one pixel together take some three bytes of a page: this many make about 12 MiB.
_PIXELS = 5_000_000
_MAX_IMAGES = 8
_LARGEST, _SMALL = 512, 192


class ExampleImage(NamedTuple):
    """What is shown of one image: the same rectangle of each kind that there is, uint8 [h, w] or [h, w, C]."""

    cell: ResultCell
    row: dict[str, Any]
    top: int
    left: int
    size: tuple[int, int]  # of the whole image
    pictures: dict[str, np.ndarray]

    @property
    def stem(self) -> str:
        return stem_of(self.row["name"])

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if kind in self.pictures]

    @property
    def is_whole(self) -> bool:
        return self.pictures["denoised"].shape[:2] == self.size


def stem_of(name: str) -> str:
    return name.rsplit(".", 1)[0]


def choose(results_dir: Path, cells: list[ResultCell]) -> list[ExampleImage]:
    """Examples of all cells that have pictures, each cell's worst image first; as much as a page can hold.

    Raises UserError for pictures that can't be read, or differ in size.
    """
    with_pictures = [(cell, found) for cell in owners(cells) if (found := find(results_dir, cell))]
    count, side = share_of_page(len(with_pictures))
    return [
        show(cell, row, found[row["name"]], side)
        for cell, found in with_pictures
        for row in select([row for row in cell["images"] if row["name"] in found], count)
    ]


def owners(cells: list[ResultCell]) -> list[ResultCell]:
    """The cells that pictures belong to: one for each noise, level and benchmark."""
    owner: dict[tuple[str, ...], ResultCell] = {}
    for cell in sorted(cells, key=lambda cell: cell["method"] != PAPERS_OWN):
        if not cell.get("missing"):
            owner.setdefault((cell["noise"], cell["level"], cell["benchmark"]), cell)
    return [cell for cell in cells if any(cell is each for each in owner.values())]


def find(results_dir: Path, cell: ResultCell) -> dict[str, dict[str, Path]]:
    """Of each image that has at least a noisy and a denoised picture, the picture files by kind."""
    folder = f"{cell['noise'].replace(':', '_')}-{cell['level']}"
    found = {}
    for row in cell["images"]:
        if any("/" in name or name.startswith(".") for name in (folder, cell["benchmark"], row["name"])):
            continue  # nothing outside the folder of pictures is shown
        where = results_dir / "pictures" / folder / cell["benchmark"]
        paths = {kind: where / picture_name(row["name"], kind) for kind in KINDS}
        paths = {kind: path for kind, path in paths.items() if path.is_file()}
        if {"noisy", "denoised"} <= paths.keys():
            found[row["name"]] = paths
    return found


def share_of_page(cells: int) -> tuple[int, int]:
    """How many images of each cell, and the side of the square whose area bounds what is shown of each."""
    sides = {count: math.isqrt(_PIXELS // (max(1, cells) * count)) for count in range(_MAX_IMAGES, 0, -1)}
    fitting = (count for count, side in sides.items() if side >= (_LARGEST if count > _MAX_IMAGES // 2 else _SMALL))
    count = next(fitting, 1)
    return count, min(sides[count], _LARGEST)


def worst_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By PSNR; images without one keep their order, after the others."""
    return sorted(rows, key=lambda row: math.inf if row["psnr_db"] is None else row["psnr_db"])


def select(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The worst half of `count`, and others spread evenly from there to the best."""
    ranked = worst_first(rows)
    if len(ranked) <= count:
        return ranked
    worst = -(-count // 2)
    spread = np.linspace(worst, len(ranked) - 1, count - worst + 1).round().astype(int)[1:]
    return ranked[:worst] + [ranked[index] for index in spread]


def show(cell: ResultCell, row: dict[str, Any], paths: dict[str, Path], side: int) -> ExampleImage:
    """Cut the most telling rectangle of at most side x side pixels from all kinds; all of an image no larger."""
    pictures = {kind: _read(path) for kind, path in paths.items()}
    sizes = {picture.shape[:2] for picture in pictures.values()}
    if len(sizes) > 1:
        raise UserError(f"{paths['denoised']} and its companions differ in size: run n2s evaluate again")
    height, width = size = pictures["denoised"].shape[:2]
    if height * width <= side * side:
        return ExampleImage(cell, row, 0, 0, size, pictures)
    high, wide = min(height, max(side, side * side // width)), min(width, max(side, side * side // height))
    top, left = _most_telling(pictures, high, wide)
    cut = {kind: picture[top : top + high, left : left + wide] for kind, picture in pictures.items()}
    return ExampleImage(cell, row, top, left, size, cut)


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I"):  # 16 bits
                return (np.asarray(picture) >> 8).astype(np.uint8)
            return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable picture ({error}): run n2s evaluate again") from None


def _most_telling(pictures: dict[str, np.ndarray], high: int, wide: int) -> tuple[int, int]:
    """Corner of the rectangle with the greatest error, or without a clean picture with the most detail."""

    def gray(kind: str) -> np.ndarray:
        picture = pictures[kind].astype(np.float64)
        return picture.mean(-1) if picture.ndim == 3 else picture

    denoised = gray("denoised")
    interest = (denoised - gray("clean")) ** 2 if "clean" in pictures else sum(g**2 for g in np.gradient(denoised))
    # A window's mean stands at its middle, so only positions whose window lies inside are candidates.
    means = uniform_filter(interest, (high, wide))
    inside = means[high // 2 : high // 2 + len(means) - high + 1, wide // 2 : wide // 2 + means.shape[1] - wide + 1]
    top, left = np.unravel_index(np.argmax(inside), inside.shape)
    return int(top), int(left)


def heat(std: np.ndarray) -> np.ndarray:
    """A standard deviation in false colors, from zero to its largest value. uint8 [h, w, 3]."""
    gray = std.mean(-1) if std.ndim == 3 else std.astype(float)
    colors = matplotlib.colormaps["magma"](gray / max(1.0, gray.max()))
    return (colors[..., :3] * 255).round().astype(np.uint8)


def visible(example: ExampleImage) -> list[np.ndarray]:
    """Its pictures in the order of `kinds`, uncertainty in false colors."""
    return [heat(example.pictures[kind]) if kind == "std" else example.pictures[kind] for kind in example.kinds]


def caption(example: ExampleImage) -> str:
    return f"{cell_title(example.cell)}, {example.row['name']}: {', '.join(example.kinds)}"


def strip(example: ExampleImage) -> np.ndarray:
    """All kinds side by side, in the order of KINDS. uint8 [h, w, 3]."""
    shown = visible(example)
    return np.concatenate([each if each.ndim == 3 else np.stack([each] * 3, -1) for each in shown], 1)
