"""Structural similarity of an image, by scikit-image."""

import numpy as np
from skimage.metrics import structural_similarity

from n2s_dist.metrics.metric import PixelMetric

SSIM_RADIUS = 5  # of the window, in pixels: 3.5 standard deviations of 1.5


class Ssim(PixelMetric):
    """Structural similarity (Wang et al. 2004)."""

    name, title, digits = "ssim", "SSIM", 4
    margin = SSIM_RADIUS

    def of_pixels(self, clean: np.ndarray, estimate: np.ndarray) -> np.ndarray:
        return ssim_map(clean, estimate)


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
