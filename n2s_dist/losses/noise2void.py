"""Noise2Void (Krull et al. 2019): predict masked pixels from those around them."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from n2s_dist.losses.draws import draws_at_once, generators, philox_keys
from n2s_dist.losses.loss import Batch, Loss
from n2s_dist.losses.regression import single_noise, unit_variance
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.field import Kernels
from n2s_dist.noise.transfer import to_device

# One pixel in 64 is masked, as in the paper, by a value of the 5 x 5 around it.
_ONE_IN = 64
_NEIGHBOURS = [(down, across) for down in range(-2, 3) for across in range(-2, 3) if (down, across) != (0, 0)]


class Noise2Void(Loss):
    """(x_hat(y') - y)^2 / sigma^2 at masked pixels, where y' has a neighbour's value in place of y."""

    name = "noise2void"
    white_because: ClassVar[str] = "masks single pixels"
    aux_dtype: ClassVar[torch.dtype] = torch.int64

    def draw(
        self, seed: int, positions: np.ndarray, shape: torch.Size, device: torch.device, kernels: Kernels | None = None
    ) -> Tensor:
        """Blind spots, int64 [B, C, H, W]."""
        return blind_spots(seed, positions, shape, device)

    def values(self, model: ScoreModel, run: Callable[..., Tensor], batch: Batch) -> Tensor:
        noise = single_noise(batch)
        loss = noise2void_loss(lambda y: model.denoise(y, noise, run), batch.noisy, batch.aux)
        return loss / unit_variance(noise)


def blind_spots(seed: int, positions: np.ndarray, shape: torch.Size, device: torch.device) -> Tensor:
    """Whose value each one gets, by its place in the flattened channel: int64 [B, C, H, W].

    Its own, but for one in 64, masked, which get a random neighbour's. Border pixels, with fewer neighbours, are masked
    less often. Noise is independent between channels, so each has its own blind spots.
    """
    height, width = shape[2:]
    choices = _ONE_IN * len(_NEIGHBOURS)
    if draws_at_once(device):
        keys = philox_keys(seed, positions, device)
        uniform = torch.ops.aten._philox_uniform_(torch.empty(shape, device=device), keys)
        pick = (uniform * choices).long()
    else:
        pick = torch.empty(shape, dtype=torch.int64, device=device)
        for sample, generator in zip(pick, generators(seed, positions, device), strict=True):
            sample.random_(0, choices, generator=generator)
    offsets = to_device(np.array([*_NEIGHBOURS, (0, 0)]), device)
    down, across = offsets[pick.clamp(max=len(_NEIGHBOURS))].unbind(-1)
    row = (torch.arange(height, device=device)[:, None] + down).clamp(0, height - 1)
    column = (torch.arange(width, device=device) + across).clamp(0, width - 1)
    return row * width + column


def noise2void_loss(denoise: Callable[[Tensor], Tensor], noisy: Tensor, source: Tensor) -> Tensor:
    """|| x_hat(y') - y ||^2 over the masked pixels, which y' replaces (Krull et al. 2019).

    Their own noise can't be told from y', so this is least for the best estimate of x from the pixels around.
    source: as blind_spots makes it.
    """
    replaced = noisy.flatten(2).gather(2, source.flatten(2)).view_as(noisy)
    own = torch.arange(noisy[0, 0].numel(), device=noisy.device).view(noisy.shape[2:])
    masked = (source != own).flatten(1)
    errors = (denoise(replaced) - noisy).square().flatten(1)
    return (masked * errors).sum(1) / masked.sum(1).clamp(min=1)
