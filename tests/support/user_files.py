"""One small file of each kind that users have, and what is in it: for denoise, for build-shards and for the API."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from support.deep_png import write_16_bit_png
from support.tiff_layouts import HEIGHT, LAYOUTS, NEAREST_COLORS, REFUSED, WIDTH, values


class UserFile(NamedTuple):
    """A file that was written.

    Args:
        images: what is to be denoised, [H, W, C] each, or the words of a refusal
        tile: uint8 [H, W, C] that shards are to hold, one for each of several images, or the words of a refusal
        alpha: opacity of the first image, which stays
        white: of the images, where their type does not say it
    """

    images: list[np.ndarray] | str
    tile: np.ndarray | list[np.ndarray] | str
    alpha: np.ndarray | None = None
    white: float | None = None


def _of_layout(name: str, tile: Callable[[np.ndarray], np.ndarray] | str, white: float | None = None) -> Callable:
    """A TIFF layout. tile: what shards make of its only image, or why they do not take it."""

    def write(path: Path) -> UserFile:
        written = LAYOUTS[name](path)
        found = tile if isinstance(tile, str) else [tile(image) for image in written.images]
        found = found[0] if len(found) == 1 else found
        return UserFile(written.images, found, written.alpha, white)

    return write


def _of_refused(name: str) -> Callable:
    def write(path: Path) -> UserFile:
        REFUSED[name][0](path)
        return UserFile(REFUSED[name][1], REFUSED[name][1])

    return write


def _eight_bits(image: np.ndarray) -> np.ndarray:
    return np.round(image / 257).astype(np.uint8)


def _from_signed(image: np.ndarray) -> np.ndarray:
    return (image.astype(int) + 128).astype(np.uint8)


def _fire(image: np.ndarray) -> np.ndarray:
    return (NEAREST_COLORS.T >> 8).astype(np.uint8)[image[:, :, 0]]


def _deep_png(channels: int, transparent: tuple[int, ...] = ()) -> Callable:
    def write(path: Path) -> UserFile:
        image = values(np.uint16, HEIGHT, WIDTH, channels)
        if transparent:
            image[2, 3] = transparent
        write_16_bit_png(path, image, transparent)
        colors = image if channels % 2 else image[:, :, :-1]
        alpha = None if channels % 2 else image[:, :, -1:]
        if transparent:
            alpha = np.where((image == transparent).all(axis=-1, keepdims=True), 0, 65535).astype(np.uint16)
        return UserFile([colors], "has 16 bits a channel: convert it to 8 bits first", alpha)

    return write


def _talkative_png(path: Path) -> UserFile:
    """With text and a profile longer than Pillow takes by default."""
    image = values(np.uint8, HEIGHT, WIDTH, 3)
    info = PngImagePlugin.PngInfo()
    info.add_text("Data", "x" * (3 << 20), zip=True)
    Image.fromarray(image).save(path, pnginfo=info, icc_profile=bytes(range(256)) * 8192)
    return UserFile([image], image)


def _huge_png(path: Path) -> UserFile:
    """A header of 300,000 x 300,000 pixels."""
    head = struct.pack(">IIBBBBB", 300_000, 300_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return UserFile("has 300000 x 300000 pixels, which take", "has 300000 x 300000 pixels, which take")


def _turned_jpeg(path: Path) -> UserFile:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    exif = Image.Exif()
    exif[274] = 6
    smooth = np.stack([40 + 5 * y, 60 + 4 * x, 100 + 2 * y + x], axis=2).astype(np.uint8)
    Image.fromarray(smooth).save(path, quality=95, exif=exif)
    image = np.ascontiguousarray(np.rot90(np.asarray(Image.open(path)), -1))
    return UserFile([image], image)


def _part_of_16_bits(hot: int | None) -> Callable:
    """A camera's values, with one hot pixel or none."""

    def write(path: Path) -> UserFile:
        image = 100 + values(np.uint8, HEIGHT, WIDTH).astype(np.uint16)
        if hot:
            image[5, 5] = hot
        tifffile.imwrite(path, image)
        return UserFile("say what white is", "does not say what white is")

    return write


USER_FILES: dict[str, Callable[[Path], UserFile]] = {
    "f32.tif": _of_layout("gray float32", "has values of type float32"),
    "g16_big_be.tif": _of_layout("big-endian gray uint16", _eight_bits),
    "g16_miniswhite.tif": _of_layout("MINISWHITE of 16 bits", _eight_bits),
    "hot.tif": _part_of_16_bits(65535),
    "scmos.tif": _part_of_16_bits(None),
    "i8_signed.tif": _of_layout("gray int8", _from_signed),
    "ij_stack_one_directory.tif": _of_layout("ImageJ stack, one directory", _eight_bits),
    "ome_stack.tif": _of_layout("OME stack", _eight_bits),
    "lut_fire.tif": _of_layout("palette of measured values", _fire),
    "lut_colors.tif": _of_layout("palette of colors", np.asarray),
    "m16_2ch_contig.tif": _of_layout("2 channels of 16 bits", _eight_bits),
    "m16_3ch_planar.tif": _of_layout("3 planar channels", _eight_bits),
    "m8_2ch_contig.tif": _of_layout("2 channels", np.asarray),
    "m8_4ch_black.tif": _of_layout("4 channels", np.asarray),
    "m8_5ch_rgb.tif": _of_layout("RGB and two more", np.asarray),
    "r8_4ch_unspec.tif": _of_layout("RGB and one more", np.asarray),
    "r16_planar.tif": _of_layout("planar color uint16", "has 16 bits a channel: convert it to 8 bits first"),
    "r8_planar.tif": _of_layout("planar color uint8", np.asarray),
    "raw_thumb_first.tif": _of_layout("thumbnail, picture below", "has 16 bits a channel"),
    "transparent.tif": _of_layout("transparent", "is transparent in places: flatten it onto a background first"),
    "turned.tif": _of_layout("turned 6", "has 16 bits a channel"),
    "lzw.tif": _of_layout("LZW", np.asarray),
    "lzw_turned.tif": _of_layout("LZW turned", np.asarray),
    "jpeg_inside.tif": _of_layout("JPEG", np.asarray),
    "bits.tif": _of_layout("MINISWHITE bits", np.asarray),
    "12_bits.tif": _of_layout("12 bits", lambda image: np.round(image / 4095 * 255).astype(np.uint8), white=4095),
    "volume.tif": _of_refused("volume"),
    "mosaic.tif": _of_refused("mosaic of a sensor"),
    "cut_stack.tif": _of_refused("ImageJ stack, cut short"),
    "gray_and_color.tif": _of_refused("gray and color"),
    "p16_la.png": _deep_png(2),
    "p16_l_trns.png": _deep_png(1, (700,)),
    "p16_rgb_trns.png": _deep_png(3, (70, 2000, 9)),
    "p8_bigtext_bigicc.png": _talkative_png,
    "bomb.png": _huge_png,
    "turned.jpg": _turned_jpeg,
}
