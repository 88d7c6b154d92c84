"""The contract of a loss: what a training method says of itself, and of nothing else.

A loss is one file of this folder or of a module that N2S_PLUGINS names. All methods have one network, one scaling
(models/score_model.py), one loader and one way to denoise, `ScoreModel.denoise`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from n2s_dist.config.schema import Config, ExtraView
from n2s_dist.losses.draws import perturbations
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.batch import NoiseBatch
from n2s_dist.noise.field import Kernels


class Batch(NamedTuple):
    """What one rank computes a loss on at a time."""

    positions: np.ndarray  # int64 [B], global
    noisy: Tensor  # y: [B, C, S, S] on the 0-1 scale
    noise: NoiseModel | NoiseBatch  # a NoiseBatch for losses that are perturbed alone
    aux: Tensor  # [B, C, S, S]: the extra view, clean or noisy; without one, what the loss has drawn
    sigma_a: Tensor  # [B, 1, 1, 1], the perturbation's scale; 0 for losses that are not perturbed
    excess: Tensor | None = None  # [B, 1, 1, 1], of the told level over the present one; None is 1 for all
    noiseless: Tensor | None = None  # bool [B, C, S, S], where y was made constant


class Loss(ABC):
    """What a method learns by. It has no state: one object serves all batches.

    Args of a loss's class:
        name: what the configuration's `method` calls it, words joined by hyphens
        key: what results and published figures call it, where that is another name
        extra_view: what it sees besides a noisy crop: the clean crop, another noisy version of it, or nothing
        is_perturbed: whether noisy images are perturbed by sigma_a, and noise of several levels is taken; the others
            train the network at sigma_a = 0
        white_because: why noise has to be independent from pixel to pixel; empty where it need not be
        aux_dtype: of what `draw` gives
    """

    name: ClassVar[str]
    key: ClassVar[str] = ""
    extra_view: ClassVar[ExtraView | None] = None
    is_perturbed: ClassVar[bool] = False
    white_because: ClassVar[str] = ""
    aux_dtype: ClassVar[torch.dtype] = torch.float32

    def check(self, config: Config) -> None:
        """Raise UserError for settings that this loss can't have. What its class says is checked without it."""
        return

    def draw(
        self,
        seed: int,
        positions: np.ndarray,
        shape: torch.Size,
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> Tensor:
        """Its own randomness at some global positions, [B, C, H, W]; not asked of a loss with an extra view.

        A pure function of seed and position. By default N(0, C), float32, C being the noise's correlation: `kernels`,
        or none for white noise.
        """
        return perturbations(seed, positions, shape, device, kernels)

    @abstractmethod
    def values(self, model: ScoreModel, run: Callable[..., Tensor], batch: Batch) -> Tensor:
        """The loss of each sample of a batch, float32 [B]; its caller averages.

        run: what computes the score, `model` itself or the same behind data parallelism. Gradients are exchanged
        between ranks only for calls that go through it, so there is one in each batch.
        """
