"""CZI, of Zeiss's microscopes: each plane of each scene is an image, its tiles put together. Read and not written.

T, C, Z and the rarer dimensions count images, and P scenes. Planes are read one by one. White is what the file says of
its channels' bits.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree

import numpy as np

from n2s_dist.images.czi_directory import KINDS, MAGIC, Tile, read_tiles
from n2s_dist.images.decoded import Contents, DecodedImage, Series
from n2s_dist.images.on_disk import on_disk
from n2s_dist.images.optional import needed
from n2s_dist.images.scale import Scale
from n2s_dist.utils.errors import UserError

suffixes = (".czi",)
is_lossless = True
precedence = 1
written_as = ".ome.tif"

_VALUES = {
    "Gray8": (1, np.uint8), "Gray16": (1, np.uint16), "Gray32Float": (1, np.float32),
    "Bgr24": (3, np.uint8), "Bgr48": (3, np.uint16),
}  # fmt: skip
_ORDER = "BVHIRTCZ"  # dimensions, slowest first
_JPEG = 1  # a compression
_SPARSEST = 100  # how many times the area of a plane's tiles that of its scene can be


class _Scene(NamedTuple):
    """A scene. number: the file's; None where it has no scenes. rectangle: left, top, width and height."""

    number: int | None
    rectangle: tuple[int, int, int, int]


