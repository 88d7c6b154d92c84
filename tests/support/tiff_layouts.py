"""TIFF files of every layout that people have, written by tifffile, by Pillow or byte by byte, and their images.

`LAYOUTS[name](path)` writes a file and returns a `Written`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

HEIGHT, WIDTH = 24, 37
NEAREST_COLORS = np.stack([np.arange(256), np.arange(256) // 2, 255 - np.arange(256)]).astype(np.uint16) * 257


class Written(NamedTuple):
    """What a layout's file holds.

    images: [H, W, C] each, upright and with 0 for black. alpha: opacity of each, [H, W, 1], or None.
    stored: what tifffile is to read from another such file, by what became of the images.
    """

    images: list[np.ndarray]
    stored: Callable[[list[np.ndarray]], np.ndarray]
    alpha: np.ndarray | None = None


def values(dtype: Any, *shape: int) -> np.ndarray:
    """Random ones of all of a type's range, or of 0 to 1."""
    rng = np.random.default_rng(list(shape))
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def _gray(dtype: Any, **options: Any) -> Callable[[Path], Written]:
    def write(path: Path) -> Written:
        image = values(dtype, HEIGHT, WIDTH)
        tifffile.imwrite(path, image, photometric="minisblack", **options)
        return Written([image[..., None]], lambda found: found[0][:, :, 0])

    return write


def _color(dtype: Any, planar: bool = False, **options: Any) -> Callable[[Path], Written]:
    def write(path: Path) -> Written:
        image = values(dtype, HEIGHT, WIDTH, 3)
        stored = np.moveaxis(image, -1, 0) if planar else image
        layout = "separate" if planar else "contig"
        tifffile.imwrite(path, stored, photometric="rgb", planarconfig=layout, **options)
        return Written([image], lambda found: np.moveaxis(found[0], -1, 0) if planar else found[0])

    return write


def _transparent(dtype: Any, colors: int, kind: str, planar: bool = False) -> Callable[[Path], Written]:
    def write(path: Path) -> Written:
        image = values(dtype, HEIGHT, WIDTH, colors + 1)
        tifffile.imwrite(
            path, np.moveaxis(image, -1, 0) if planar else image, photometric="rgb" if colors == 3 else "minisblack",
            planarconfig="separate" if planar else "contig", extrasamples=[kind],
        )  # fmt: skip
        alpha = image[:, :, colors:]

        def stored(found: list[np.ndarray]) -> np.ndarray:
            whole = np.concatenate([found[0], alpha], axis=-1)
            return np.moveaxis(whole, -1, 0) if planar else whole

        return Written([image[:, :, :colors]], stored, alpha)

    return write


def _channels(dtype: Any, count: int, colors: int = 0, planar: bool = False) -> Callable[[Path], Written]:
    """Channels of unspecified meaning, beyond `colors` that are RGB."""

    def write(path: Path) -> Written:
        image = values(dtype, HEIGHT, WIDTH, count)
        extra = [0] * (count - (colors or 1))
        tifffile.imwrite(
            path, np.moveaxis(image, -1, 0) if planar else image, photometric="rgb" if colors else "minisblack",
            planarconfig="separate" if planar else "contig", extrasamples=extra,
        )  # fmt: skip
        images = [image[:, :, :colors]] if colors else []
        images += [image[:, :, i : i + 1] for i in range(colors, count)]

        def stored(found: list[np.ndarray]) -> np.ndarray:
            whole = np.concatenate(found, axis=-1)
            return np.moveaxis(whole, -1, 0) if planar else whole

        return Written(images, stored)

    return write


def _stack(dtype: Any, *shape: int, **options: Any) -> Callable[[Path], Written]:
    """Gray images, or color where options say so, by tifffile."""
    options = {"photometric": "minisblack", **options}

    def write(path: Path) -> Written:
        color = options["photometric"] == "rgb"
        stack = values(dtype, *shape, HEIGHT, WIDTH, *([3] if color else []))
        tifffile.imwrite(path, stack, **options)
        images = list(stack.reshape(-1, HEIGHT, WIDTH, 3 if color else 1))
        return Written(images, lambda found: np.stack(found).reshape(stack.shape))

    return write


