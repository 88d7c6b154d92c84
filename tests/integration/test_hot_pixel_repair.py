"""Hot and dead pixels repaired for the shipped networks: images are nearer to the truth, and what is given back."""

import dataclasses

import numpy as np
import pytest
import skimage.data
import torch

from n2s_dist.inference.network_choice import ShippedDenoiser
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.noise.microscope import Microscope
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import parse_noise

pytestmark = pytest.mark.usefixtures("cpu")

CAMERA = skimage.data.camera()[:, :, None] / 255
SCMOS = Microscope(
    "microscope", "a test's", gain=2.0, read_noise=3.0, offset=100, electrons=200, hot_pixels=0.003, hot_electrons=250,
    optics_blur=1.0,
)  # fmt: skip
WHITE = 100 + 2.0 * 200
FRAME = slice(150, 222)


@pytest.fixture(scope="module")
def shipped() -> ShippedDenoiser:
    return ShippedDenoiser("cpu")


def frame() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A microscope's frame, its truth and what hot pixels add, in ADU."""
    clean = CAMERA[FRAME, FRAME, 0]
    noisy, truth = SCMOS.simulate(clean, 0, "scene")
    return noisy, truth, SCMOS.hot_signal(clean.shape, 0)


@pytest.mark.parametrize("noise", [PoissonGaussian(2.0 / 400, 3.0 / 400), None])
def test_a_repaired_frame_is_nearer_to_the_truth(shipped, noise):
    """Of a simulated microscope, its noise being named and being estimated."""
    noisy, truth, hot = frame()
    scale = {"white": WHITE, "black": 100}
    repaired, info = shipped(noisy, noise, repair_hot_pixels=True, **scale)
    plain, before = shipped(noisy, info.noise, **scale)
    without, _ = dataclasses.replace(SCMOS, hot_pixels=0).simulate(CAMERA[FRAME, FRAME, 0], 0, "scene")
    ideal, _ = shipped(without, info.noise, **scale)
    worst, better, best = (psnr_db((each - 100.0) / 400, (truth - 100.0) / 400) for each in (plain, repaired, ideal))
    assert better > worst + 3 and better > best - 1
    deviation = SCMOS.noise.std(truth.astype(float))
    clear = hot > 10 * deviation
    assert before.repaired is None and clear.sum() > 10
    assert 0.9 * clear.sum() <= info.repaired <= (hot > 3 * deviation).sum()


def test_what_is_given_back(shipped):
    """Values beyond twice white are repaired as well; NaN stays; nothing was measured where a pixel was repaired."""
    values = (300 + 3000 * (CAMERA[60:156, 120:216, 0] + np.random.default_rng(0).normal(0, 0.04, (96, 96)))).clip(0)
    broken = values.copy()
    broken[40, 50], broken[60, 70], broken[20, 20] = 60_000, 7_000, np.nan
    wanted = {"noise": "gaussian:7.5", "white": 4095.0}
    expected, _ = shipped(values, **wanted)
    found, info = shipped(broken, **wanted, repair_hot_pixels=True, uncertainty=True)
    assert info.repaired == 2 and np.isnan(found[20, 20]) and np.isnan(info.std).sum() == 3
    assert np.isnan(info.std[[40, 60, 20], [50, 70, 20]]).all()
    found[20, 20] = expected[20, 20]
    assert np.abs(found - expected).max() < 300  # of 3,000; the noise's deviation is 120
    stayed, _ = shipped(broken, **wanted)
    assert stayed[40, 50] == 60_000 and stayed[60, 70] > 5_000
    tensor, about = shipped(torch.from_numpy(np.stack([broken, values])[:, None]), **wanted, repair_hot_pixels=True)
    assert about.repaired == 2 and abs(float(tensor[0, 0, 60, 70]) - found[60, 70]) < 1
    whole, none = shipped(values, **wanted, repair_hot_pixels=True)
    assert none.repaired == 0 and np.array_equal(whole, expected)


def test_each_channel_has_its_own_and_pixels_are_counted(shipped):
    noise = parse_noise("gaussian:10")
    clean = skimage.data.astronaut()[20:116, 130:226] / 255
    noisy = noise.corrupt(0.2 + 0.6 * clean, np.random.default_rng(0)).astype(np.float32)
    noisy[40, 40, 1] = noisy[50, 50, 0] = noisy[50, 50, 2] = 1.8
    found, info = shipped(noisy, noise, repair_hot_pixels=True)
    assert info.repaired == 2 and (found[[40, 50, 50], [40, 50, 50], [1, 0, 2]] < 1.2).all()
    gray = np.repeat(noisy[..., :1], 3, axis=2)  # one gray image in three channels, taken by a gray network
    assert shipped(gray, noise, repair_hot_pixels=True)[1].repaired == 1
