"""Which array of a Zarr folder is the image, what its axes are, and what else the folder holds."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from n2s_dist.utils.errors import UserError

METADATA = (".zarray", ".zattrs", ".zgroup", "zarr.json")
_OLD_OME_AXES = "TCZYX"  # of the versions before axes had names
_FREE = "QPONMLKJIHGFEDBA"


class ZarrImage(NamedTuple):
    """An array of images.

    place: its path in the folder, "" for the folder itself. word: its axes by metadata, a letter each; None where it
    has none. group: the path of the group whose metadata list it as the first of `levels`, the arrays of a pyramid.
    """

    array: Any
    place: str
    kind: str
    word: str | None
    group: str = ""
    levels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_image(node: Any, path: Path) -> ZarrImage:
    """The array that holds the images. Raises UserError where several may be meant."""
    if hasattr(node, "shape"):
        return ZarrImage(node, "", "Zarr", _plain_word(node))
    if scales := _multiscales(node):
        return _of_multiscales(node, "", scales, path)
    groups = [(name, group) for name, group in node.groups() if _multiscales(group)]
    if len(groups) == 1:
        name, group = groups[0]
        return _of_multiscales(group, name, _multiscales(group), path)
    arrays = [(name, array) for name, array in node.arrays() if array.ndim >= 2]
    if groups or len(arrays) != 1:
        names = ", ".join(name for name, _ in groups or arrays) or "none"
        raise UserError(
            f"{path} holds several images or none ({names}): give one, as a folder whose name ends in .zarr"
        )
    name, array = arrays[0]
    return ZarrImage(array, name, "Zarr", _plain_word(array))


def _multiscales(group: Any) -> list[dict[str, Any]]:
    attributes = group.attrs.asdict()
    return attributes.get("ome", attributes).get("multiscales", [])


def _of_multiscales(group: Any, name: str, scales: list[dict[str, Any]], path: Path) -> ZarrImage:
    if len(scales) > 1:
        raise UserError(f"{path} holds {len(scales)} pyramids in one group: give one, as a folder of its own")
    levels = tuple(each["path"] for each in scales[0]["datasets"])
    array = group[levels[0]]
    axes = scales[0].get("axes")
    names = _OLD_OME_AXES if axes is None else [each if isinstance(each, str) else each["name"] for each in axes]
    copies = len(levels) - 1
    notes = (f"{copies} smaller {'copies of its images are' if copies > 1 else 'copy of its images is'} left out",)
    place = f"{name}/{levels[0]}".strip("/")
    return ZarrImage(array, place, "OME-Zarr", letters(list(names)), name, levels, notes if copies else ())


def _plain_word(array: Any) -> str | None:
    """The axes that an array's own metadata name, or xarray's; None where they name no rows and columns."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.asdict().get("_ARRAY_DIMENSIONS") or ()
    names = [str(name or "") for name in names]
    if not {"y", "x"} <= {name.lower() for name in names}:
        return None
    word = letters(names)
    return "".join(
        "S" if name.lower() in ("s", "rgb", "rgba") else letter for name, letter in zip(names, word, strict=True)
    )


def letters(names: list[str]) -> str:
    """A letter for each axis: Y and X for y and x, others for what counts images."""
    found: list[str] = []
    for name in names:
        letter = name[:1].upper()
        if name.lower() not in ("y", "x") and (letter in "YXS" or letter in found or not letter.isalpha()):
            letter = next(free for free in _FREE if free not in found)
        found.append(letter)
    return "".join(found)


def copy_without_pixels(source: Path, target: Path, found: ZarrImage) -> None:
    """All of a folder but the chunks of its image, the smaller copies of it, and lists of what there is."""
    image = source / found.place
    left_out = {source / found.group / level for level in found.levels[1:]}

    def ignore(folder: str, names: list[str]) -> set[str]:
        here = Path(folder)
        return {
            name
            for name in names
            if name == ".zmetadata" or here / name in left_out or (here == image and name not in METADATA)
        }

    shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
    group = target / found.group
    for name in ("zarr.json", ".zattrs"):
        if found.levels and (group / name).is_file():
            _edit(group / name, _keep_first_level)
    for file in target.rglob("zarr.json"):
        _edit(file, lambda said: said.pop("consolidated_metadata", None))


def _keep_first_level(said: dict[str, Any]) -> None:
    attributes = said.get("attributes", said)
    for scale in attributes.get("ome", attributes).get("multiscales", []):
        del scale["datasets"][1:]


def _edit(path: Path, change: Any) -> None:
    before = path.read_text()
    said = json.loads(before)
    change(said)
    if said != json.loads(before):
        path.write_text(json.dumps(said, indent=2))
