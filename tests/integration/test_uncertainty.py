"""Predicted errors of a trained network against its actual ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.denoisers import calibration

from n2s_dist.inference.uncertainty import (
    posterior_tiled,
)
from n2s_dist.models import checkpoint
from n2s_dist.models.self_ensemble import SelfEnsemble
from n2s_dist.noise.specification import parse_noise
from n2s_dist.utils.hashing import frozen_rng


@pytest.mark.parametrize("noise", ["gaussian:25", "gaussian:50", "poisson:0.05", "gamma:50"])
def test_predicted_and_actual_errors_on_photographs(trained, photographs: Path, noise):
    """Of a network that has hardly learned: Stein's risk knows how bad it is, from the noisy image alone."""
    model = checkpoint.load(checkpoint.locate(trained)).model
    model = SelfEnsemble(model) if noise == "gaussian:50" else model
    level = parse_noise(noise)
    for name in ("coffee", "chelsea"):
        clean = np.asarray(Image.open(photographs / f"{name}.png")) / 255
        noisy = level.corrupt(clean, frozen_rng(3)).astype(np.float32)
        figures = calibration(clean, posterior_tiled(model, noisy, level))
        assert 0.8 < figures["mse_ratio"] < 1.25 and 0.5 < figures["within_one_std"] < 0.85
