"""Predicted errors of a trained network against its actual ones, and samples of a shipped network's posterior."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.denoisers import calibration

from n2s_dist import load_denoiser
from n2s_dist.evaluation.samples import SampleFigures
from n2s_dist.inference.reference_photographs import photograph
from n2s_dist.inference.uncertainty import Posterior, posterior_tiled
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


def test_samples_of_the_shipped_universal_network():
    """Their mean, but for what 16 samples account for, their spread and their spectrum, on an eye and some fur.

    The posterior mean lacks a quarter of the power and more from 4 to 2 pixels a cycle. Twice the noise in each step
    would double the spread.
    """
    clean, noise = photograph("chelsea", 1)[40:104, 40:104], parse_noise("gaussian:25")
    noisy = noise.corrupt(clean, frozen_rng(3)).astype(np.float32)
    x_hat, info = load_denoiser("universal-gray")(noisy, noise=noise, uncertainty=True, samples=16)
    found = SampleFigures.of_image(clean, Posterior(x_hat, info.std), info.samples).summary()
    assert abs(found["psnr_of_endless_samples_mean_db"] - found["psnr_mean_db"]) < 0.1
    assert found["psnr_mean_db"] - found["psnr_of_samples_mean_db"] < 10 * np.log10(1 + 1 / 16) + 0.1
    assert 0.75 < found["spread_over_uncertainty"] < 1.2
    off = [np.abs(np.log(found[key][-1])) for key in ("power_of_samples", "power_of_mean")]
    assert off[0] < off[1] / 2 and found["power_of_mean"][-1] < 0.75
