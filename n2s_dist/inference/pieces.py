"""Which pixels of an image its noise is estimated from.

    image ──► four squares in fixed places, where they hold data
          └─► else the squares, from all over it, that hold most, and which of their pixels count

Clipped, constant and missing pixels have no noise, or not all of it, so they and their neighbors don't count.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor

PIECE_SIDE = 96  # of squares, in pixels; images of up to twice that are taken whole
_SQUARES = 4
_PLACES = 16  # at most so many candidates a row, and rows of them
_FEW = 0.005  # the share of pixels without noise that changes next to nothing
_SPIKE, _SPIKE_SHARE = 4, 0.002  # a clipped value comes so many times as often as the next one, and in such a share
_REACHES = (4, 2, 1, 0)  # how far from a pixel without noise others don't count, in pixels: the first that leaves
_ENOUGH = 0.1  # such a share


class Pieces(NamedTuple):
    """Parts of an image. pixels: float32 [N, C, H, W]. counted: bool of that shape; None where all pixels count."""

    pixels: Tensor
    counted: Tensor | None

    def mask(self) -> np.ndarray:
        """Which pixels count: bool [N, C, H, W]."""
        return np.ones(self.pixels.shape, bool) if self.counted is None else self.counted.cpu().numpy()

    def squares(self) -> Tensor:
        """Squares of 2 x 2 pixels that all count, side by side: [1, 1, 2, 2 K]; all pixels where all count."""
        if self.counted is None:
            return self.pixels
        whole = torch.stack(_corners(self.counted)).all(dim=0)
        if not whole.any():
            return self.pixels
        a, b, c, d = (corner[whole] for corner in _corners(self.pixels))
        rows = [torch.stack(pair, dim=1).reshape(-1) for pair in ((a, b), (c, d))]
        return torch.stack(rows)[None, None]


def _corners(values: Tensor) -> list[Tensor]:
    """The four pixels of each square of 2 x 2 of images [..., H, W]."""
    rows, columns = values.shape[-2] // 2, values.shape[-1] // 2
    return [values[..., i::2, j::2][..., :rows, :columns] for i in (0, 1) for j in (0, 1)]


def choose_pieces(noisy: np.ndarray, missing: np.ndarray | None = None, side: int = PIECE_SIDE) -> Pieces:
    """What stands for an image [H, W, C]. missing: bool [H, W, C], pixels that are only filled in. Deterministic."""
    height, width = noisy.shape[:2]
    if height <= 2 * side and width <= 2 * side:
        places, tall, wide = [(0, 0)], height, width
    else:
        tall, wide = min(side, height), min(side, width)
        tops, lefts = ([(length - s) // 4, (length - s) * 3 // 4] for length, s in ((height, tall), (width, wide)))
        places = [(top, left) for top in tops for left in lefts]
    clipped = _clipped_values(noisy)

    def noiseless(place: tuple[int, int]) -> np.ndarray:
        part = _cut(noisy, place, tall, wide)
        found = _constant(part)
        for value in clipped:
            found |= part == value
        return found if missing is None else found | _cut(missing, place, tall, wide)

    bad = np.stack([noiseless(place) for place in places])
    if bad.mean() <= _FEW:
        return Pieces(_stack(noisy, places, tall, wide), None)
    if len(places) > 1:
        places = _best(places + _grid(height, width, tall, wide), noiseless, tall, wide) or places
        bad = np.stack([noiseless(place) for place in places])
    for reach in _REACHES:
        counted = ~_widened(bad, reach)
        if counted.mean() >= _ENOUGH:
            break
    return Pieces(
        _stack(noisy, places, tall, wide),
        torch.from_numpy(np.moveaxis(counted, -1, 1).copy()) if counted.mean() > _FEW else None,
    )


def _cut(image: np.ndarray, place: tuple[int, int], tall: int, wide: int) -> np.ndarray:
    return image[place[0] : place[0] + tall, place[1] : place[1] + wide]


def _stack(image: np.ndarray, places: list[tuple[int, int]], tall: int, wide: int) -> Tensor:
    parts = np.stack([_cut(image, place, tall, wide) for place in places])
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(parts, -1, 1), np.float32))


def _clipped_values(image: np.ndarray) -> list[np.ndarray]:
    """Values [C] at which each channel ends in a spike, NaN where it does not: the highest and the lowest."""
    found = np.full((2, image.shape[-1]), np.nan, np.float32)
    for channel in range(image.shape[-1]):
        values = image[..., channel]
        for row, (end, beyond, first) in enumerate(((np.max, np.less, -np.inf), (np.min, np.greater, np.inf))):
            last = end(values)
            count = np.count_nonzero(values == last)
            if count < _SPIKE_SHARE * values.size:
                continue
            following = end(values, where=beyond(values, last), initial=first)
            if count > _SPIKE * np.count_nonzero(values == following):
                found[row, channel] = last
    return list(found)


def _constant(part: np.ndarray) -> np.ndarray:
    """Where each pixel [h, w, C] lies in a square of 3 x 3 equal ones."""
    found = np.zeros(part.shape, bool)
    if min(part.shape[:2]) < 3:
        return found
    across, down = part[:, 1:] == part[:, :-1], part[1:] == part[:-1]
    across = across[:, 1:] & across[:, :-1]  # three in a row, [h, w - 2]
    rows = across[2:] & across[1:-1] & across[:-2]
    squares = rows & down[1:, :-2] & down[:-1, :-2]
    for y in range(3):
        for x in range(3):
            found[y : y + squares.shape[0], x : x + squares.shape[1]] |= squares
    return found


def _widened(bad: np.ndarray, reach: int) -> np.ndarray:
    """bad: [N, h, w, C], each of its pixels grown to a square."""
    if not reach:
        return bad
    side = 2 * reach + 1
    return binary_dilation(bad, np.ones((1, side, side, 1), bool))


def _grid(height: int, width: int, tall: int, wide: int) -> list[tuple[int, int]]:
    """Corners of squares all over an image."""
    tops, lefts = (
        np.unique(np.linspace(0, length - side, min(_PLACES, -(-length // side))).astype(int)).tolist()
        for length, side in ((height, tall), (width, wide))
    )
    return [(top, left) for top in tops for left in lefts]


def _best(places: list[tuple[int, int]], noiseless, tall: int, wide: int) -> list[tuple[int, int]]:
    """Squares apart from one another that hold most noise, as far from each other as can be."""
    shares = {place: float(1 - _widened(noiseless(place)[None], _REACHES[0]).mean()) for place in places}
    chosen: list[tuple[int, int]] = []
    while len(chosen) < _SQUARES:
        free = [p for p in shares if all(abs(p[0] - q[0]) >= tall or abs(p[1] - q[1]) >= wide for q in chosen)]
        most = max((shares[place] for place in free), default=0.0)
        if most < (_ENOUGH if chosen else 1e-9):
            return chosen
        rich = [place for place in free if shares[place] >= 0.9 * most]
        chosen.append(max(rich, key=lambda p: min((np.hypot(p[0] - q[0], p[1] - q[1]) for q in chosen), default=0.0)))
    return chosen
