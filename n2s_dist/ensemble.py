"""The x8 self-ensemble: one network asked eight times, over the flips and transposes of an image."""

import torch
from torch import Tensor

from n2s_dist.score import ScoreModel


class SelfEnsemble(ScoreModel):
    """A score model whose score is the mean over the eight symmetries of the square; weights are the given model's.

        s8(w) = 1/8 sum over g of g^-1 s(g w),    so that s8(g w) = g s8(w)

    The mean is of scores, not of denoised images: the AR-DAE loss is convex in the score, so s8 is on average no worse
    than s; and what is made of a score (Tweedie's formula, its derivative) needs no case of its own. For Gaussian
    noise both means are the same.
    """

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.network, model.noise, model.coordinates)

    def forward(self, w: Tensor, sigma_a: Tensor, condition: Tensor) -> Tensor:
        """The mean score at w; arguments as ScoreModel's."""
        # Eight float32 add up in float64 without rounding, so their order, which flips change, does not matter.
        total = torch.zeros(w.shape, dtype=torch.float64, device=w.device)
        for transposed in (False, True):
            for axes in ((), (-1,), (-2,), (-2, -1)):
                turned = (w.mT if transposed else w).flip(axes).contiguous()
                score = super().forward(turned, sigma_a, condition).flip(axes)
                total += score.mT if transposed else score
        return (total / 8).float()
