"""Correlation of noise between pixels: closed forms for blurred noise, lines told apart from blur."""

import numpy as np
import pytest

from n2s_dist.noise.blurred import blur, kernel, radius
from n2s_dist.noise.correlation import channel_correlations, fit_width, measure_covariance


def blurred_noise(width: float, seed: int = 0, size: tuple[int, int] = (300, 320)) -> np.ndarray:
    reach = radius(width)
    white = np.random.default_rng(seed).standard_normal((size[0] + 2 * reach, size[1] + 2 * reach))
    return blur(white, kernel(width))


def measured(field: np.ndarray, counted: np.ndarray | None = None):
    return measure_covariance(field, np.ones(field.shape, bool) if counted is None else counted)


@pytest.mark.parametrize("width", [0.0, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5])
def test_the_width_of_a_blur_is_found(width):
    found = fit_width([measured(blurred_noise(width, seed)) for seed in range(3)])
    assert found.width == pytest.approx(width, abs=0.03)
    assert (found.width == 0) == (width == 0)


@pytest.mark.parametrize("width", [0.6, 1.2])
def test_correlations_are_those_of_the_kernel(width):
    found = measured(blurred_noise(width))
    taps = kernel(width)
    for lag, share in enumerate(found.correlations().T, 1):
        np.testing.assert_allclose(share, (taps[lag:] * taps[:-lag]).sum(), atol=0.03)
    assert found.variance == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("width", [0.0, 0.8])
def test_what_lines_have_in_common_is_no_blur(width):
    rng = np.random.default_rng(5)
    field = 2 * blurred_noise(width) + 1.5 * rng.standard_normal((300, 1)) + 0.8 * rng.standard_normal((1, 320))
    found = measured(field - field.mean())
    assert found.row == pytest.approx(1.5**2, rel=0.3) and found.column == pytest.approx(0.8**2, rel=0.3)
    assert found.alone == pytest.approx(4, rel=0.1)
    assert fit_width([found]).width == pytest.approx(width, abs=0.1)


def test_white_noise_has_no_lines():
    found = [measured(blurred_noise(0, seed)) for seed in range(10)]
    assert all(each.row == 0 and each.column == 0 for each in found)


def test_pixels_that_do_not_count_change_nothing():
    field, counted = blurred_noise(0.7), np.random.default_rng(1).random((300, 320)) > 0.1
    spoiled = np.where(counted, field, 1e6)
    assert measured(spoiled, counted) == measured(field, counted)
    assert fit_width([measured(spoiled, counted)]).width == pytest.approx(0.7, abs=0.03)


def test_unequal_widths_are_told_apart():
    white = np.random.default_rng(0).standard_normal((300, 328))
    taps = kernel(1.0)
    along_rows = sum(tap * white[:, i : i + 320] for i, tap in enumerate(taps))
    found = fit_width([measured(along_rows)])
    assert found.width_across == pytest.approx(1.0, abs=0.05) and found.width_down == 0


def test_correlations_of_channels_are_found_and_none_where_there_is_none():
    mixed = np.linalg.cholesky([[1.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 1.0]])
    field = np.random.default_rng(0).standard_normal((200, 210, 3)) @ mixed.T * [1.0, 5.0, 0.2]
    counted = np.random.default_rng(1).random(field.shape) > 0.1
    found = channel_correlations(np.where(counted, field, 1e6), counted)
    assert found == pytest.approx([0.5, 0.0, -0.3], abs=0.02) and found[1] == 0
