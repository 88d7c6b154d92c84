"""OpenEXR: half and float. Each layer with R, G and B is an image, of all parts; else each with Y; else each channel.

What is written is the file with other pixels in these channels: names, types, windows and all other words and channels
stay. Compression that loses something becomes ZIP.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from n2s_dist.images.decoded import Contents, DecodedImage, check_holds
from n2s_dist.images.exr_header import MAGIC, Part, read_parts
from n2s_dist.images.native_messages import damage_printed
from n2s_dist.images.optional import needed
from n2s_dist.utils.errors import UserError

suffixes = (".exr",)
is_lossless = True
precedence = 1

_EXTRA = "raw"
_LOSSY = {5: "PXR24", 6: "B44", 7: "B44A", 8: "DWAA", 9: "DWAB"}  # compressions; PXR24 of floats alone
_NAMES = {1: ("Y",), 2: ("Y", "A"), 3: ("R", "G", "B"), 4: ("R", "G", "B", "A")}
_MOST_NAMED = 5
_DAMAGE = "Exception raised"  # the package goes on after this


class Layer(NamedTuple):
    """Where an image is: the part's number, and its channels' names, opacity last where there is one."""

    part: int
    names: tuple[str, ...]

    @property
    def has_alpha(self) -> bool:
        return len(self.names) % 2 == 0


@dataclass(frozen=True)
class _Form:
    """stream: the file, all of which is decoded once, and written again. layers: its images."""

    stream: BinaryIO
    exr: Any
    parts: list[Part]
    layers: list[Layer]

    @cached_property
    def file(self) -> Any:
        return self.decode()

    def decode(self) -> Any:
        self.stream.seek(0)
        with damage_printed(_DAMAGE):
            return self.exr.File(self.stream, True)


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    if stream.read(len(MAGIC)) != MAGIC:
        return None
    exr = needed("OpenEXR", path, _EXTRA)
    parts = read_parts(stream)
    if any(part.is_deep for part in parts):
        raise UserError(f"{path} is deep, with several values at a pixel: flatten it first")
    if any(part.has_copies for part in parts):
        raise UserError(f"{path} holds smaller copies of its images, which would no longer fit: save it without them")
    layers = _layers(parts)
    if not layers:
        raise UserError(f"{path} has no channel of halfs or floats with a value at each pixel")
    kinds = {_dtype(parts, layer) for layer in layers}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.name for kind in kinds))
        raise UserError(f"{path} has layers of several types ({names}): save each as a file of its own")
    sizes = [parts[layer.part].size for layer in layers]
    lossy = [name for part in parts if (name := _lossy_name(part))]
    return Contents(
        format="exr",
        kind="OpenEXR of several layers" if len(layers) > 1 else "OpenEXR",
        size=tuple(np.max(sizes, axis=0).tolist()),
        channels=3 if len(layers[0].names) > 2 else 1,
        dtype=kinds.pop(),
        images=len(layers),
        has_alpha=layers[0].has_alpha,
        is_lossy=bool(lossy),
        form=_Form(stream, exr, parts, layers),
        notes=(*_kept(parts, layers), *(f"its compression ({name}) becomes ZIP" for name in lossy[:1])),
        sizes=tuple(sizes) if len(set(sizes)) > 1 else (),
        is_open_ended=True,
    )


def _layers(parts: list[Part]) -> list[Layer]:
    """The images of a file: colors, or brightness where there is no color, or all channels."""
    for letters in ("RGB", "Y"):
        found = []
        for number, part in enumerate(parts):
            there = {channel.name: channel for channel in part.channels if channel.is_whole}
            for name in sorted({channel.layer for channel in there.values()}):
                prefix = f"{name}." if name else ""
                own = [there.get(prefix + letter) for letter in letters]
                kinds = {channel.dtype for channel in own if channel}
                if None in own or len(kinds) > 1 or np.dtype(np.uint32) in kinds:
                    continue
                alpha = there.get(f"{prefix}A")
                more = ("A",) if alpha and {alpha.dtype} == kinds else ()
                found.append(Layer(number, tuple(prefix + letter for letter in (*letters, *more))))
        if found:  # opacity in all of them or none
            whole = all(layer.has_alpha for layer in found)
            return found if whole else [Layer(part, names[: len(letters)]) for part, names in found]
    return [
        Layer(number, (channel.name,))
        for number, part in enumerate(parts)
        for channel in part.channels
        if channel.is_whole and channel.dtype.kind == "f"
    ]


def _dtype(parts: list[Part], layer: Layer) -> np.dtype:
    return next(channel.dtype for channel in parts[layer.part].channels if channel.name == layer.names[0])


def _lossy_name(part: Part) -> str | None:
    is_lossy = part.compression in _LOSSY
    if _LOSSY.get(part.compression) == "PXR24":
        is_lossy = any(channel.dtype == np.float32 for channel in part.channels)
    return _LOSSY[part.compression] if is_lossy else None


def _kept(parts: list[Part], layers: list[Layer]) -> list[str]:
    """What to know of what is no image."""
    denoised = {(layer.part, name) for layer in layers for name in layer.names}
    others = [channel.name for number, part in enumerate(parts) for channel in part.channels
              if (number, channel.name) not in denoised]  # fmt: skip
    more = ", ..." if len(others) > _MOST_NAMED else ""
    return [f"its other channels ({', '.join(others[:_MOST_NAMED])}{more}) are kept as they are"] if others else []


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    form: _Form = contents.form

    def image(number: int) -> DecodedImage:
        layer = form.layers[number]
        found = form.file.parts[layer.part].channels
        planes = [np.asarray(found[name].pixels) for name in layer.names]
        if any(plane.shape != contents.size_of(number) or plane.dtype != contents.dtype for plane in planes):
            raise ValueError("its channels are not what its header says")
        return DecodedImage.of(np.stack(planes, axis=-1))

    return image


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    check_holds(path, contents, "OpenEXR", ("float16", "float32"), images=contents.images)
    if contents.format != "exr":
        _write_plain(path, images, contents)
        return
    form: _Form = contents.form
    file = form.decode()  # another one than is read from meanwhile
    for layer, image in zip(form.layers, images, strict=True):
        channels = file.parts[layer.part].channels
        joined = image.joined()
        for place, name in enumerate(layer.names):
            channels[name].pixels[...] = joined[:, :, place]
    for part, said in zip(file.parts, form.parts, strict=True):
        if _lossy_name(said):
            part.header["compression"] = form.exr.ZIP_COMPRESSION
    file.write(os.fsencode(path))


def _write_plain(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    """A new file, from one image of another format."""
    exr = needed("OpenEXR", path, _EXTRA)
    if contents.images > 1:
        raise UserError(f"{path} can't hold {contents.images} images of another format: end it in .tif")
    (image,) = images
    joined = image.joined().astype(contents.dtype)
    names = _NAMES[joined.shape[-1]]
    planes = {name: np.ascontiguousarray(joined[:, :, place]) for place, name in enumerate(names)}
    exr.File({"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}, planes).write(os.fsencode(path))
