"""Areas without noise in training crops: padding, clipped pixels, mosaics, drawn patterns.

Users' images have such areas: zeros around a registered image, a saturated sky, a blurred face. A network that has only
seen noise everywhere may do anything there. Here crops get some, and where they are is known, so the network can learn
that there is no noise to remove.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from n2s_dist.utils import hashing

_DRAWS = 9  # uniform numbers for each crop
_FIRST_NUMBER = 16  # of the perturbation stream's numbers
_BLOCKS = (2, 4, 8, 16)  # sides of a mosaic's blocks, in pixels


def make_constant(noisy: Tensor, seed: int, positions: np.ndarray, share: float) -> tuple[Tensor, Tensor]:
    """Make an area of some crops constant, clipped, a mosaic or a checkerboard.

    noisy: [B, C, S, S] on the 0-1 scale. positions: int64 [B], global. share: of crops that get an area.
    Returns the crops and where they hold no noise now, bool [B, C, S, S]. A pure function of (seed, position).
    """
    key = positions[:, None].astype(np.uint64)
    words = hashing.hash64(seed, hashing.STREAM_PERTURBATION, key, _FIRST_NUMBER + np.arange(_DRAWS))
    noisy, noiseless = noisy.clone(), torch.zeros(noisy.shape, dtype=torch.bool, device=noisy.device)
    for crop, mask, (chosen, *draws) in zip(noisy, noiseless, (words / 2.0**64).tolist(), strict=True):
        if chosen < share:
            _make_constant(crop, mask, draws)
    return noisy, noiseless


def _make_constant(crop: Tensor, mask: Tensor, draws: list[float]) -> None:
    """Change one crop [C, S, S] in place, and say in its mask where."""
    kind, value, *box = draws
    if kind < 0.25:  # clipped above or below
        low, high = crop.amin(), crop.amax()
        threshold = low + (high - low) * value
        beyond = torch.ge if box[0] < 0.75 else torch.le
        mask.copy_(beyond(crop, threshold))
        crop.copy_(torch.where(mask, threshold, crop))
        return
    rows, columns = _span(crop.shape[1], *box[:2]), _span(crop.shape[2], *box[2:4])
    mask[:, rows, columns] = True
    area = crop[:, rows, columns]
    if kind < 0.5:
        block = _BLOCKS[int(value * len(_BLOCKS))]
        area.copy_(_mosaic(area, block) if kind < 0.4 else _checkerboard(area, block, *box[4:]))
    elif kind < 0.75:
        area.zero_() if value < 0.7 else area.fill_(1.0)
    else:
        area.copy_(torch.tensor([value, *box[4:]])[: len(crop), None, None].expand_as(area))


def _span(side: int, centre: float, size: float) -> slice:
    """A part of `side` pixels, at least one, that often reaches an end of it."""
    half = (0.1 + 0.6 * size) * side
    first = int(max(0, centre * side - half))
    return slice(first, max(first + 1, int(min(side, centre * side + half))))


def _mosaic(area: Tensor, block: int) -> Tensor:
    """Each block's mean in all of its pixels."""
    height, width = area.shape[1:]
    means = F.avg_pool2d(area[None], block, ceil_mode=True)
    return F.interpolate(means, scale_factor=block, mode="nearest")[0, :, :height, :width]


def _checkerboard(area: Tensor, block: int, dark: float, bright: float) -> Tensor:
    """Squares of two brightnesses."""
    rows, columns = (torch.arange(side, device=area.device) // block for side in area.shape[1:])
    return torch.where((rows[:, None] + columns) % 2 == 0, dark, bright).to(area.dtype).expand_as(area)
