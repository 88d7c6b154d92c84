"""The posterior's standard deviation at each pixel, by the second-order Tweedie identity.

    Gaussian noise: Cov[x | y] = sigma^2 (I + sigma^2 ds/dy) = sigma^2 d x_hat / dy

In stable coordinates z every noise has unit deviation, and by the delta method, with slope = dx/dz,

    Var[x_i] = slope(x_hat_i) d x_hat_i / dz_i

so that the share (d x_hat_i / dz_i) / slope(x_hat_i) of each value's noise variance remains in its posterior.

The diagonal is Hutchinson's: E[v * (J v)] = diag J for random signs v, with J v from a forward difference, the one way
to it that costs no more than a denoising, in time and memory (torch.func.jvp took 3.5 times as long on a CPU).
Where the noise is correlated, v has its covariance C, made of signs for pixels, rows and columns as the noise is of
normal numbers: E[v * (J v)] = diag J C.

Neighbours share what they have of the noise, so the shares are smoothed over space: four probes smoothed by two pixels
come closer to the errors' true law than 36 bare ones, and then it makes no difference whether signs cover all pixels or
a grid of them.

The identity is true of the true score. A learned one falls a few per cent short of it in length, and since the share
is a small difference of large numbers, the variance comes out up to 40 % too large. What error the estimate really
has, on average, Stein's unbiased risk (1981) tells from the noisy image alone, whatever the estimator,

    E (x_hat - x)^2 = E (x_hat - y)^2 - E (y - x)^2 + 2 E x_hat (y - x)

where the last term is the variance above, exactly for Gaussian noise, nearly for the others. So one factor an image
takes the variances to that mean.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from n2s_dist.distributed.precision import full_precision
from n2s_dist.inference.tiling import TILE, Box, ReceptiveField
from n2s_dist.models.image_batches import from_batch, to_batch
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.field import WHITE, Field
from n2s_dist.utils import hashing

PROBES = 4
_SMOOTHING = 2.0  # pixels
_SMOOTHING_REACH = 8  # where scipy cuts that Gaussian off
_STEP = (
    0.03  # of the difference, in noise deviations; smaller ones lose to rounding, larger ones to the network's kinks
)
_MIN_SHARE = 0.01  # of the noise's variance that a posterior keeps
_DARKEST = 0.002  # on the 0-1 scale; Gamma's transform is flat below that
_TRUST = 0.3  # how far off the network's own variances are, before Stein's risk corrects them
_WHITE = 0.125  # the standard deviation that is white in a picture


class Posterior(NamedTuple):
    """float32 [H, W, C] on the 0-1 scale each."""

    estimate: np.ndarray  # the mean, not clamped
    std: np.ndarray


class _Sums(NamedTuple):
    """Of the values of some tiles, what calibration needs."""

    values: float  # independent ones
    risk: float  # Stein's, of the squared error
    variance: float  # of the posterior
    noise_variance: float

    def calibration(self) -> float:
        """The factor that takes the variances to Stein's risk, as far as so many values tell it from chance."""
        noise_of_risk = self.noise_variance * math.sqrt(2 / self.values)
        believed = _TRUST * self.variance
        weight = believed**2 / (believed**2 + noise_of_risk**2)
        return max(1 + weight * (self.risk / self.variance - 1), 0.1)


def slope(noise: NoiseModel, x: Tensor) -> Tensor:
    """dx/dz: the noise's deviation around x, as the transform T to stable coordinates has it."""
    with torch.enable_grad():
        x = x.detach().clamp(min=_DARKEST).requires_grad_()
        return 1 / torch.autograd.grad(noise.stabilize(x).sum(), x)[0]  # the transform is elementwise


def random_signs(box: Box, channels: int, probe: int, field: Field = WHITE) -> np.ndarray:
    """+-1, float32 [h, w, channels], by each value's place in the image, so that tiles agree where they overlap.

    field: the noise's, which the signs are made into.
    """
    around = field.reach
    rows = np.arange(box.top - around, box.bottom + around)[:, None]
    columns = np.arange(box.left - around, box.right + around)
    inner = slice(around, -around or None)

    def signs(*key: int | np.ndarray) -> np.ndarray:
        words = hashing.hash64(*key)
        shifts = np.arange(channels, dtype=np.uint64)[:, None, None]
        return 1 - 2 * ((words >> shifts) & np.uint64(1)).astype(np.float32)

    of_rows = signs(hashing.STREAM_LINES, probe, 0, rows[inner]) if field.rows else None
    of_columns = signs(hashing.STREAM_LINES, probe, 1, columns[inner]) if field.columns else None
    pixels = signs(hashing.STREAM_PROBE, probe, rows, columns)
    return field.compose(field.blurred(pixels) if field.widths else pixels, of_rows, of_columns).transpose(1, 2, 0)


