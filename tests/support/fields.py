"""The covariance of a field of noise in closed form, from its definition (noise/field.py)."""

import numpy as np

from n2s_dist.noise.blurred import kernel, radius
from n2s_dist.noise.field import Field


def correlations(width: float, count: int) -> np.ndarray:
    """Of blurred pixels in a line, float64 [count, count]."""
    taps = kernel(width, max(count, radius(width)))
    lags = [float(np.sum(taps[lag:] * taps[: len(taps) - lag])) for lag in range(count)]
    return np.array(lags)[np.abs(np.subtract.outer(np.arange(count), np.arange(count)))]


def covariance(field: Field, shape: tuple[int, ...]) -> np.ndarray:
    """Of all values of an area [C, H, W]: float64 [C H W, C H W]."""
    channels, height, width = shape
    across, down = field.ends
    pixels = np.kron(correlations(down, height), correlations(across, width))
    rows = np.kron(np.eye(height), np.ones((width, width)))
    columns = np.kron(np.ones((height, height)), np.eye(width))
    plane = (1 - field.rows - field.columns) * pixels + field.rows * rows + field.columns * columns
    of_channels = np.eye(channels)
    for (one, two), value in zip(((0, 1), (0, 2), (1, 2)), field.channels, strict=False):
        of_channels[one, two] = of_channels[two, one] = value
    return np.kron(of_channels, plane)
