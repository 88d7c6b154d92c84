"""Photon transfer: statistics of frames against NumPy's, lines and their refusals, on noise of known law."""

import numpy as np
import pytest

from n2s_dist.noise.photon_transfer import (
    Exposure,
    FrameStatistics,
    dark_pixels,
    fit_line,
    flat_exposure,
    is_below,
    scene_exposures,
    steady_pixels,
)
from n2s_dist.utils.errors import UserError

GAIN, READ, BLACK = 2.0, 3.0, 100.0
RNG = np.random.default_rng


def frames(electrons: np.ndarray | float, count: int, seed: int = 0, size=(120, 150, 1)) -> np.ndarray:
    """Raw values without rounding, [N, H, W, 1]."""
    rng = RNG(seed)
    light = np.broadcast_to(electrons, (count, *size))
    return BLACK + GAIN * rng.poisson(light) + READ * rng.standard_normal((count, *size))


def counted(stack: np.ndarray, black: float | None = BLACK) -> FrameStatistics:
    found = FrameStatistics("frames", black)
    for frame in stack:
        found.add(frame)
    return found


def test_statistics_are_numpys():
    stack = frames(50, 7)
    stack += stack[0].mean() - stack.mean(axis=(1, 2, 3), keepdims=True)  # no flicker is left to take out
    found = counted(stack, None)
    np.testing.assert_allclose(found.mean, stack.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, stack.var(axis=0, ddof=1), rtol=1e-9)
    np.testing.assert_array_equal(found.most, stack.max(axis=0))
    pairs = [(stack[i + 1] - stack[i]) / 2**0.5 for i in (0, 2, 4)]
    np.testing.assert_allclose(found.differences, pairs, rtol=1e-4, atol=1e-4)
    assert (found.count, found.highest, found.lowest) == (7, stack.max(), stack.min())


def test_drift_and_flicker_are_no_noise():
    dark = frames(0, 6) + 5 * np.arange(6)[:, None, None, None]
    found = counted(dark, None)
    assert found.variance.mean() == pytest.approx(READ**2, rel=0.02)
    assert found.mean.mean() == pytest.approx(BLACK + 12.5, abs=0.1)
    flicker = BLACK + (frames(1000, 6) - BLACK) * np.array([1, 1.05, 0.95, 1.02, 0.98, 1])[:, None, None, None]
    assert counted(flicker).variance.mean() == pytest.approx(GAIN**2 * 1000 + READ**2, rel=0.03)


def test_the_step_between_values_is_found():
    assert counted(np.rint(frames(50, 2))).step == 1
    assert counted(16 * np.rint(frames(50, 2) / 4)).step == 16
    assert counted(frames(50, 2)).step == 0
    assert counted(np.concatenate([np.rint(frames(50, 1)), frames(50, 1)])).step == 0


def test_a_spike_at_the_highest_value_is_saturation():
    bright = frames(2000, 2)
    assert not counted(bright).is_spike
    assert counted(np.minimum(bright, np.quantile(bright, 0.9))).is_spike
    full = counted(np.full((2, 20, 20, 1), 4095.0))
    assert full.is_spike and full.highest == 4095


def test_hot_and_blinking_pixels_do_not_count():
    dark = frames(0, 8)
    dark[:, 3, 4, 0] += 200  # hot
    dark[::2, 5, 6, 0] += 200  # blinking
    found = counted(dark, None)
    good = dark_pixels(found)
    assert not good[3, 4, 0] and not good[5, 6, 0] and good.mean() > 0.999
    exposure = flat_exposure(found, good)
    assert exposure.level == pytest.approx(BLACK, abs=0.1) and exposure.variance == pytest.approx(9, rel=0.02)
    only = np.zeros(good.shape, bool)
    only[:10] = True
    assert not steady_pixels(found, only)[10:].any()


def line(*levels: float, gain: float = GAIN, dark: float = 9.0) -> list[Exposure]:
    return [Exposure(f"{level}", level, gain * (level - BLACK) + dark, 1e-3, level + 100) for level in levels]


