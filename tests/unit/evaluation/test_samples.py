"""What is said of samples: figures of posteriors that are right, too narrow and too smooth; the program."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from n2s_dist.evaluation.samples import OCTAVES, SampleFigures, octave_powers
from n2s_dist.inference import posterior_samples
from n2s_dist.inference.uncertainty import Posterior
from n2s_dist.utils.hashing import frozen_rng

COUNT = 8


def figures(spread: float) -> SampleFigures:
    """Of pixels with posteriors N(0, 0.1^2), and of samples of `spread` times that deviation."""
    rng = frozen_rng(1)
    parts = []
    for _ in range(3):
        clean, *samples = 0.1 * rng.standard_normal((1 + COUNT, 64, 64, 1))
        posterior = Posterior(np.zeros(clean.shape), np.full(clean.shape, 0.1))
        parts.append(SampleFigures.of_image(clean, posterior, spread * np.stack(samples)))
    return SampleFigures.summed(parts)


def test_a_true_posterior_and_one_that_is_too_narrow():
    true, narrow = (figures(spread).summary() for spread in (1, 0.5))
    assert true["psnr_mean_db"] == pytest.approx(20, abs=0.1)
    lost = true["psnr_mean_db"] - true["psnr_of_samples_mean_db"]
    assert lost == pytest.approx(10 * np.log10(1 + 1 / COUNT), abs=0.1)
    assert true["psnr_of_endless_samples_mean_db"] == pytest.approx(true["psnr_mean_db"], abs=0.1)
    for key in ("spread_over_uncertainty", "spread_over_error"):
        assert true[key] == pytest.approx(1, abs=0.02) and narrow[key] == pytest.approx(0.5, abs=0.02)
    assert len(true["ranks"]) == COUNT + 1
    np.testing.assert_allclose(true["ranks"], 1, atol=0.1)
    assert narrow["ranks"][0] > 2 and narrow["ranks"][COUNT // 2] < 0.8
    np.testing.assert_allclose(true["power_of_samples"][1:], 1, atol=0.2)  # the first octave has few waves
    np.testing.assert_allclose(true["power_of_mean"], 0, atol=1e-9)


def test_octaves():
    """A wave of 6 pixels a cycle is in the octave from 8 to 4; a blur takes most from the last."""
    wave = np.broadcast_to(np.sin(2 * np.pi * np.arange(96) / 6), (96, 96))[..., None]
    powers = octave_powers(wave)
    assert powers.argmax() == OCTAVES.index((1 / 8, 1 / 4)) and powers.max() > 0.999 * powers.sum()
    white = frozen_rng(1).standard_normal((96, 96, 3))
    ratios = octave_powers(ndimage.gaussian_filter(white, (1, 1, 0))) / octave_powers(white)
    assert (np.diff(ratios) < 0).all() and ratios[-1] < 0.1


def test_the_program_measures_and_draws(cli, load_tool, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(posterior_samples, "STEPS", 2)
    tool, words = load_tool("measure_samples"), ("--samples=2", "--checkpoint=universal-color", "--crop=40")
    out = tmp_path / "samples.png"
    done = cli(tool.main, *words, f"--images={photographs}", "--every=3", f"--picture={out}", "--noise", "poisson:0.05")
    assert done.code == 0 and done.out.startswith("poisson:0.05\n"), done.err
    assert "octaves, pixels a cycle: 16 to 32, 8 to 16, 4 to 8, 2 to 4\n" in done.out
    assert Image.open(out).size == (3 * 40 + 8, 2 * 40 + 4)
    assert cli(tool.main, *words).code == 0  # the photographs of scikit-image
    assert "2 to 256 --samples" in cli(tool.main, "--samples=1").error()
