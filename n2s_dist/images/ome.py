"""OME's words on a TIFF: which page is which of T, C and Z, how large a pixel is, and how many bits count.

What counts images besides these three, such as positions, makes images of its own, as OME has them.
"""

from collections import defaultdict
from xml.etree import ElementTree

import numpy as np

from n2s_dist import __version__
from n2s_dist.images.decoded import Contents, Series

_SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_COUNTED = "TCZ"
_TYPES = {"float32": "float", "float64": "double"}
_UNKNOWN = ("float16",)  # types that OME has none for


def ome_description(contents: Contents) -> bytes | None:
    """The description of the first page of a TIFF with a file's images; None where nothing says what they are."""
    if not contents.series or contents.dtype.name in _UNKNOWN:
        return None
    root = ElementTree.Element("OME", {"xmlns": _SCHEMA, "Creator": f"n2s_dist {__version__}"})
    page = 0
    for series in contents.series:
        pages = defaultdict(list)
        for number in range(series.images):
            place = _place(series, number)
            other = tuple(place[letter] for letter, _ in series.axes if letter not in _COUNTED)
            pages[other].append((page + number, place))
        if len({contents.size_of(page + number) for number in range(series.images)}) > 1:
            return None
        for own in pages.values():
            _add_image(root, len(root), series, own, contents.size_of(page), contents)
        page += series.images
    return b'<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, "utf-8")


def _place(series: Series, number: int) -> dict[str, int]:
    """Of an image of a series, counted from 0: its index by each letter."""
    at = np.unravel_index(number, [length for _, length in series.axes]) if series.axes else ()
    return {letter: int(index) for (letter, _), index in zip(series.axes, at, strict=True)}


def _add_image(
    root: ElementTree.Element,
    number: int,
    series: Series,
    pages: list[tuple[int, dict[str, int]]],
    size: tuple[int, int],
    contents: Contents,
) -> None:
    """An element "Image". pages: the number of each in the file, and its place. size: (height, width)."""
    lengths = dict.fromkeys(_COUNTED, 1) | {letter: n for letter, n in series.axes if letter in _COUNTED}
    order = [letter for letter, _ in reversed(series.axes) if letter in _COUNTED]
    order += [letter for letter in "ZCT" if letter not in order]
    samples = contents.channels + contents.has_alpha
    said = {
        "ID": f"Pixels:{number}",
        "DimensionOrder": "XY" + "".join(order),
        "Type": _TYPES.get(contents.dtype.name, contents.dtype.name),
        "SizeX": size[1], "SizeY": size[0], "SizeZ": lengths["Z"], "SizeT": lengths["T"],
        "SizeC": lengths["C"] * samples,
    }  # fmt: skip
    if contents.scale is not None and contents.dtype.kind == "u":
        said["SignificantBits"] = int(contents.scale.white).bit_length()
    said |= {f"PhysicalSize{letter}": f"{length:.9g}" for letter, length in series.pixel_um.items() if length > 0}
    image = ElementTree.SubElement(root, "Image", {"ID": f"Image:{number}", "Name": _clean(series.name)})
    pixels = ElementTree.SubElement(image, "Pixels", {key: str(value) for key, value in said.items()})
    for channel in range(lengths["C"]):
        about = {"ID": f"Channel:{number}:{channel}", "SamplesPerPixel": str(samples)}
        if channel < len(series.channels):
            about["Name"] = _clean(series.channels[channel])
        ElementTree.SubElement(pixels, "Channel", about)
    for page, place in pages:
        first = {f"First{letter}": str(place.get(letter, 0)) for letter in _COUNTED}
        ElementTree.SubElement(pixels, "TiffData", {"IFD": str(page), "PlaneCount": "1", **first})


def _clean(name: str) -> str:
    """Without what XML has no characters for."""
    return "".join(character for character in name if character.isprintable())
