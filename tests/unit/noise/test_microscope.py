"""The simulated microscope: signal, noise, rows, hot pixels and blur are what its file says."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from n2s_dist.noise.microscope import Microscope

PLAIN = Microscope("microscope", "a test's", gain=2.0, read_noise=3.0, offset=100, electrons=500)
FLAT = np.full((300, 400), 0.4)


def test_a_frame_has_the_mean_and_variance_of_its_file():
    for electrons in (0, 10, 500):
        noisy, truth = PLAIN.simulate(FLAT, 0, "flat", electrons=electrons)
        signal = 100 + 2.0 * electrons * 0.4
        assert truth.dtype == noisy.dtype == np.uint16 and (truth == round(signal)).all()
        variance = 2.0 * (signal - 100) + 9 + 1 / 12  # of rounding
        assert noisy.var() == pytest.approx(variance, rel=0.03)
        assert noisy.mean() == pytest.approx(signal, abs=5 * (variance / noisy.size) ** 0.5)


def test_rows_have_noise_in_common_of_the_said_deviation():
    stripes = dataclasses.replace(PLAIN, row_noise=5.0, bits=0)
    tall = np.full((3000, 200), 0.4)
    noisy, truth = stripes.simulate(tall, 0, "flat", electrons=0)
    means = (noisy - truth).mean(axis=1)
    assert means.std() == pytest.approx((25 + 9 / 200) ** 0.5, rel=0.05)
    without, _ = dataclasses.replace(stripes, row_noise=0).simulate(tall, 0, "flat", electrons=0)
    rows = (noisy - without).astype(float)
    np.testing.assert_allclose(rows, rows[:, :1].repeat(200, axis=1), atol=1e-4)  # float32 near 100


def test_hot_pixels_are_in_the_same_places_in_each_frame_and_not_in_the_truth():
    hot = dataclasses.replace(PLAIN, hot_pixels=0.01, hot_electrons=2000)
    frames = [hot.simulate(FLAT, 0, "flat", frame=number, electrons=0) for number in range(2)]
    first, second = (noisy > 100 + 10 * 3 for noisy, _ in frames)
    assert first.mean() == pytest.approx(0.01, abs=0.001)
    assert (first & second).sum() > 0.95 * first.sum()
    assert (frames[0][1] == 100).all()
    added = hot.hot_signal(FLAT.shape, 0)
    assert added[added > 0].mean() == pytest.approx(2.0 * 2000, rel=0.15)


def test_optics_blur_the_signal_and_not_the_noise():
    clean = np.zeros((64, 64))
    clean[32, 32] = 1
    soft = dataclasses.replace(PLAIN, optics_blur=1.5, bits=0)
    _, truth = soft.simulate(clean, 0, "point")
    np.testing.assert_allclose(truth - 100, 2.0 * 500 * gaussian_filter(clean, 1.5, mode="mirror"), atol=1e-4)
    noisy, truth = soft.simulate(FLAT, 0, "flat")
    noise = (noisy - truth).astype(float)
    assert abs((noise[:, 1:] * noise[:, :-1]).mean() / noise.var()) < 0.02


def test_the_noise_s_own_blur_correlates_it_and_keeps_its_strength():
    width = 0.8
    noisy, truth = dataclasses.replace(PLAIN, noise_blur=width, bits=0).simulate(FLAT, 0, "flat")
    noise = (noisy - truth).astype(float)
    assert noise.var() == pytest.approx(2.0 * 500 * 2.0 * 0.4 + 9, rel=0.03)
    taps = np.exp(-0.5 * (np.arange(-9, 10) / width) ** 2)
    for lag in (1, 2):
        expected = (taps[lag:] * taps[:-lag]).sum() / (taps**2).sum()
        for one, other in ((noise[:, lag:], noise[:, :-lag]), (noise[lag:], noise[:-lag])):
            assert (one * other).mean() / noise.var() == pytest.approx(expected, abs=0.02)


def test_frames_repeat_bit_for_bit_and_differ_from_each_other():
    first, _ = PLAIN.simulate(FLAT, 3, "a", frame=1)
    np.testing.assert_array_equal(first, PLAIN.simulate(FLAT, 3, "a", frame=1)[0])
    for seed, name, frame in ((4, "a", 1), (3, "b", 1), (3, "a", 2)):
        other, _ = PLAIN.simulate(FLAT, seed, name, frame=frame)
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.02


def test_twelve_bits_end_at_4095_and_floats_nowhere():
    bright = dataclasses.replace(PLAIN, electrons=1e5)
    assert dataclasses.replace(bright, bits=12).simulate(FLAT, 0, "a")[0].max() == 4095
    assert bright.simulate(FLAT, 0, "a")[0].max() == 65535
    floats, _ = dataclasses.replace(bright, bits=0).simulate(FLAT, 0, "a")
    assert floats.dtype == np.float32 and floats.max() > 65535 and (floats % 1).any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gain": 0}, "gain is above 0"),
        ({"bits": 7}, "bits are 0"),
        ({"hot_pixels": 1}, "hot_pixels is a share"),
        ({"noise_blur": 9}, "noise_blur is at most 8"),
        ({"offset": 70000}, "offset is below white"),
        ({"read_noise": -1}, "read_noise is 0 or more"),
        ({"row_noise": float("nan")}, "row_noise is 0 or more"),
    ],
)
def test_figures_that_can_t_be_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(PLAIN, **change)
