"""Standard deviations that a posterior predicts, beside the errors that were made."""

import math
from typing import Any

import numpy as np


def compare_deviations(clean: np.ndarray, estimate: np.ndarray, std: np.ndarray) -> dict[str, float]:
    """Of one image: sums of squared errors, actual and predicted, and the share of errors within a deviation."""
    error = estimate.astype(np.float64) - clean
    squares = {"actual": float(np.sum(error**2)), "predicted": float(np.sum(std.astype(np.float64) ** 2))}
    return {**squares, "within": float(np.mean(np.abs(error) <= std))}


def posterior_figures(sums: list[dict[str, Any]]) -> dict[str, float] | None:
    """Of all images of a cell, whose units are whole images: how well standard deviations are those of the errors.

    mse_ratio: predicted mean squared error over the actual one. within_one_std: how often |error| <= deviation, the
    mean over images; 0.683 for Gaussian posteriors. None where no deviations were wanted or no clean image is known.
    """
    told = sorted((row for row in sums if "predicted" in row), key=lambda row: row["name"])
    if not told:
        return None
    predicted, actual, within = (math.fsum(row[key] for row in told) for key in ("predicted", "actual", "within"))
    return {"mse_ratio": predicted / actual, "within_one_std": within / len(told)}
