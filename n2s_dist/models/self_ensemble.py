"""The self-ensemble: one network asked several times, over views of an image that change nothing but its grid."""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from n2s_dist.models.equivariance import symmetric_weights
from n2s_dist.models.score_model import ScoreModel


class View(NamedTuple):
    """An image [B, C, H, W] seen another way, and a score of that view brought back."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


class SelfEnsemble(ScoreModel):
    """A score model whose score is the mean over an image's views v; weights are the given model's.

        s_e(w) = 1/n sum over v of v^-1 s(v w)

    A plain network's views are the eight flips and transposes g, so that s_e(g w) = g s_e(w), or the four flips where
    rows of the noise are unlike columns. A symmetric network (equivariance.py) gives the same for each of these. It
    does not commute with shifts, as it takes pixels two by two, so its views are the four shifts that put the image's
    first pixel in each place of a square of two by two, as cycle spinning does (Coifman & Donoho 1995).

    The mean is of scores, not of denoised images: the AR-DAE loss is convex in the score, so s_e is on average no worse
    than s; and what is made of a score (Tweedie's formula, its derivative) needs no case of its own. For Gaussian
    noise both means are the same.
    """

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.network, model.noise, model.coordinates, model.condition_kind)
        flips = FLIPS[:4] if model.noise.is_directional else FLIPS
        self.views = SHIFTS if symmetric_weights(model.network) else flips

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor, excess: Tensor | None = None) -> Tensor:
        """The mean score at w; arguments as ScoreModel's."""
        # Eight float32 add up in float64 without rounding, so their order, which flips change, does not matter.
        total = torch.zeros(w.shape, dtype=torch.float64, device=w.device)
        for view in self.views:
            total += view.back(super().forward(view.there(w), sigma_a, condition, excess))
        return (total / len(self.views)).float()


def _flip(transposed: bool, axes: tuple[int, ...]) -> View:
    def there(w: Tensor) -> Tensor:
        return (w.mT if transposed else w).flip(axes).contiguous()

    def back(score: Tensor) -> Tensor:
        score = score.flip(axes)
        return score.mT if transposed else score

    return View(there, back)


def _shift(down: int, right: int) -> View:
    """By 0 or 1 pixels each; what comes in is the image's reflection."""

    def there(w: Tensor) -> Tensor:
        for dim, by in ((-2, down), (-1, right)):
            side = w.shape[dim]
            w = w.index_select(dim, torch.arange(-by, side, device=w.device).abs().clamp(max=side - 1))
        return w

    def back(score: Tensor) -> Tensor:
        return score[..., down:, right:]

    return View(there, back)


FLIPS = [_flip(transposed, axes) for transposed, axes in product((False, True), ((), (-1,), (-2,), (-2, -1)))]
SHIFTS = [_shift(down, right) for down, right in product((0, 1), repeat=2)]
