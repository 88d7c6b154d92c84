"""Images as people hold them, to float arrays and back: NumPy arrays, PIL images, torch tensors.

    noisy, any kind ──► opened() ──► float32 [N, H, W, C] on the 0-1 scale ──► denoised ──► restore() ──► the same kind

Transparency is set aside and put back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from n2s_dist.images.user_files import DecodedImage, upright
from n2s_dist.utils.errors import UserError

# Noise of every level that can be named stays far below these; images of 0 to 255 that are not all but black do not.
_HIGHEST, _HIGHEST_MEAN, _LOWEST_MEAN = 30, 2, -0.25


@dataclass(frozen=True)
class ImageBatch:
    """Images of one size, and how to give them back.

    Args:
        pixels: float32 [N, H, W, C], C = 1 or 3, finite, on the 0-1 scale
        restore: from such an array, which it may overwrite, to the kind and type that was given
        plain: the same without transparency and in float32 always: for standard deviations
        several: whether a batch was given, even one of a single image
    """

    pixels: np.ndarray
    restore: Callable[[np.ndarray], Any]
    plain: Callable[[np.ndarray], Any]
    several: bool


def opened(given: Any) -> ImageBatch:
    """Read images of any kind.

    NumPy arrays: (H, W), (H, W, C) or (N, H, W, C). Tensors: [C, H, W] or [B, C, H, W], on any device. PIL images of
    any mode but I; they are turned upright where their EXIF says so. C is 1 or 3, or 2 or 4 with transparency.
    Floats are on the 0-1 scale, which noise may exceed; uint8 and uint16 are scaled by 255 and 65535.

    Raises UserError for anything else: other shapes and types, no pixels, values that are not finite, and floats
    whose scale is another.
    """
    if isinstance(given, Image.Image):
        return _of_pil(given)
    if isinstance(given, Tensor):
        return _of_tensor(given)
    if isinstance(given, np.ndarray):
        return _of_array(given)
    raise UserError(f"a {type(given).__name__} is no image: give a NumPy array, a PIL image or a torch tensor")


def _of_pil(image: Image.Image) -> ImageBatch:
    if image.mode == "I":
        raise UserError("a PIL image of mode I has no known range: convert it to I;16, L or RGB")
    array = np.asarray(image) if image.mode == "F" else upright(image)
    images = _of_array(array[:, :, 0] if array.shape[2:] == (1,) else array)
    return ImageBatch(images.pixels, lambda pixels: Image.fromarray(images.restore(pixels)), images.plain, False)


def _of_tensor(tensor: Tensor) -> ImageBatch:
    if tensor.dim() not in (3, 4):
        raise UserError(f"a tensor of shape {list(tensor.shape)} is no image: give [C, H, W] or [B, C, H, W]")
    if tensor.shape[-3] not in (1, 2, 3, 4):
        raise UserError(f"a tensor of shape {list(tensor.shape)} has {tensor.shape[-3]} channels: give 1 or 3, first")
    numbers = tensor.detach().movedim(-3, -1).cpu()
    images = _of_array((numbers.float() if numbers.is_floating_point() else numbers).numpy())

    def back(array: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(array).movedim(-1, -3).contiguous().to(tensor.device, dtype)

    def restore(pixels: np.ndarray) -> Tensor:
        return back(images.restore(pixels), tensor.dtype)

    return ImageBatch(images.pixels, restore, lambda pixels: back(images.plain(pixels), torch.float32), images.several)


def _of_array(array: np.ndarray) -> ImageBatch:
    flat = array.ndim == 2
    shaped = array[:, :, None] if flat else array
    if shaped.ndim not in (3, 4) or shaped.shape[-1] not in (1, 2, 3, 4):
        raise UserError(
            f"an array of shape {array.shape} is no image: give (H, W), (H, W, C) or (N, H, W, C), C being 1 or 3"
        )
    if not array.size:
        raise UserError(f"an array of shape {array.shape} holds no pixels")
    several = shaped.ndim == 4
    batch = shaped if several else shaped[None]
    pixels, alpha = DecodedImage.of(batch)
    scale = _scale(array.dtype)
    pixels = np.multiply(pixels, np.float32(1 / scale), dtype=np.float32) if scale else pixels.astype(np.float32)
    _check_values(pixels)

    def shaped_back(values: np.ndarray) -> np.ndarray:
        one = values if several else values[0]
        return one[..., 0] if flat else one

    def restore(pixels: np.ndarray) -> np.ndarray:
        if scale:  # in place: large images leave no room for copies
            np.clip(pixels, 0, 1, out=pixels)
            pixels *= scale
            np.rint(pixels, out=pixels)
        values = pixels.astype(array.dtype)
        return shaped_back(values if alpha is None else np.concatenate([values, alpha], axis=-1))

    return ImageBatch(pixels, restore, shaped_back, several)


def _scale(dtype: np.dtype) -> int:
    """What white is in an integer type; 0 for floats."""
    if dtype in (np.uint8, np.uint16):
        return int(np.iinfo(dtype).max)
    if dtype.kind == "f":
        return 0
    raise UserError(f"values of type {dtype} have no known range: give uint8, uint16, or floats on the 0-1 scale")


def _check_values(pixels: np.ndarray) -> None:
    strange = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
    if strange:
        raise UserError(f"{strange} of {pixels.size} values are not finite: replace them first")
    high, mean = float(pixels.max()), float(pixels.mean(dtype=np.float64))
    if high > _HIGHEST or mean > _HIGHEST_MEAN:
        largest = 255 if high < 1_000 else 65535
        raise UserError(f"floats are on the 0-1 scale, but these go up to {high:.6g}: divide them by {largest}")
    if mean < _LOWEST_MEAN:
        raise UserError(f"floats are on the 0-1 scale, but the mean of these is {mean:.3g}: bring them there first")
