"""Recorrupted-to-Recorrupted (Pang et al. 2021): two versions of a noisy image with independent noise."""

from collections.abc import Callable

from torch import Tensor

from n2s_dist.losses.loss import Batch, Loss
from n2s_dist.losses.regression import single_noise
from n2s_dist.models.score_model import ScoreModel

# The paper's a.
_RECORRUPTION = 0.5


class RecorruptedToRecorrupted(Loss):
    """(d(z + a w) - (z - w / a))^2."""

    name = "r2r"

    def values(self, model: ScoreModel, run: Callable[..., Tensor], batch: Batch) -> Tensor:
        z, condition = model.given(batch.noisy, single_noise(batch))
        return r2r_loss(lambda z: model.unperturbed(z, condition, run), z, batch.aux)


def r2r_loss(score: Callable[[Tensor], Tensor], z: Tensor, w: Tensor) -> Tensor:
    """|| d(z + a w) - (z - w / a) ||^2, w ~ N(0, I): for unit Gaussian noise the two have independent noise.

    So it is least for d(z + a w) = E[x | z + a w] (Pang et al. 2021). At test time d is given z itself, once; the mean
    over 16 recorruptions, the paper's way, was 0.04 dB lower.
    """
    once = z + _RECORRUPTION * w
    return (once + score(once) - (z - w / _RECORRUPTION)).square().flatten(1).mean(1)
