"""Supervised training by Charbonnier's penalty, which minds large errors less than their squares do."""

import torch

from n2s_dist.losses.base import register
from n2s_dist.losses.loss import Loss


@register
class Charbonnier(Loss):
    """sqrt(1 + e^2) - 1, e being the error in units of the noise."""

    name = "charbonnier"
    extra_view = "clean"

    def values(self, model, run, batch):
        x_hat = model.denoise(batch.noisy, batch.noise, run)
        error = (x_hat - batch.aux) / batch.noise.std(0.5)
        return (torch.sqrt(1 + error.square()) - 1).flatten(1).mean(1)
