"""What losses that compare the denoised image with a target have in common."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from n2s_dist.losses.loss import Batch, Loss
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel


class RegressionLoss(Loss):
    """(x_hat(y) - target)^2 / sigma^2, the target being the extra view."""

    white_because: ClassVar[str] = "takes noise that the loader draws"

    def values(self, model: ScoreModel, run: Callable[..., Tensor], batch: Batch) -> Tensor:
        noise = single_noise(batch)
        return regression_loss(model.denoise(batch.noisy, noise, run), batch.aux) / unit_variance(noise)


def single_noise(batch: Batch) -> NoiseModel:
    """The noise of all samples of a batch, for losses that take one level."""
    assert isinstance(batch.noise, NoiseModel), "the configuration's checks allow several levels for perturbed losses"
    return batch.noise


def unit_variance(noise: NoiseModel) -> float:
    """The variance that squared errors are measured in: sigma^2, that of the noise on middle gray."""
    return noise.std(0.5) ** 2


def regression_loss(x_hat: Tensor, target: Tensor) -> Tensor:
    """|| x_hat(y) - target ||^2: least for E[target | y], which is E[x | y] whether the target is clean or noisy.

    For that the second noise is independent of the first, with mean zero (Lehtinen et al. 2018).
    """
    return (x_hat - target).square().flatten(1).mean(1)