class _Planes(NamedTuple):
    """What there is of each scene: axes, slowest first, and of each where it begins. lacking: what is left out."""

    axes: tuple[tuple[str, int], ...]
    starts: dict[str, int]
    lacking: str = ""


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    if stream.read(len(MAGIC)) != MAGIC:
        return None
    czi = needed("pylibCZIrw.czi", path, "microscopes")
    tiles = [tile for tile in read_tiles(stream) if not tile.is_copy]
    if not tiles:
        raise UserError(f"{path} holds no image")
    kinds = {KINDS.get(tile.kind, f"kind {tile.kind}") for tile in tiles}
    if len(kinds) > 1:
        raise UserError(f"{path} has channels of several kinds ({', '.join(sorted(kinds))}): save each of them as a "
                        "file of its own")  # fmt: skip
    (kind,) = kinds
    if kind not in _VALUES:
        raise UserError(f"{path} has values of {kind}, which are not read here: convert them to integers first")
    channels, dtype = _VALUES[kind][0], np.dtype(_VALUES[kind][1])
    scenes, planes = _scenes(tiles), _planes(tiles, path)
    file = czi.CziReader(on_disk(stream, path))
    said = _said(file.raw_metadata)
    sizes = [(scene.rectangle[3], scene.rectangle[2]) for scene in scenes]
    own = [Series(planes.axes, said.name, said.channels, said.pixel_um) for _ in scenes]
    if len(set(sizes)) == 1 and len(scenes) > 1:
        own = [replace(own[0], axes=(("P", len(scenes)), *planes.axes))]
    images = sum(stack.images for stack in own)
    return Contents(
        format="czi",
        kind="CZI stack" if images > 1 else "CZI",
        size=tuple(np.max(sizes, axis=0).tolist()),
        channels=channels,
        dtype=dtype,
        images=images,
        scale=said.scale(dtype),
        is_lossy=any(tile.compression == _JPEG for tile in tiles),
        form=(file, kind, scenes, planes),
        notes=(planes.lacking,) if planes.lacking else (),
        sizes=tuple(size for size in sizes for _ in range(images // len(scenes))) if len(set(sizes)) > 1 else (),
        series=tuple(own),
    )


def _scenes(tiles: list[Tile]) -> list[_Scene]:
    """All scenes, by number. Raises ValueError for a scene much larger than its tiles."""
    edges: dict[int | None, list[int]] = {}
    areas: Counter[int | None] = Counter()
    planes: dict[int | None, set] = defaultdict(set)
    for tile in tiles:
        left, top, width, height = tile.box
        number, own = tile.start.get("S"), [left, top, left + width, top + height]
        known = edges.get(number, own)
        edges[number] = [*map(min, known[:2], own[:2]), *map(max, known[2:], own[2:])]
        areas[number] += width * height
        planes[number].add(tuple(at for name, at in sorted(tile.start.items()) if name in _ORDER))
    found = []
    for number, (left, top, right, bottom) in sorted(edges.items(), key=lambda item: item[0] or 0):
        if (right - left) * (bottom - top) * len(planes[number]) > _SPARSEST * areas[number]:
            raise ValueError("its tiles lie where none can")
        found.append(_Scene(number, (left, top, right - left, bottom - top)))
    return found


def _planes(tiles: list[Tile], path: Path) -> _Planes:
    """The planes that all scenes have. Raises UserError where some are missing, but for those of the last times."""
    names = [name for name in _ORDER if name in tiles[0].start]
    there = {(tile.start.get("S"), tuple(tile.start.get(name, 0) for name in names)) for tile in tiles}
    places = np.array([place for _, place in there], np.int64).reshape(len(there), len(names))
    starts = dict(zip(names, places.min(axis=0).tolist(), strict=True))
    axes = dict(zip(names, (np.ptp(places, axis=0) + 1).tolist(), strict=True))
    each = math.prod(axes.values()) * len({scene for scene, _ in there}) // axes.get("T", 1)
    times = Counter(places[:, names.index("T")] - starts["T"] if "T" in names else [0] * len(there))
    whole = next((time for time in range(axes.get("T", 1)) if times[time] < each), axes.get("T", 1))
    if not whole:
        raise UserError(f"{path} lacks planes: its tiles are of {len(there)}. Save it whole, or a part that is")
    left = axes.get("T", 1) - whole
    axes |= {"T": whole} if "T" in axes else {}
    lacking = f"the last {left} of its {whole + left} times lack planes, and are left out" if left else ""
    return _Planes(tuple((name, length) for name, length in axes.items() if length > 1), starts, lacking)


class _Said(NamedTuple):
    """What the metadata say. bits: of a value that count; 0 where they do not say."""

    name: str
    channels: tuple[str, ...]
    pixel_um: dict[str, float]
    bits: int

    def scale(self, dtype: np.dtype) -> Scale | None:
        return Scale.of_bits(self.bits, 8 * dtype.itemsize) if dtype.kind == "u" else None


def _said(metadata: str) -> _Said:
    root = ElementTree.fromstring(metadata)
    name = root.findtext(".//Information/Document/Title") or root.findtext(".//Information/Document/Name") or ""
    found = root.findall(".//Information/Image/Dimensions/Channels/Channel")
    bits = [each.text or "" for each in root.findall(".//Information/Image//ComponentBitCount")]
    meters = {each.get("Id", ""): each.findtext("Value") or "" for each in root.findall(".//Scaling/Items/Distance")}
    return _Said(
        name,
        tuple(channel.get("Name") or channel.get("Id") or "" for channel in found),
        {letter: float(length) * 1e6 for letter, length in meters.items() if letter in "XYZ" and _is_number(length)},
        max((int(each) for each in bits if each.isdecimal()), default=0),
    )


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9.]+([eE][+-]?[0-9]{1,2})?", text))


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    file, kind, scenes, planes = contents.form
    lengths = [length for _, length in planes.axes]

    def image(number: int) -> DecodedImage:
        which, place = divmod(number, math.prod(lengths))
        at = np.unravel_index(place, lengths) if lengths else ()
        plane = {name: planes.starts[name] + int(index) for (name, _), index in zip(planes.axes, at, strict=True)}
        scene = scenes[which]
        found = file.read(scene.rectangle, plane, scene.number, pixel_type=kind)
        if found.shape != (*contents.size_of(number), contents.channels):
            raise ValueError("its tiles are not what its list of them says")
        return DecodedImage(np.array(found[:, :, ::-1]))  # blue comes first

    return image
