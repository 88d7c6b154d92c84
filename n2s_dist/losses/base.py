"""The registry of losses, which `method` in a configuration names.

A loss of this package is one file and one line here. A loss from elsewhere calls `register` in a module that
N2S_PLUGINS names. Each is computed on one batch and gives one value a sample, [B].

All methods have one network, one scaling (score_model.py), one loader and one way to denoise, `ScoreModel.denoise`. Its
network's output F stands for the noise in stable coordinates z (noise/base.py), where it has unit variance:

    ardae         s = -F / (1 + sigma_a^2) is the score of z + sigma_a u; Tweedie's formula denoises
    the others    d = z - F is the clean image; the same formula, with s = -F, brings it back to the 0-1 scale: x_hat(y)

| method      | loss, a mean over pixels              | its expectation for Gaussian noise                            |
|-------------|---------------------------------------|---------------------------------------------------------------|
| supervised  | (x_hat(y) - x)^2 / sigma^2            | mean squared error over sigma^2: MSE                          |
| noise2noise | (x_hat(y) - y_2)^2 / sigma^2          | MSE + 1                                                       |
| noise2void  | (x_hat(y') - y)^2 / sigma^2 where y'  | MSE + 1 of predicting a pixel from others, as y' has          |
|             | has a neighbour's value in place of y | another's value there                                         |
| sure        | 1 + s^2 + 2 b . (ds/dz) b             | MSE                                                           |
| r2r         | (d(z + a w) - (z - w / a))^2          | MSE of denoising z + a w, + 1 + 1 / a^2                       |

Supervised training sees clean pixels, Noise2Noise a second noisy version of each: they are there to compare with. The
others see one noisy version. Any noise whose mean is the clean image keeps the first three right, with its deviation at
middle gray for sigma; SURE and R2R take the noise in z for Gaussian, which is an approximation for Poisson and Gamma.

Draws are pure functions of (seed, position), so a resumed run repeats them.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from n2s_dist.config.schema import Config
from n2s_dist.losses.ardae import Ardae
from n2s_dist.losses.loss import Batch, Loss
from n2s_dist.losses.noise2noise import Noise2Noise
from n2s_dist.losses.noise2void import Noise2Void
from n2s_dist.losses.r2r import RecorruptedToRecorrupted
from n2s_dist.losses.supervised import Supervised
from n2s_dist.losses.sure import Sure
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.field import Kernels
from n2s_dist.noise.specification import parse_training_noise
from n2s_dist.utils import plugins
from n2s_dist.utils.errors import UserError, nearest

_LOSSES: dict[str, type[Loss]] = {
    "ardae": Ardae,
    "supervised": Supervised,
    "noise2noise": Noise2Noise,
    "noise2void": Noise2Void,
    "sure": Sure,
    "r2r": RecorruptedToRecorrupted,
}


def register(loss: type[Loss]) -> type[Loss]:
    """Add a loss to those that `method` can name. Raises UserError for a name that is taken or can't be written."""
    plugins.add(_LOSSES, "method", loss.name, loss)
    return loss


def losses() -> dict[str, type[Loss]]:
    """All losses by name, those of plugins included."""
    plugins.load_plugins()
    return dict(_LOSSES)


def loss_of(method: str) -> Loss:
    """The loss of a method. Raises UserError for a name that none has."""
    known = losses()
    if method not in known:
        hint = nearest(method, list(known)) or f": it takes one of {', '.join(known)}"
        raise UserError(f"method is {method}{hint}; one from elsewhere is named by {plugins.VARIABLE}")
    return known[method]()


def table_key(method: str) -> str:
    """What results call a method. One whose loss is not at hand keeps its name."""
    loss = losses().get(method)
    return (loss.key if loss else "") or method


def check_method(config: Config) -> None:
    """Raise UserError for a method that is unknown or does not go with the noise and the settings of ardae."""
    loss, noise = loss_of(config.method), parse_training_noise(config.noise)
    perturbed = [name for name, other in losses().items() if other.is_perturbed]
    if not loss.is_perturbed:
        alone = f"method {' or '.join(perturbed)}"
        if not noise.is_single:
            raise UserError(
                f"method {loss.name} takes one noise level: give a noise such as gaussian:25, or method {perturbed[0]}"
            )
        if config.ardae.coordinates == "image":
            raise UserError(f"ardae.coordinates image is for {alone}: give stable for method {loss.name}")
        for key in ("overstated", "constant"):
            if value := getattr(config.ardae, key):
                raise UserError(f"ardae.{key} is {value}: it takes {alone}")
    if noise.is_correlated and loss.white_because:
        others = ", ".join(name for name, other in losses().items() if not other.white_because)
        raise UserError(
            f"method {loss.name} {loss.white_because}, and {config.noise} is correlated: give one of {others}"
        )
    loss.check(config)


def draw(
    method: str,
    seed: int,
    positions: np.ndarray,
    shape: torch.Size,
    device: torch.device,
    kernels: Kernels | None = None,
) -> Tensor:
    """A method's own randomness at some global positions, [B, C, H, W]. Raises UserError where it is anything else."""
    loss = loss_of(method)
    drawn = loss.draw(seed, positions, shape, device, kernels)
    if drawn.shape != shape or drawn.dtype != loss.aux_dtype:
        raise UserError(
            f"method {method} draws {_described(drawn)}: its loss has to draw {loss.aux_dtype} {list(shape)}"
        )
    return drawn


def method_loss(method: str, model: ScoreModel, run: Callable[..., Tensor], batch: Batch) -> Tensor:
    """A method's loss on a batch: one value a sample, float32 [B]. Raises UserError where it is anything else.

    run: what computes the score, the model itself or the same behind data parallelism.
    """
    values = loss_of(method).values(model, run, batch)
    if values.shape != (len(batch.noisy),) or values.dtype != torch.float32:
        raise UserError(
            f"method {method} gives {_described(values)}: its loss has to give one value a sample, "
            f"torch.float32 {[len(batch.noisy)]}"
        )
    return values


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
