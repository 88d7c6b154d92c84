"""Images as people hold them, to float arrays and back: NumPy arrays, PIL images, torch tensors.

    noisy, any kind ──► opened() ──► float32 [N, H, W, C] on the 0-1 scale ──► denoised ──► restore() ──► the same kind

Transparency is set aside and put back, and so are values that are missing: NaN, masked, or far beyond white.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from n2s_dist.images.decoded import DecodedImage
from n2s_dist.images.missing import fill_missing
from n2s_dist.images.pillow import decode_pillow, raw_mode, subsamples_chroma, to_pillow
from n2s_dist.images.scale import Scale, check_on_unit_scale, find_scale
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.memory import available_bytes

BYTES_PER_VALUE = 16  # besides the image's own: floats in and out, and what is made of them on the way
_FEW = 2**24  # values that always fit
# TIFF's tags.
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _PLANAR, _CHILDREN, _SAMPLE_FORMAT = 254, 258, 262, 284, 330, 339
_HOT = 2  # twice white: no light does that


@dataclass(frozen=True)
class ImageBatch:
    """Images of one size, and how to give them back.

    Args:
        pixels: float32 [N, H, W, C], C = 1 or 3, finite, on the 0-1 scale
        restore: from such an array, which it may overwrite, to the kind and type that was given
        plain: the same without transparency and in float32 always: for standard deviations
        several: whether a batch was given, even one of a single image
        missing: bool of the shape of `pixels`, where those are only filled in; None where all are there
        has_offset: whether the user said what black is, below which a sensor's own noise goes
        chroma_subsampled: whether color is known to have gone through JPEG at half its resolution
        repaired: bool of the shape of `pixels`, the missing ones that are given back denoised (hot_pixels.py); None
            where none were to be
    """

    pixels: np.ndarray
    restore: Callable[[np.ndarray], Any]
    plain: Callable[[np.ndarray], Any]
    several: bool
    missing: np.ndarray | None = None
    has_offset: bool = False
    chroma_subsampled: bool = False
    repaired: np.ndarray | None = None

    @property
    def channels(self) -> int:
        return self.pixels.shape[-1]

    @property
    def gaps(self) -> list[np.ndarray | None]:
        """`missing` of each image."""
        return [None] * len(self.pixels) if self.missing is None else list(self.missing)


def opened(
    given: Any,
    white: float | None = None,
    black: float | None = None,
    chroma_subsampled: bool | None = None,
    repair_hot_pixels: bool = False,
) -> ImageBatch:
    """Read images of any kind.

    NumPy arrays: (H, W), (H, W, C) or (N, H, W, C). Tensors: [C, H, W] or [B, C, H, W], on any device. PIL images of
    any mode; they are turned upright where their EXIF says so. C is 1 or 3, or 2 or 4 with transparency.
    Floats are on the 0-1 scale, which noise may exceed; uint8 and uint16 are scaled by 255 and 65535; int8 begins at
    -128.
    white, black: the values that become 1 and 0, for other types and for data that fill a part of theirs.
    chroma_subsampled: None asks a PIL image.
    repair_hot_pixels: whether values beyond twice white are given back denoised; else they come back as they were.

    Raises UserError for anything else: other shapes and types, no pixels, infinite values, and values whose scale is
    another or can't be known.
    """
    _check_memory(given)
    if isinstance(given, Image.Image):
        images = _of_pil(given, white, black, repair_hot_pixels)
        chroma_subsampled = subsamples_chroma(given) if chroma_subsampled is None else chroma_subsampled
    elif isinstance(given, Tensor):
        images = _of_tensor(given, white, black, repair_hot_pixels)
    elif isinstance(given, np.ndarray):
        images = _of_array(given, white, black, repair_hot_pixels)
    else:
        raise UserError(f"a {type(given).__name__} is no image: give a NumPy array, a PIL image or a torch tensor")
    return replace(images, chroma_subsampled=bool(chroma_subsampled))


def _check_memory(given: Any) -> None:
    """UserError for what can't fit into memory once it is floats, before any of it is made."""
    if isinstance(given, Image.Image):
        values = math.prod(given.size) * len(given.getbands())
    else:
        values = math.prod(getattr(given, "shape", ()))
    check_fits(values, BYTES_PER_VALUE)


def check_fits(values: int, bytes_per_value: int) -> None:
    """UserError where an image of so many values, samples counted, can't fit into memory."""
    need, free = values * bytes_per_value, available_bytes() if values > _FEW else None
    if free is not None and need > free:
        raise UserError(
            f"an image of {values:,} values takes {need / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} are free: "
            "take a part of it, or a machine with more"
        )


