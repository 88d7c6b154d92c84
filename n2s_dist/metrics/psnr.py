"""Peak signal-to-noise ratio of an image."""

import math

import numpy as np


def squared_error(clean: np.ndarray, estimate: np.ndarray) -> float:
    """Sum over all values; of an image's tiles, the sums add up to the image's."""
    return float(np.sum((clean.astype(np.float64) - estimate) ** 2))


def psnr_of_error(squared_error_sum: float, values: int) -> float:
    """PSNR in dB of `values` values on the 0-1 scale; infinite when there is no error."""
    return 10 * math.log10(values / squared_error_sum) if squared_error_sum > 0 else math.inf


def psnr_db(clean: np.ndarray, estimate: np.ndarray) -> float:
    """10 log10(1 / MSE) in dB of floats on the 0-1 scale; infinite when equal. Clamping is the caller's choice."""
    return psnr_of_error(squared_error(clean, estimate), clean.size)
