"""The networks that come with the package, on photographs: weak noise, and noise that a camera made."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from n2s_dist.commands.simulate import read_instrument
from n2s_dist.inference.network_choice import load_denoiser
from n2s_dist.inference.reference_photographs import PHOTOGRAPHS, photograph
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.noise.specification import parse_noise

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.mark.parametrize(("kind", "text"), [("gray", "gaussian:1"), ("color", "gaussian:2+blur:0.7")])
def test_weak_noise_does_no_harm(kind, text):
    noise, denoise = parse_noise(text), load_denoiser(f"instrument-{kind}")
    for name in PHOTOGRAPHS:
        clean = photograph(name, denoise.channels)[64:160, 64:160]
        noisy = noise.corrupt(clean, np.random.default_rng(0)).astype(np.float32)
        assert psnr_db(clean, denoise(noisy, noise)[0]) > psnr_db(clean, noisy)


def test_the_estimate_on_a_cameras_own_jpeg_comes_near_the_best_constant_level():
    """The truth has chosen the constant, of 7, 10, 14 and 20."""
    face = Image.fromarray(data.astronaut()[35:99, 180:244]).resize((128, 128), Image.Resampling.BICUBIC)
    noisy, truth = read_instrument("full_frame_jpeg").simulate(np.asarray(face) / 255, 6400, 0, "face", jpeg=92)
    constant = load_denoiser("gaussian-color")

    def psnr(image: np.ndarray) -> float:
        return psnr_db(truth / 255, image / 255)

    best = psnr(constant(noisy, "gaussian:14")[0])
    estimate, info = load_denoiser()(noisy)
    assert info.estimated and info.noise.family == "gaussian"
    assert psnr(estimate) > max(best - 0.7, psnr(noisy) + 1.5)