@torch.no_grad()
def remaining_share(model: ScoreModel, noisy: Tensor, noise: NoiseModel, signs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Posterior mean, and Hutchinson's estimate of the share of each value's noise variance that its posterior keeps.

    noisy: [B, C, H, W] on the 0-1 scale. signs: one random vector of that shape a probe.
    """
    estimate = model.denoise(noisy, noise)
    step = _STEP * slope(noise, noisy)
    total = torch.zeros_like(noisy)
    for sign in signs:
        total += sign * (model.denoise(noisy + step * sign, noise) - estimate)
    return estimate, total / (_STEP * len(signs)) / slope(noise, estimate)


def _of_box(
    model: ScoreModel, noisy: np.ndarray, noise: NoiseModel, box: Box, probes: int
) -> tuple[np.ndarray, np.ndarray, _Sums]:
    """Estimate and posterior variance [h, w, C] of one tile, before calibration, and the sums for that."""
    size, device = noisy.shape[:2], next(model.parameters()).device
    smoothed = box.grown(_SMOOTHING_REACH, size)
    wide = ReceptiveField.of(model).around(smoothed, size)
    signs = [to_batch(random_signs(wide, noisy.shape[2], probe, noise.field), device) for probe in range(probes)]
    y = to_batch(wide.of_array(noisy), device)
    estimate, bare = remaining_share(model, y, noise, signs)
    smooth = smoothed.of_array(from_batch(bare)[0], wide)
    smooth = gaussian_filter(smooth, (_SMOOTHING, _SMOOTHING, 0), radius=(_SMOOTHING_REACH, _SMOOTHING_REACH, 0))
    share = np.zeros_like(wide.of_array(noisy), np.float32)
    smoothed.of_array(share, wide)[:] = np.maximum(smooth, _MIN_SHARE)
    worth = slope(noise, estimate) ** 2
    variance = worth * to_batch(share, device)
    of_noise = noise.variance_around(y)
    risk = (estimate - y) ** 2 - of_noise + 2 * worth * bare
    kept = [box.of_array(from_batch(values)[0], wide) for values in (estimate, variance, risk, of_noise)]
    sums = [float(values.sum(dtype=np.float64)) for values in kept[1:]]
    independent = kept[0].size / noise.field.redundancy(noisy.shape)  # squares of what is alike are worth fewer
    return kept[0], kept[1], _Sums(independent, sums[1], sums[0], sums[2])


@full_precision
def posterior_tiled(
    model: ScoreModel,
    noisy: np.ndarray,
    noise: NoiseModel,
    tile: int = TILE,
    probes: int = PROBES,
    progress: Callable[[int], Any] | None = None,
) -> Posterior:
    """Mean and standard deviation of each value's posterior, in memory bounded by the tile.

    noisy: float [H, W, C] on the 0-1 scale, with this noise. Costs 1 + `probes` denoisings.
    progress: called with the number of pixels of each tile that is done.
    """
    estimate, variance = np.empty(noisy.shape, np.float32), np.empty(noisy.shape, np.float32)
    sums = []
    for box in ReceptiveField.of(model).tiles(noisy.shape[:2], tile):
        box.of_array(estimate)[:], box.of_array(variance)[:], part = _of_box(model, noisy, noise, box, probes)
        sums.append(part)
        if progress:
            progress(box.pixels)
    factor = _Sums(*map(math.fsum, zip(*sums, strict=True))).calibration()
    variance *= factor
    return Posterior(estimate, np.sqrt(variance, out=variance))


def std_picture(std: np.ndarray) -> np.ndarray:
    """Standard deviations as uint16 to look at and to compute with: 65535, white, is 0.125; missing ones are 0."""
    return np.round(np.clip(np.nan_to_num(std) / _WHITE, 0, 1) * 65535).astype(np.uint16)
