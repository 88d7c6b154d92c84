"""What a network must do before it is shipped, held to denoisers whose faults are known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from n2s_dist.inference.acceptance import problems
from n2s_dist.noise.specification import parse_training_noise

AIM = parse_training_noise("gaussian:5-55")


def sound(noisy, told):
    """Flat areas become their mean; everything with structure stays as it is."""
    steps = np.diff(noisy, axis=0).std() / 2**0.5
    blurred = gaussian_filter(noisy, (4, 4, 0), mode="wrap")
    return np.broadcast_to(noisy.mean((0, 1)), noisy.shape) if blurred.std() < 0.12 * steps + 1e-9 else noisy


def painter_of_dots(noisy, told):
    estimate = sound(noisy, told).copy()
    estimate[::4, ::4] += 20 / 255
    return estimate


@pytest.mark.parametrize("channels", [1, 3])
def test_a_denoiser_that_leaves_alone_what_has_no_noise_has_no_problems(channels):
    assert problems(sound, channels, AIM) == []


@pytest.mark.parametrize(
    ("denoise", "words"),
    [
        (painter_of_dots, "a pattern of period 4 pixels"),
        (painter_of_dots, "zero padding in a noisy photograph changes"),
        (lambda noisy, told: noisy, "a flat area of brightness 0.5 with 0.4 of the noise comes out with a deviation"),
        (lambda noisy, told: gaussian_filter(noisy, (2, 2, 0)), "a checkerboard of 8 pixels changes by"),
        (lambda noisy, told: noisy - 0.1 * (noisy == 1), "a saturated area in a noisy photograph changes"),
    ],
)
def test_each_fault_is_named(denoise, words):
    found = problems(denoise, 1, AIM)
    assert any(words in problem for problem in found)
    assert all(problem.startswith("told gaussian:") for problem in found)