def _pages(path: Path, sizes: list[tuple[int, int]], dtype: Any = np.uint8) -> Written:
    images = [values(dtype, *size) for size in sizes]
    with tifffile.TiffWriter(path) as writer:
        for image in images:
            writer.write(image, metadata=None)
    return Written([image[..., None] for image in images], lambda found: found[0][:, :, 0])


def _pages_of_sizes(path: Path) -> Written:
    return _pages(path, [(HEIGHT, WIDTH), (30, 20), (17, 41)])


def _negative(dtype: Any, **options: Any) -> Callable[[Path], Written]:
    def write(path: Path) -> Written:
        image = values(dtype, HEIGHT, WIDTH)
        highest = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
        tifffile.imwrite(path, (highest - image).astype(dtype), photometric="miniswhite", **options)
        return Written([image[..., None]], lambda found: (highest - found[0][:, :, 0]).astype(dtype))

    return write


def _bits(negative: bool) -> Callable[[Path], Written]:
    def write(path: Path) -> Written:
        image = values(np.uint8, HEIGHT, WIDTH) > 127
        tifffile.imwrite(path, ~image if negative else image, photometric="miniswhite" if negative else "minisblack")
        gray = image[:, :, None].astype(np.uint8) * np.uint8(255)
        return Written([gray], lambda found: 255 - found[0][:, :, 0] if negative else found[0][:, :, 0])

    return write


def _turned(orientation: int, count: int, planar: bool = False) -> Callable[[Path], Written]:
    """As the tag says, turned by rotations and mirrors of whole arrays."""
    back = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90,
    }[orientation]  # fmt: skip

    def write(path: Path) -> Written:
        image = values(np.uint16, HEIGHT, WIDTH, count)
        stored = image[:, :, 0] if count == 1 else np.moveaxis(image, -1, 0) if planar else image
        tifffile.imwrite(
            path, stored, photometric="rgb" if count == 3 else "minisblack", metadata=None,
            planarconfig="separate" if planar else "contig", extratags=[(274, "H", 1, orientation, True)],
        )  # fmt: skip
        upright = np.ascontiguousarray(back(image))

        def again(found: list[np.ndarray]) -> np.ndarray:
            whole = np.concatenate(found, axis=-1)
            return whole[:, :, 0] if count == 1 else np.moveaxis(whole, -1, 0) if planar else whole

        return Written([upright] if count == 3 else list(np.moveaxis(upright, -1, 0)[..., None]), again)

    return write


def _palette(dtype: Any, ramp: bool) -> Callable[[Path], Written]:
    def write(path: Path) -> Written:
        colors = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
        colors = NEAREST_COLORS if ramp else colors
        indices = values(np.uint8, HEIGHT, WIDTH).astype(dtype)
        colormap = np.zeros((3, np.iinfo(dtype).max + 1), np.uint16)
        colormap[:, :256] = colors
        tifffile.imwrite(path, indices, photometric="palette", colormap=colormap)
        if ramp:
            return Written([indices[..., None]], lambda found: found[0][:, :, 0])
        return Written([(colors.T >> 8).astype(np.uint8)[indices]], lambda found: found[0])

    return write


def _pillow(mode: str, **options: Any) -> Callable[[Path], Written]:
    """By Pillow and libtiff."""

    def write(path: Path) -> Written:
        count = {"RGB": 3, "RGBA": 4, "LA": 2}.get(mode, 1)
        image = values(np.uint16 if mode == "I;16" else np.uint8, HEIGHT, WIDTH, count)
        shown = Image.fromarray(image[:, :, 0] if count == 1 else image)
        tags = ImageFileDirectory_v2()
        if options.get("predictor"):
            tags[317] = 2
        shown.save(path, compression=options["compression"], tiffinfo=tags, **options.get("more", {}))
        if options["compression"] == "jpeg":
            image = np.asarray(Image.open(path)).reshape(image.shape)
        alpha = image[:, :, -1:] if count in (2, 4) else None
        colors = image if alpha is None else image[:, :, :-1]

        def stored(found: list[np.ndarray]) -> np.ndarray:
            whole = found[0] if alpha is None else np.concatenate([found[0], alpha], axis=-1)
            return whole[:, :, 0] if whole.shape[-1] == 1 else whole

        return Written([colors], stored, alpha)

    return write


