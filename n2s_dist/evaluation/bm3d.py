"""BM3D (Dabov et al. 2007) through its authors' package, as a baseline of the evaluator.

Poisson and Gamma noise go through the stable transform, which makes their deviation 1 everywhere, and back by the exact
unbiased inverse (Makitalo & Foi 2011 for Poisson). The package, bm3d, is free for non-commercial use alone.
"""

import threading
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch

from n2s_dist.evaluation.methods import EvaluatedMethod
from n2s_dist.inference.tiling import Box
from n2s_dist.noise.base import NoiseModel
from n2s_dist.utils.errors import UserError

_SMALLEST = 8  # pixels: the side of its blocks
_PASSES = 40.0
# The package keeps one pool of threads for the whole process, and aborts it when two calls meet.
_ONE_AT_A_TIME = threading.Lock()


def bm3d() -> EvaluatedMethod:
    """BM3D at known levels. Raises UserError where the package is missing."""
    try:
        import bm3d
    except ImportError:
        raise UserError("--bm3d needs the package bm3d: pip install -e '.[baselines]'") from None
    profile = bm3d.BM3DProfile()
    profile.num_threads = 1  # more of them add sums up in another order each time

    def white(noisy: np.ndarray, sigma: float) -> np.ndarray:
        with _ONE_AT_A_TIME:
            if (noisy == noisy[:, :, :1]).all():  # also of gray images in color, whose chroma it would divide by 0
                return np.repeat(bm3d.bm3d(noisy[:, :, 0], sigma, profile)[:, :, None], noisy.shape[2], axis=2)
            return bm3d.bm3d_rgb(noisy, sigma, profile)

    def denoise(noisy: np.ndarray, noise: NoiseModel, box: Box) -> np.ndarray:
        return box.of_array(through_stable(white, noisy, noise))

    return EvaluatedMethod(
        "bm3d", denoise, f"bm3d {version('bm3d')} bm4d {version('bm4d')}", passes=_PASSES, smallest_side=_SMALLEST
    )


def through_stable(
    white: Callable[[np.ndarray, float], np.ndarray], noisy: np.ndarray, noise: NoiseModel
) -> np.ndarray:
    """Denoise [H, W, C] on the 0-1 scale, float64, by a method for white noise: white(noisy, sigma)."""
    height, width = noisy.shape[:2]
    if min(height, width) < _SMALLEST:
        raise UserError(f"an image of {width} x {height} pixels is too small for BM3D, whose blocks have 8 x 8")
    if noise.constant_std is not None:
        return white(noisy.astype(np.float64), noise.constant_std)
    batch = torch.from_numpy(noisy.astype(np.float64).transpose(2, 0, 1)[None])  # for curves of each channel
    stable = noise.stabilize(batch)[0].numpy().transpose(1, 2, 0)
    deviation = noise.stable_std
    low, scale = stable.min(), max(np.ptp(stable), deviation)  # its constants are for images on the 0-1 scale
    mean = white((stable - low) / scale, deviation / scale) * scale + low
    return noise.unbiased_inverse(torch.from_numpy(mean.transpose(2, 0, 1)[None]))[0].numpy().transpose(1, 2, 0)
