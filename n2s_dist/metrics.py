"""Image quality per image: PSNR and SSIM, by scikit-image."""

import math

import numpy as np
from skimage.metrics import structural_similarity

SSIM_RADIUS = 5  # of the window, in pixels: 3.5 standard deviations of 1.5


def squared_error(clean: np.ndarray, estimate: np.ndarray) -> float:
    """Sum over all values; of an image's tiles, the sums add up to the image's."""
    return float(np.sum((clean.astype(np.float64) - estimate) ** 2))


def psnr_of_error(squared_error_sum: float, values: int) -> float:
    """PSNR in dB of `values` values on the 0-1 scale; infinite when there is no error."""
    return 10 * math.log10(values / squared_error_sum) if squared_error_sum > 0 else math.inf


def psnr_db(clean: np.ndarray, estimate: np.ndarray) -> float:
    """10 log10(1 / MSE) in dB of floats on the 0-1 scale; infinite when equal. Clamping is the caller's choice."""
    return psnr_of_error(squared_error(clean, estimate), clean.size)


def ssim_map(clean: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Structural similarity at each value of [H, W, C] on the 0-1 scale as Wang et al. (2004) define it.

    Gaussian window, sigma 1.5. Values within SSIM_RADIUS pixels of the border saw beyond it and do not count.
    """
    _, similarity = structural_similarity(
        clean.astype(np.float64),
        estimate.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        channel_axis=2,
        full=True,
    )
    return similarity


def ssim(clean: np.ndarray, estimate: np.ndarray) -> float | None:
    """Structural similarity of [H, W, C] on the 0-1 scale: ssim_map's mean over pixels and channels.

    None for images narrower than the 11-pixel window.
    """
    if min(clean.shape[:2]) <= 2 * SSIM_RADIUS:
        return None
    inside = slice(SSIM_RADIUS, -SSIM_RADIUS)
    return float(np.mean(ssim_map(clean, estimate)[inside, inside]))
