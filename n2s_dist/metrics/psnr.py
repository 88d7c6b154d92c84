"""Peak signal-to-noise ratio of an image."""

import math

import numpy as np

from n2s_dist.metrics.metric import Measure, PixelMetric


class Psnr(PixelMetric):
    """Peak signal-to-noise ratio in dB: of the noisy image, of the denoised one, and of that rounded to 8 bits."""

    name, title, unit = "psnr", "PSNR", "dB"

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (
            Measure("psnr_noisy_db", "noisy", unit="dB", version="noisy"),
            Measure("psnr_db", "PSNR", unit="dB"),
            Measure("psnr_uint8_db", "8-bit", unit="dB", version="uint8"),
        )

    def of_pixels(self, clean: np.ndarray, estimate: np.ndarray) -> np.ndarray:
        return (clean.astype(np.float64) - estimate) ** 2

    def of_sum(self, total: float, count: int) -> float | None:
        """None where there is no error at all."""
        return psnr_of_error(total, count) if total else None


def squared_error(clean: np.ndarray, estimate: np.ndarray) -> float:
    """Sum over all values; of an image's tiles, the sums add up to the image's."""
    return float(np.sum((clean.astype(np.float64) - estimate) ** 2))


def psnr_of_error(squared_error_sum: float, values: int) -> float:
    """PSNR in dB of `values` values on the 0-1 scale; infinite when there is no error."""
    return 10 * math.log10(values / squared_error_sum) if squared_error_sum > 0 else math.inf


def psnr_db(clean: np.ndarray, estimate: np.ndarray) -> float:
    """10 log10(1 / MSE) in dB of floats on the 0-1 scale; infinite when equal. Clamping is the caller's choice."""
    return psnr_of_error(squared_error(clean, estimate), clean.size)
