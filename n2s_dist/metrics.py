"""Image quality per image: PSNR and SSIM, by scikit-image."""

import math

import numpy as np
from skimage.metrics import structural_similarity


def psnr_db(clean: np.ndarray, estimate: np.ndarray) -> float:
    """10 log10(1 / MSE) in dB of floats on the 0-1 scale; infinite when equal. Clamping is the caller's choice."""
    error = float(np.mean((clean.astype(np.float64) - estimate) ** 2))
    return 10 * math.log10(1 / error) if error > 0 else math.inf


def ssim(clean: np.ndarray, estimate: np.ndarray) -> float | None:
    """Structural similarity of [H, W, C] on the 0-1 scale as Wang et al. (2004) define it: Gaussian window, sigma 1.5.

    The mean over channels. None for images narrower than the 11-pixel window.
    """
    if min(clean.shape[:2]) < 11:
        return None
    return float(
        structural_similarity(
            clean.astype(np.float64),
            estimate.astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=2,
        )
    )