def test_points_on_a_line_give_that_line():
    (dark,) = line(BLACK)
    for with_dark in (True, False):
        found = fit_line(line(200, 1000, 5000), dark if with_dark else None, None if with_dark else BLACK)
        assert (found.gain, found.black) == pytest.approx((GAIN, BLACK)) and found.bend == 0
        assert found.dark_variance == pytest.approx(9) and found.black_is_known


@pytest.mark.parametrize("constant", [50.0, -150.0])
def test_an_unknown_black_level_leaves_the_noise_as_it_is(constant):
    points = [Exposure(f"{x}", x, 2 * x + constant, 1e-3, 2 * x) for x in (200.0, 1000.0, 5000.0)]
    found = fit_line(points, None, None, rounding=1 / 12)
    assert not found.black_is_known and found.black >= 0 and found.dark_variance >= 1 / 12 - 1e-9
    for x in (200, 3000):
        assert found.gain * (x - found.black) + found.dark_variance == pytest.approx(2 * x + constant)


def test_a_scene_lies_on_the_line_whatever_its_histogram():
    rng = RNG(3)
    electrons = np.where(rng.random((120, 150, 1)) < 0.9, 5.0, 400 * rng.random((120, 150, 1)))
    found = counted(frames(electrons, 10))
    exposures = scene_exposures(found, np.ones(found.variance.shape, bool), np.inf)
    assert len(exposures) > 5
    fitted = fit_line(exposures, flat_exposure(counted(frames(0, 10, 1), None), found.variance > -1), None)
    assert fitted.gain == pytest.approx(GAIN, rel=0.02) and fitted.dark_variance == pytest.approx(9, rel=0.03)
    assert fitted.bend == 0


def test_pixels_of_a_scene_near_white_do_not_count():
    electrons = np.linspace(10, 1000, 150)[None, :, None]
    found = counted(np.minimum(frames(electrons, 10), 1500))
    exposures = scene_exposures(found, np.ones(found.variance.shape, bool), 1500)
    assert exposures and all(each.level + 4 * each.variance**0.5 < 1500 for each in exposures)
    assert fit_line(exposures, None, BLACK).gain == pytest.approx(GAIN, rel=0.03)


def test_an_exposure_that_white_cuts_off_is_told():
    (exposure,) = line(1000)
    assert is_below(exposure, 1200) and not is_below(exposure, 1100) and not is_below(exposure, 1050)


def test_a_line_that_is_none_is_told():
    bent = [Exposure(f"{x}", x, x**0.5, 1e-3, x) for x in (100.0, 400.0, 1600.0, 6400.0, 25600.0)]
    assert fit_line(bent, None, 0.0).bend > 0.1
    assert fit_line(bent[:3], None, 0.0).bend == 0  # too few to tell


@pytest.mark.parametrize(
    ("exposures", "said"),
    [
        ([], "0 unsaturated exposures are too few"),
        (line(500), "1 unsaturated exposures are too few"),
        (line(500, 505), "too near each other"),
        (line(500, 5000, gain=-0.001, dark=90), "does not grow with light"),
        (line(500, 5000, gain=0, dark=0), "5.* has no noise at all"),
    ],
)
def test_exposures_that_say_nothing_are_refused(exposures, said):
    with pytest.raises(UserError, match=said):
        fit_line(exposures, None, BLACK)


def test_frames_that_do_not_belong_together_are_refused():
    found = counted(frames(50, 1))
    with pytest.raises(UserError, match="different sizes: 150 x 120 and 20 x 120"):
        found.add(np.zeros((120, 20, 1)))
    with pytest.raises(UserError, match="not finite"):
        found.add(np.full((120, 150, 1), np.nan))
    with pytest.raises(UserError, match=r"different brightness.*each exposure's frames apart"):
        found.add(frames(100, 1)[0])