def _pillow_pages(path: Path) -> Written:
    images = [values(np.uint8, HEIGHT, WIDTH, 3), values(np.uint8, HEIGHT, WIDTH, 3) // 2]
    first, second = map(Image.fromarray, images)
    first.save(path, compression="tiff_lzw", save_all=True, append_images=[second])
    return Written(images, np.stack)


def _thumbnail_first(below: bool) -> Callable[[Path], Written]:
    """As raw files have it: a small copy as the first page, the picture below it or behind it."""

    def write(path: Path) -> Written:
        picture = values(np.uint16, HEIGHT, WIDTH, 3)
        small = (picture[::4, ::4] >> 8).astype(np.uint8)
        with tifffile.TiffWriter(path) as writer:
            options = {"photometric": "rgb", "metadata": None}
            writer.write(small, subfiletype=1, subifds=int(below), **options)
            writer.write(picture, subfiletype=0, **options)
        return Written([picture], lambda found: found[0])

    return write


def _pyramid(path: Path) -> Written:
    image = values(np.uint8, 64, 96)
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(image, subifds=1, tile=(16, 16), metadata={"axes": "YX"})
        writer.write(image[::2, ::2], subfiletype=1, tile=(16, 16))
    return Written([image[..., None]], lambda found: found[0][:, :, 0])


def _two_series(path: Path) -> Written:
    first, second = values(np.uint16, 2, HEIGHT, WIDTH), values(np.uint16, 3, HEIGHT, WIDTH)
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(first, metadata={"axes": "ZYX"})
        writer.write(second, metadata={"axes": "TYX"})
    images = [*first, *second]
    return Written([image[..., None] for image in images], lambda found: np.stack(found[:2])[..., 0])


def _packed(bits: int) -> Callable[[Path], Written]:
    """Several values in a byte, or one in several, byte by byte; each row begins a new byte."""

    def write(path: Path) -> Written:
        image = values(np.uint16, HEIGHT, WIDTH) >> (16 - bits)
        planes = [(image >> place) & 1 for place in reversed(range(bits))]
        data = np.packbits(np.stack(planes, axis=-1).reshape(HEIGHT, -1).astype(np.uint8), axis=1).tobytes()
        tags = ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
        about = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: 1, 277: 1, 278: HEIGHT, 279: len(data), 273: 0}
        for tag, value in about.items():
            tags[tag] = value
        path.write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8) + data)  # Pillow counts 273 from the tags' end
        image = image if bits > 8 else (image * (255 // (2**bits - 1))).astype(np.uint8)
        return Written([image[..., None]], lambda found: found[0][:, :, 0])

    return write


def _by_pillow(image: np.ndarray, mode: str, **options: Any) -> Callable[[Path], Written]:
    """A type of values or of colors that only Pillow decodes. image: [H, W] or [H, W, 3]."""

    def write(path: Path) -> Written:
        tags = ImageFileDirectory_v2()
        for tag, value in options.get("tags", {}).items():
            tags[tag] = value
        shown = Image.fromarray(image).convert(mode)
        shown.save(path, compression=options.get("compression"), tiffinfo=tags)
        truth = np.asarray(shown.convert("RGB") if shown.mode == "CMYK" else shown).reshape(HEIGHT, WIDTH, -1)
        if orientation := options.get("tags", {}).get(274):
            truth = np.ascontiguousarray(np.rot90(truth, {6: -1, 8: 1}[orientation]))
        truth = truth.astype(np.uint8) * np.uint8(255) if truth.dtype == bool else truth
        return Written([truth], lambda found: found[0][:, :, 0] if truth.shape[-1] == 1 else found[0])

    return write


_IMAGEJ = {"imagej": True, "resolution": (2.5, 2.5), "metadata": {"unit": "um"}}

LAYOUTS: dict[str, Callable[[Path], Written]] = {
    **{f"gray {np.dtype(d).name}": _gray(d) for d in ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")},
    **{f"big-endian gray {np.dtype(d).name}": _gray(d, byteorder=">") for d in ("u2", "u4", "i2", "f4")},
    **{f"color {np.dtype(d).name}": _color(d) for d in ("u1", "u2", "f4")},
    **{f"planar color {np.dtype(d).name}": _color(d, planar=True) for d in ("u1", "u2", "f4")},
    "big-endian color": _color("u2", byteorder=">"),
    "big-endian planar color": _color("u2", planar=True, byteorder=">"),
    "BigTIFF": _color("u2", bigtiff=True),
    "big-endian BigTIFF": _gray("u2", bigtiff=True, byteorder=">"),
    "deflate": _color("u2", compression="zlib"),
    "deflate, predictor": _color("u2", compression="zlib", predictor=True),
    "deflate, big-endian predictor": _gray("u2", compression="zlib", predictor=True, byteorder=">"),
    "tiles": _color("u1", tile=(16, 16)),
    "deflated planar tiles": _color("u2", planar=True, tile=(16, 16), compression="zlib"),
    "strips": _gray("u2", rowsperstrip=5),
    "LZW": _pillow("RGB", compression="tiff_lzw"),
    "LZW, predictor": _pillow("RGB", compression="tiff_lzw", predictor=True),
    "LZW gray": _pillow("L", compression="tiff_lzw"),
    "LZW of 16 bits": _pillow("I;16", compression="tiff_lzw"),
    "LZW, predictor of 16 bits": _pillow("I;16", compression="tiff_lzw", predictor=True),
    "LZW with transparency": _pillow("RGBA", compression="tiff_lzw"),
    "packbits": _pillow("RGB", compression="packbits"),
    "deflate by libtiff": _pillow("RGB", compression="tiff_adobe_deflate"),
    "JPEG": _pillow("RGB", compression="jpeg", more={"quality": 95}),
    "JPEG gray": _pillow("L", compression="jpeg", more={"quality": 95}),
    "LZW pages": _pillow_pages,
    "LZW MINISWHITE": _by_pillow(values(np.uint8, HEIGHT, WIDTH), "L", compression="tiff_lzw", tags={262: 0}),
    "LZW turned": _by_pillow(values(np.uint8, HEIGHT, WIDTH, 3), "RGB", compression="tiff_lzw", tags={274: 6}),
    "LZW gray turned": _by_pillow(values(np.uint8, HEIGHT, WIDTH), "L", compression="tiff_lzw", tags={274: 8}),
    "LZW floats": _by_pillow(values(np.float32, HEIGHT, WIDTH), "F", compression="tiff_lzw"),
    "LZW floats, predictor": _by_pillow(values(np.float32, HEIGHT, WIDTH), "F", compression="tiff_lzw", tags={317: 3}),
    "LZW bits": _by_pillow(values(np.uint8, HEIGHT, WIDTH), "1", compression="tiff_lzw"),
    "fax": _by_pillow(values(np.uint8, HEIGHT, WIDTH), "1", compression="group4"),
    "zstd": _pillow("RGB", compression="zstd"),
    "LZMA": _pillow("RGB", compression="lzma"),
    "CMYK": _by_pillow(values(np.uint8, HEIGHT, WIDTH, 3), "CMYK"),
    "4 bits": _packed(4),
    "12 bits": _packed(12),
    "transparent": _transparent("u1", 3, "unassalpha"),
    "transparent of 16 bits": _transparent("u2", 3, "unassalpha"),
    "transparent gray": _transparent("u2", 1, "unassalpha"),
    "planar transparent": _transparent("u1", 3, "unassalpha", planar=True),
    **{f"{count} channels": _channels("u1", count) for count in (2, 3, 4, 5)},
    **{f"{count} channels of 16 bits": _channels("u2", count) for count in (2, 4)},
    **{f"{count} planar channels": _channels("u2", count, planar=True) for count in (2, 3, 5)},
    "RGB and one more": _channels("u1", 4, 3),
    "RGB and two more": _channels("u1", 5, 3),
    "planar RGB and two more": _channels("u2", 5, 3, planar=True),
    "pages of tifffile": _stack("u2", 3),
    "axes of tifffile": _stack("u1", 2, 3),
    "color pages": _stack("u1", 2, photometric="rgb"),
    "one directory of tifffile": _stack("u2", 3, truncate=True),
    "one directory of tifffile, with axes": _stack("f4", 2, 3, truncate=True, metadata={"axes": "TZYX"}),
    "pages of several sizes": _pages_of_sizes,
    "ImageJ": _stack("u2", **_IMAGEJ),
    "ImageJ stack": _stack("u2", 4, **_IMAGEJ),
    "ImageJ stack, one directory": _stack("u2", 4, truncate=True, **_IMAGEJ),
    "ImageJ float stack": _stack("f4", 2, **_IMAGEJ),
    "ImageJ hyperstack": _stack("u2", 2, 3, 2, imagej=True, metadata={"axes": "TZCYX", "mode": "composite"}),
    "ImageJ color": _stack("u1", photometric="rgb", imagej=True),
    "OME": _stack("u2", ome=True),
    "OME stack": _stack("u2", 3, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}),
    "OME of five axes": _stack("u1", 2, 3, 2, ome=True, metadata={"axes": "TCZYX"}),
    "OME color": _stack("u1", photometric="rgb", ome=True),
    "OME series": _two_series,
    "OME pyramid": _pyramid,
    "MINISWHITE": _negative("u1"),
    "MINISWHITE of 16 bits": _negative("u2"),
    "MINISWHITE of floats": _negative("f4"),
    "MINISWHITE, deflated": _negative("u2", compression="zlib"),
    "bits": _bits(False),
    "MINISWHITE bits": _bits(True),
    "palette of measured values": _palette("u1", ramp=True),
    "palette of colors": _palette("u1", ramp=False),
    "palette of 16 bits": _palette("u2", ramp=True),
    **{f"turned {orientation}": _turned(orientation, 3) for orientation in range(2, 9)},
    "turned gray": _turned(6, 1),
    "turned planar": _turned(8, 3, planar=True),
    "turned channels": _turned(5, 2),
    "thumbnail, picture below": _thumbnail_first(True),
    "thumbnail, picture behind": _thumbnail_first(False),
}


# --- layouts that are refused -------------------------------------------------------------------------------


def _volume(path: Path) -> None:
    stack = values(np.uint8, 16, 32, 48)
    tifffile.imwrite(path, stack, photometric="minisblack", volumetric=True, tile=(16, 16, 16))


def _mosaic(path: Path) -> None:
    pattern = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)]
    tifffile.imwrite(path, values(np.uint16, HEIGHT, WIDTH), photometric="cfa", extratags=pattern)


