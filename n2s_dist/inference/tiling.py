"""Denoise images of any size: whole, in tiles that no one can tell from the whole, or one tile alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from n2s_dist.distributed.precision import full_precision
from n2s_dist.models.image_batches import from_batch, to_batch
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel

TILE = 768  # side in pixels


class Box(NamedTuple):
    """A rectangle of pixels; bottom and right are the first row and column past it."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of(cls, size: tuple[int, int]) -> "Box":
        """All of an image of (height, width)."""
        return cls(0, 0, *size)

    @property
    def pixels(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def grown(self, by: int, size: tuple[int, int]) -> "Box":
        """With `by` more pixels on each side, as far as an image of (height, width) has them."""
        bottom, right = min(size[0], self.bottom + by), min(size[1], self.right + by)
        return Box(max(0, self.top - by), max(0, self.left - by), bottom, right)

    def tiles(self, height: int, width: int) -> list["Box"]:
        """Tiles that cover it, of height x width but for the last of each row and column."""
        return [
            Box(top, left, min(self.bottom, top + height), min(self.right, left + width))
            for top in range(self.top, self.bottom, height)
            for left in range(self.left, self.right, width)
        ]

    def of_array(self, pixels: np.ndarray, origin: "Box | None" = None) -> np.ndarray:
        """Its part of images [..., H, W, C], or of what `origin` has of them."""
        top, left = (origin.top, origin.left) if origin else (0, 0)
        return pixels[..., self.top - top : self.bottom - top, self.left - left : self.right - left, :]


class ReceptiveField(NamedTuple):
    """How far a network sees, in pixels: radius around one of its output pixels, and the grid it resamples on.

    radius: None for a network that sees all of an image from each pixel.
    """

    radius: int | None
    grid: int

    @classmethod
    def of(cls, model: ScoreModel) -> "ReceptiveField":
        network = model.network
        return cls(network.receptive_radius, network.multiple)  # type: ignore[arg-type]

    def on_grid(self, length: int) -> int:
        """A length rounded up to the grid."""
        return -(-length // self.grid) * self.grid

    def tiles(self, size: tuple[int, int], tile: int) -> list[Box]:
        """What to compute one after the other of an image of (height, width): tiles of about `tile` x `tile` pixels.

        One box where each would take all of the image.
        """
        side = self.on_grid(tile)
        return [Box.of(size)] if self.radius is None else Box.of(size).tiles(side, side)

    def around(self, box: Box, size: tuple[int, int]) -> Box:
        """What to compute so that `box` never sees where its image was cut.

        It begins on the network's own grid, and ends on the grid that begins at the image's other end, which is the
        network's for an image that was flipped.
        """
        if self.radius is None:
            return Box.of(size)
        top, left = (max(0, (side - self.radius) // self.grid * self.grid) for side in (box.top, box.left))
        beyond = size[0] - box.bottom - self.radius, size[1] - box.right - self.radius
        bottom, right = (side - max(0, rest // self.grid * self.grid) for side, rest in zip(size, beyond, strict=True))
        return Box(top, left, bottom, right)


@full_precision
@torch.no_grad()
def denoise_whole(model: ScoreModel, noisy: np.ndarray, noise: NoiseModel) -> np.ndarray:
    """Posterior mean of images of one size in one piece.

    noisy: float [H, W, C] or [B, H, W, C] on the 0-1 scale; returns float32, unclamped.
    """
    batch = to_batch(noisy, next(model.parameters()).device)
    return from_batch(model.denoise(batch, noise)).reshape(noisy.shape)


def denoise_box(model: ScoreModel, noisy: np.ndarray, noise: NoiseModel, box: Box) -> np.ndarray:
    """What denoise_whole gives for `box`, to rounding, from no more than a margin around it: [..., h, w, C]."""
    wide = ReceptiveField.of(model).around(box, noisy.shape[-3:-1])
    return box.of_array(denoise_whole(model, wide.of_array(noisy), noise), wide)


def denoise_tiled(
    model: ScoreModel,
    noisy: np.ndarray,
    noise: NoiseModel,
    tile: int = TILE,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """The same as denoise_whole to rounding, in memory bounded by the tile where the network's reach has a bound.

    progress: called with the number of pixels of each tile that is done.

    Each tile is computed with a margin as wide as the network's receptive field, so that what it keeps
    never saw the tile's border, and from a corner on the network's own grid.
    """
    out = np.empty(noisy.shape, np.float32)
    for box in ReceptiveField.of(model).tiles(noisy.shape[-3:-1], tile):
        box.of_array(out)[:] = denoise_box(model, noisy, noise, box)
        if progress:
            progress(box.pixels * (len(noisy) if noisy.ndim == 4 else 1))
    return out
