"""Bayer mosaics: what filters keep, and interpolation that is exact where images are straight."""

import numpy as np
import pytest

from n2s_dist.noise.demosaicing import METHODS, PATTERNS, filter_colors, mosaic

ROWS, COLUMNS = np.mgrid[:17, :22].astype(float)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mosaic_has_each_pixel_s_own_channel(pattern):
    color = np.stack([100 + 0 * ROWS, 200 + 0 * ROWS, 300 + 0 * ROWS], axis=-1)
    raw = mosaic(color, pattern)
    upper_left = "".join("RGB"[int(value) // 100 - 1] for value in raw[:2, :2].ravel())
    assert upper_left == pattern and raw.shape == (17, 22)
    np.testing.assert_array_equal(raw, np.array([100, 200, 300])[filter_colors(raw.shape, pattern)])
    np.testing.assert_array_equal(raw[2:, 2:], raw[:-2, :-2])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_constants_and_straight_ramps_come_back_exactly(method, pattern):
    constant = np.broadcast_to(np.array([0.2, 0.5, 0.7]), (17, 22, 3))
    np.testing.assert_allclose(METHODS[method](mosaic(constant, pattern), pattern), constant, atol=1e-13)
    ramp = np.stack([0.1 + 0.01 * ROWS, 0.5 - 0.02 * COLUMNS + 0.003 * ROWS, 0.3 + 0.004 * COLUMNS], axis=-1)
    found = METHODS[method](mosaic(ramp, pattern), pattern)
    inner = slice(2, -2)  # at the border an image goes on mirrored, which is no ramp
    np.testing.assert_allclose(found[inner, inner], ramp[inner, inner], atol=1e-13)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_known_pixels_stay_and_gray_detail_is_better_with_the_correction(pattern):
    gray = 0.5 + 0.3 * np.sin(0.9 * COLUMNS + 0.5 * ROWS)
    color = np.repeat(gray[..., None], 3, axis=2)
    raw = mosaic(color, pattern)
    errors = {}
    for name, method in METHODS.items():
        found = method(raw, pattern)
        np.testing.assert_allclose(mosaic(found, pattern), raw, atol=1e-13)
        errors[name] = np.abs(found - color)[2:-2, 2:-2].mean()
    assert errors["malvar"] < 0.5 * errors["bilinear"]


def test_malvar_s_green_at_red_is_the_paper_s_formula():
    raw = np.random.default_rng(0).random((9, 9))
    found = METHODS["malvar"](raw, "RGGB")[4, 4, 1]  # a red pixel
    bilinear = (raw[3, 4] + raw[5, 4] + raw[4, 3] + raw[4, 5]) / 4
    laplacian = raw[4, 4] - (raw[2, 4] + raw[6, 4] + raw[4, 2] + raw[4, 6]) / 4
    assert found == pytest.approx(bilinear + laplacian / 2)  # equation 2, with alpha = 1/2