def stacked(images: list[Any]) -> Any:
    """Of arrays or tensors one, with a first axis more; a list of PIL images as it is; None for none."""
    if not images or isinstance(images[0], Image.Image):
        return images or None
    if isinstance(images[0], Tensor):
        return torch.stack(images)
    return np.ma.stack(images) if isinstance(images[0], np.ma.MaskedArray) else np.stack(images)


def luma(images: ImageBatch) -> ImageBatch:
    """The luma of color images (ITU-R 601), to estimate noise from."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    missing = None if images.missing is None else np.any(images.missing, axis=-1, keepdims=True)
    return replace(images, pixels=images.pixels @ weights[:, None], missing=missing)


def one_plane(images: ImageBatch) -> ImageBatch | None:
    """The gray images that color ones hold in three equal channels, or in some of them, the others being constant.

    None where the channels differ, and where all are constant.
    """
    pixels = images.pixels
    if images.channels != 3:
        return None
    flat = [channel for channel in range(3) if np.ptp(pixels[..., channel], axis=(1, 2)).max() == 0]
    first, *others = [channel for channel in range(3) if channel not in flat] or [-1]
    planes = pixels if images.missing is None else np.where(images.missing, np.float32(np.nan), pixels)
    if first < 0 or any(not np.array_equal(planes[..., first], planes[..., other], True) for other in others):
        return None

    def spread(plane: np.ndarray, constants: np.ndarray) -> np.ndarray:
        whole = np.repeat(plane, 3, axis=-1)
        whole[..., flat] = constants[..., flat]
        return whole

    return replace(
        images,
        chroma_subsampled=False,
        pixels=np.ascontiguousarray(pixels[..., first : first + 1]),
        restore=lambda plane: images.restore(spread(plane, pixels)),
        plain=lambda plane: images.plain(spread(plane, np.zeros_like(pixels))),
        missing=None if images.missing is None else images.missing[..., first : first + 1],
        repaired=None if images.repaired is None else images.repaired[..., first : first + 1],
    )


def _of_pil(image: Image.Image, white: float | None, black: float | None, repair: bool) -> ImageBatch:
    if image.mode == "I" and white is None:
        raise UserError("a PIL image of mode I has no known range: give white=, or convert it to I;16, L or RGB")
    if _hides_transparency(image):
        raise UserError(
            "a PIL image can't hold which pixels of 16 bits are transparent: denoise the file itself, or remove "
            'info["transparency"]'
        )
    if wrong := _misread(image):
        raise UserError(
            f"Pillow reads this TIFF wrongly, {wrong}: denoise the file itself, or what tifffile reads of it"
        )
    plain = image.mode in ("F", "I")
    picture = DecodedImage(np.asarray(image)[:, :, None]) if plain else decode_pillow(image)
    array = picture.joined()
    images = _of_array(array[:, :, 0] if array.shape[2] == 1 else array, white, black, repair)

    def restore(pixels: np.ndarray) -> Image.Image:
        found = images.restore(pixels)
        found = to_pillow(found[:, :, None] if found.ndim == 2 else found, picture.palette)
        turned = ImageOps.exif_transpose(image).info if image.getexif().get(0x0112, 1) != 1 else image.info
        found.info = {key: value for key, value in turned.items() if key in ("icc_profile", "dpi", "exif", "xmp")}
        return found

    return replace(images, restore=restore)


def _hides_transparency(image: Image.Image) -> bool:
    """Whether one color of 16 bits is transparent, which Pillow compares with 8 of them, or drops."""
    color = image.info.get("transparency")
    if color is None or image.mode not in ("RGB", "I;16", "I;16B"):
        return False
    is_deep = bool(getattr(image, "tile", None)) and raw_mode(image.tile[0]).startswith("RGB;16")  # type: ignore[attr-defined]
    return image.mode != "RGB" or is_deep or max(color) > 255


def _misread(image: Image.Image) -> str:
    """What Pillow has made of a TIFF's values that they are not; empty where all is right or nobody knows."""
    tags = getattr(image, "tag_v2", {})
    if image.mode == "L" and 2 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)):
        return "signed values as unsigned ones"
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:
        return "black as white"
    bits = np.max(tags.get(_BITS, 8))
    if tags.get(_PLANAR) == 2 and bits > 8 and image.mode in ("RGB", "RGBA", "CMYK"):
        return f"planes of {bits} bits as planes of 8"
    if tags.get(_SUBFILE_TYPE, 0) & 1 and image.tell() == 0 and (_CHILDREN in tags or image.n_frames > 1):  # type: ignore[attr-defined]
        return "its thumbnail in place of the picture"
    return ""


