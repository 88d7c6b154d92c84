"""NumPy archives (.npz): arrays of at least 16 x 16 values hold images, as a .npy does. Others stay as they are."""

from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from n2s_dist.images.axes import Axes, find_axes
from n2s_dist.images.decoded import NUMBERS, Contents, DecodedImage, check_holds
from n2s_dist.images.formats.npy import plain_form
from n2s_dist.images.npy_layout import ArrayLayout, ArrayReader, read_layout, write_array
from n2s_dist.utils.errors import UserError

suffixes = (".npz",)
is_lossless = True
takes_axes = True
precedence = 2

_LEAST_SIDE = 16


class _Member(NamedTuple):
    """One array. axes: None where it holds no images. data: all its bytes, then."""

    name: str
    compression: int
    layout: ArrayLayout
    axes: Axes | None
    data: bytes = b""


def probe(stream: BinaryIO, path: Path, axes: str | None = None) -> Contents | None:
    if stream.read(4) != b"PK\3\4":
        return None
    with ZipFile(stream) as archive:
        if not all(info.filename.endswith(".npy") for info in archive.infolist()):
            return None
        members = [_member(archive, info, path, axes) for info in archive.infolist()]
    holding = [member for member in members if member.axes is not None]
    if not holding:
        raise UserError(f"{path} holds no array of {_LEAST_SIDE} x {_LEAST_SIDE} values, or none that --axes fits")
    each = [_contents(member, path) for member in holding]
    first = each[0]
    if len({(one.dtype, one.channels, one.has_alpha) for one in each}) > 1:
        what = ", ".join(f"{member.name[:-4]}: {member.layout.dtype.name}" for member in holding)
        raise UserError(f"{path} holds arrays of several kinds ({what}): save each as a file of its own")
    sizes = [one.size for one in each for _ in range(one.images)]
    return Contents(
        "npz", "NumPy archive", tuple(np.max(sizes, axis=0).tolist()), first.channels, first.dtype, len(sizes),
        first.has_alpha, form=members, sizes=tuple(sizes) if len(set(sizes)) > 1 else (),
    )  # fmt: skip


def _member(archive: ZipFile, info: ZipInfo, path: Path, named: str | None) -> _Member:
    with archive.open(info) as stream:
        layout = read_layout(stream, path / info.filename[:-4])  # type: ignore[arg-type]
        sides = sorted(layout.shape)[-2:]
        is_image = len(layout.shape) == len(named) if named else len(sides) == 2 and sides[0] >= _LEAST_SIDE
        if is_image:
            axes = find_axes(path / info.filename[:-4], layout.shape, named)
            return _Member(info.filename, info.compress_type, layout, axes)
        stream.seek(0)
        return _Member(info.filename, info.compress_type, layout, None, stream.read())


def _contents(member: _Member, path: Path) -> Contents:
    assert member.axes
    return member.axes.contents("npz", "NumPy array", member.layout.dtype, path / member.name[:-4])


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    archive = ZipFile(stream)
    holding = [member for member in contents.form if member.axes]
    ends = list(accumulate(member.axes.images for member in holding))
    opened: dict[int, ArrayReader] = {}

    def image(number: int) -> DecodedImage:
        which = next(place for place, end in enumerate(ends) if number < end)
        if which not in opened:
            opened.clear()
            member = holding[which]
            opened[which] = ArrayReader(archive.open(member.name), member.layout, member.axes)  # type: ignore[arg-type]
        return opened[which](number - ends[which] + holding[which].axes.images)

    return image


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    check_holds(path, contents, "NumPy archive", NUMBERS, images=contents.images)
    members = (
        contents.form if contents.format == "npz" else [_Member("image.npy", ZIP_STORED, *plain_form(path, contents))]
    )
    stack = iter(images)
    with ZipFile(path, "w") as archive:
        for member in members:
            info = ZipInfo(member.name)
            info.compress_type = member.compression
            with archive.open(info, "w", force_zip64=True) as stream:
                if member.axes is None:
                    stream.write(member.data)
                else:
                    write_array(stream, member.layout, member.axes, stack)  # type: ignore[arg-type]