def _of_type(dtype: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, values(np.uint8, HEIGHT, WIDTH).astype(dtype))


def _gray_and_color(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(values(np.uint8, HEIGHT, WIDTH), metadata=None)
        writer.write(values(np.uint8, HEIGHT, WIDTH, 3), photometric="rgb", metadata=None)


def _one_of_a_set(path: Path) -> None:
    tifffile.imwrite(path, values(np.uint8, HEIGHT, WIDTH), ome=True)
    text = tifffile.tiffcomment(path)
    parts = "".join(
        f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{n}.ome.tif">urn:uuid:{n}</UUID></TiffData>' for n in "ab"
    )
    tifffile.tiffcomment(path, text.replace("</Pixels>", f"{parts}</Pixels>").encode())


def _cut(lost: int, **options: Any) -> Callable[[Path], None]:
    """A file without its last bytes."""

    def write(path: Path) -> None:
        tifffile.imwrite(path, values(np.uint16, 4, HEIGHT, WIDTH), photometric="minisblack", **options)
        path.write_bytes(path.read_bytes()[:-lost])

    return write


def _cut_page(path: Path) -> None:
    tifffile.imwrite(path, values(np.uint16, HEIGHT, WIDTH), metadata=None)
    path.write_bytes(path.read_bytes()[:-100])


# By name: what writes it, and the words that name what is wrong.
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "volume": (_volume, "holds a volume in one page"),
    "mosaic of a sensor": (_mosaic, "holds a sensor's raw colors"),
    "complex": (_of_type("c8"), "has values of type complex64"),
    "int64": (_of_type("i8"), "has values of type int64"),
    "gray and color": (_gray_and_color, "has pages of different kinds"),
    "one of a set": (_one_of_a_set, "is one of 2 files of an OME set"),
    "ImageJ stack, cut short": (_cut(3000, imagej=True, truncate=True), "said to hold 4 images, but has 1"),
    "pages, cut short": (_cut(100, metadata=None), "is not a readable image (it ends at byte"),
    "page, cut short": (_cut_page, "can't be decoded (it ends at byte"),
    "ImageJ pages, cut short": (_cut(5000, imagej=True), "is not a readable image (page 2 is said to begin at byte"),
    "only its first bytes": (lambda path: path.write_bytes(b"II*\0"), "it ends at byte 4"),
    "no pages": (lambda path: path.write_bytes(b"II*\0" + bytes(8)), "is not a readable image"),
    "noise": (lambda path: path.write_bytes(b"MM\0*\0\0\0\x08" + bytes(range(256)) * 9), "is not a readable image"),
}