def _of_tensor(tensor: Tensor, white: float | None, black: float | None, repair: bool) -> ImageBatch:
    if tensor.dim() not in (3, 4):
        raise UserError(f"a tensor of shape {list(tensor.shape)} is no image: give [C, H, W] or [B, C, H, W]")
    if tensor.shape[-3] not in (1, 2, 3, 4):
        raise UserError(f"a tensor of shape {list(tensor.shape)} has {tensor.shape[-3]} channels: give 1 or 3, first")
    numbers = tensor.detach().movedim(-3, -1).cpu()
    images = _of_array((numbers.float() if numbers.is_floating_point() else numbers).numpy(), white, black, repair)

    def back(array: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(array).movedim(-1, -3).contiguous().to(tensor.device, dtype)

    return replace(
        images,
        restore=lambda pixels: back(images.restore(pixels), tensor.dtype),
        plain=lambda pixels: back(images.plain(pixels), torch.float32),
    )


def _of_array(given: np.ndarray, white: float | None, black: float | None, repair: bool) -> ImageBatch:
    flat = given.ndim == 2
    shaped = given[:, :, None] if flat else given
    if shaped.ndim not in (3, 4) or shaped.shape[-1] not in (1, 2, 3, 4):
        raise UserError(
            f"an array of shape {given.shape} is no image: give (H, W), (H, W, C) or (N, H, W, C), C being 1 or 3"
        )
    if not given.size:
        raise UserError(f"an array of shape {given.shape} holds no pixels")
    several = shaped.ndim == 4
    values, alpha, _ = DecodedImage.of(shaped if several else shaped[None])
    scale = find_scale(values, white, black)
    masked = np.ma.getmask(values)
    values = np.ma.getdata(values)
    pixels = _to_unit(values, scale)
    gone = (np.isnan(pixels) if values.dtype.kind == "f" else np.zeros((), bool)) | masked
    hot = np.zeros((), bool) if white is None else (pixels > _HOT) & ~gone
    missing = gone | hot
    check_on_unit_scale(pixels, missing)
    gaps = missing if missing.any() else None
    if gaps is not None:
        fill_missing(pixels, gaps)
    kept = gone if repair else missing
    repaired = np.broadcast_to(hot, pixels.shape) if repair else None

    def shaped_back(array: np.ndarray) -> np.ndarray:
        one = array if several else array[0]
        return one[..., 0] if flat else one

    def restore(pixels: np.ndarray) -> np.ndarray:
        found = _from_unit(pixels, scale, values)
        if kept.any():
            found[kept] = values[kept]
        back = shaped_back(found if alpha is None else np.concatenate([found, np.ma.getdata(alpha)], axis=-1))
        if not isinstance(given, np.ma.MaskedArray):
            return back
        return np.ma.masked_array(back, np.ma.getmask(given), fill_value=given.fill_value)

    def plain(deviations: np.ndarray) -> np.ndarray:
        if kept.any():
            deviations[kept] = np.nan
        return shaped_back(deviations)

    return ImageBatch(pixels, restore, plain, several, gaps, has_offset=black is not None, repaired=repaired)


def _to_unit(values: np.ndarray, scale: Scale | None) -> np.ndarray:
    """Float32 on the 0-1 scale; always a copy."""
    if scale is None:
        return values.astype(np.float32)
    if scale.black == 0:
        return np.multiply(values, np.float32(1 / scale.white), dtype=np.float32)
    moved = np.subtract(values, scale.black, dtype=np.float32 if values.itemsize <= 2 else np.float64)
    return np.multiply(moved, np.float32(1 / scale.span), dtype=np.float32)


def _from_unit(pixels: np.ndarray, scale: Scale | None, values: np.ndarray) -> np.ndarray:
    """Of the type of `values`, which those were; integers rounded, and no higher than white or the highest of them."""
    if scale is None:
        return pixels.astype(values.dtype)
    if values.dtype.kind == "f" or values.itemsize > 2:
        pixels = pixels.astype(np.float64)
    pixels *= scale.span  # in place: large images leave no room for copies
    pixels += scale.black
    if values.dtype.kind != "f":
        np.clip(pixels, np.iinfo(values.dtype).min, max(scale.white, values.max()), out=pixels)
        np.rint(pixels, out=pixels)
    return pixels.astype(values.dtype)
