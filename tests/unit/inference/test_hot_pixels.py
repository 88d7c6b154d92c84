"""Hot and dead pixels: found where they are, and nowhere else."""

import numpy as np
import pytest
import skimage.data
from scipy.special import ndtr

from n2s_dist.inference.hot_pixels import fill_by_median, find_defective
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import parse_noise

pytestmark = pytest.mark.usefixtures("cpu")

CAMERA = skimage.data.camera()[:, :, None] / 255


def flat(level: float) -> np.ndarray:
    return np.full((200, 200, 1), level)


@pytest.mark.parametrize(
    "noise", ["gaussian:5", "gaussian:55", "poisson:0.005", "poisson:0.1", "gamma:20", "gamma:200"]
)
def test_plain_noise_is_left_alone(noise):
    """Of a photograph with its texture, and of flat areas from dark to bright, one value in 100,000."""
    kind, rng = parse_noise(noise), np.random.default_rng(0)
    images = [kind.corrupt(clean, rng) for clean in (CAMERA[100:356, 100:356], *map(flat, (0.002, 0.05, 0.5, 1.0)))]
    found = sum(int(find_defective(image, kind).sum()) for image in images)
    assert found <= 1e-5 * sum(image.size for image in images)


@pytest.mark.parametrize("noise", ["gaussian:10", "gaussian:10+blur:0.7", "poisson:0.002", "poisson-gaussian:0.002:5"])
def test_hot_and_dead_pixels_are_found_and_no_others(noise):
    kind, rng = parse_noise(noise), np.random.default_rng(1)
    clean = 0.2 + 0.6 * CAMERA
    noisy = kind.corrupt(clean, rng)
    rows, columns = (grid.ravel() for grid in np.mgrid[0:512:16, 0:512:16])
    truth = np.zeros(noisy.shape, bool)
    truth[rows, columns] = True
    for value in (0.0, 1.9):
        broken = np.where(truth, value, noisy)
        # Without light a pixel is far from its neighbors where these are bright enough.
        sure = truth & (np.abs(broken - clean) > 10 * kind.std(clean))
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


def test_small_images_have_none():
    noise = parse_noise("gaussian:5")
    assert not find_defective(np.eye(4)[:, :, None], noise).any()
    image = np.zeros((5, 5, 1))
    image[0, 0] = 1
    assert find_defective(image, noise).sum() == 1
