"""Hot and dead pixels: found where they are, and nowhere else; repaired images are nearer to the truth."""

import dataclasses

import numpy as np
import pytest
import skimage.data
import torch
from scipy.special import ndtr

from n2s_dist.inference.hot_pixels import fill_by_median, find_defective
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


def flat(level: float) -> np.ndarray:
    return np.full((300, 300, 1), level)


@pytest.mark.parametrize(
    "noise", ["gaussian:5", "gaussian:25", "gaussian:55", "poisson:0.005", "poisson:0.1", "gamma:20", "gamma:200"]
)
def test_plain_noise_is_left_alone(noise):
    """Of a photograph with its texture, and of flat areas from dark to bright, one value in 100,000."""
    kind, rng = parse_noise(noise), np.random.default_rng(0)
    images = [kind.corrupt(clean, rng) for clean in (CAMERA, *map(flat, (0.002, 0.05, 0.5, 1.0)))]
    found = sum(int(find_defective(image, kind).sum()) for image in images)
    assert found <= 1e-5 * sum(image.size for image in images)


@pytest.mark.parametrize("noise", ["gaussian:10", "gaussian:10+blur:0.7", "poisson:0.002", "poisson-gaussian:0.002:5"])
def test_hot_and_dead_pixels_are_found_and_no_others(noise):
    kind, rng = parse_noise(noise), np.random.default_rng(1)
    noisy = kind.corrupt(0.2 + 0.6 * CAMERA, rng)
    rows, columns = (grid.ravel() for grid in np.mgrid[0:512:16, 0:512:16])
    truth = np.zeros(noisy.shape, bool)
    truth[rows, columns] = True
    for value in (0.0, 1.9):
        broken = np.where(truth, value, noisy)
        # Without light a pixel is far from its neighbors where these are bright enough.
        sure = truth & (np.abs(broken - (0.2 + 0.6 * CAMERA)) > 10 * kind.std(0.2 + 0.6 * CAMERA))
        found = find_defective(broken, kind)
        assert sure.sum() > 300 and found[sure].mean() > 0.9 and not (found & ~truth).any()


def star(width: float, at: np.ndarray) -> np.ndarray:
    """What 9 x 9 pixels get of a Gaussian spot of this full width at half maximum, the sum being 1: [9, 9]."""
    ends = (np.arange(10) - 4.5 - at[:, None]) / (width / 2.3548)
    down, right = np.diff(ndtr(ends), axis=1)
    return np.outer(down, right)


@pytest.mark.parametrize("width", [1.5, 2.5])
def test_stars_stay(width):
    """From faint ones to some that are many times as bright as white, wherever in a pixel they are."""
    rng, noise = np.random.default_rng(0), PoissonGaussian(0.001, 0.01)
    sky = np.full((400, 400, 1), 0.05)
    for row in range(4, 390, 13):
        for column in range(4, 390, 13):
            sky[row - 4 : row + 5, column - 4 : column + 5, 0] += 10 ** rng.uniform(-1, 1) * star(
                width, rng.uniform(-0.5, 0.5, 2)
            )
    assert find_defective(noise.corrupt(sky, rng), noise).sum() <= 1  # of 900 stars
    sky[200, 200:202] = sky[300, 300] = sky[301, 301] = 3  # two pixels side by side, and corner to corner
    found = find_defective(noise.corrupt(sky, rng), noise)
    assert not found[200, 200:202].any() and not found[300:302, 300:302].any()


def test_a_hole_gets_the_median_of_the_neighbors_that_are_there():
    image = np.arange(25.0).reshape(5, 5, 1)
    holes, missing = np.zeros((2, 5, 5, 1), bool)
    holes[2, 2], holes[0, 0] = True, True
    missing[2, 2] = missing[0, 0] = missing[1, 1] = missing[1, 2] = True
    image[2, 2] = image[1, 1] = image[1, 2] = 1e6
    fill_by_median(image, holes, missing)
    assert image[2, 2, 0] == np.median([8, 11, 13, 16, 17, 18]) and image[1, 1, 0] == 1e6
    assert image[0, 0, 0] == np.median([1, 1, 5, 5])  # mirrored at the corner, where image[1, 1] is missing


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


def test_small_images_have_none():
    noise = parse_noise("gaussian:5")
    assert not find_defective(np.eye(4)[:, :, None], noise).any()
    image = np.zeros((5, 5, 1))
    image[0, 0] = 1
    assert find_defective(image, noise).sum() == 1
