"""Calibration files: their noise on every scale, round trips, texts that name them, refusals."""

import dataclasses

import numpy as np
import pytest

from n2s_dist.noise.base import families, register
from n2s_dist.noise.calibration import Calibration, calibration_of, on_scale_of, read_calibration
from n2s_dist.noise.correlated import blurred
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.field import Field
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import format_noise, parse_cell_noise, parse_noise, parse_training_noise
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import UserError

CAMERA = Calibration("calibration", 100.5, 4095.0, gain=2.0, read_noise=3.0)
VARIANCE = 9 + 1 / 12  # in the dark, with rounding


@pytest.fixture
def written(tmp_path):
    CAMERA.write(tmp_path / "my_camera.yaml", ["for a test"])
    return tmp_path / "my_camera.yaml"


@pytest.mark.parametrize("black", [None, 0, 100])
@pytest.mark.parametrize("white", [None, 4095, 2000])
def test_the_noise_is_the_same_in_adu_on_every_scale(white, black):
    noise = CAMERA.noise(white, black)
    low, high = 100.5 if black is None else black, 4095 if white is None else white
    for adu in (100.5, 500, 1900):
        std = noise.std((adu - low) / (high - low)) * (high - low)
        assert std**2 == pytest.approx(2.0 * (adu - 100.5) + VARIANCE)


def test_what_lines_have_in_common_and_rounding_are_noise():
    whole = dataclasses.replace(CAMERA, row_noise=2.0, column_noise=1.0, step=4)
    assert whole.dark_std**2 == pytest.approx(9 + 4 + 1 + 16 / 12)
    assert dataclasses.replace(CAMERA, step=0).dark_std == 3
    silent = dataclasses.replace(CAMERA, read_noise=0, step=0).noise()
    assert isinstance(silent, PoissonGaussian) and parse_noise(format_noise(silent)).sigma > 0


def test_a_width_blurs_and_points_make_a_curve():
    wide = dataclasses.replace(CAMERA, correlation_width=0.7).noise()
    assert wide == blurred(CAMERA.noise(), 0.7) and format_noise(wide).endswith("+blur:0.7")
    points = dataclasses.replace(CAMERA, curve_values=[100.5, 1000, 4000], curve_std=[3, 40, 50])
    curve = points.noise()
    assert isinstance(curve, Curve)
    for value, std in ((100.5, 3), (1000, 40), (2500, 45)):
        assert curve.std((value - 100.5) / 3994.5) * 3994.5 == pytest.approx(std)


def test_what_was_measured_of_correlation_is_in_the_noise():
    """Lines have the share that they have of the variance on middle gray; plainly they are read noise."""
    whole = dataclasses.replace(CAMERA, row_noise=30.0, column_noise=20.0, correlation_width=0.6)
    noise = whole.noise()
    variance = (noise.std(0.5) * 3994.5) ** 2
    assert noise.field.widths == (0.6,) and noise.field.channels == ()
    assert (noise.field.rows, noise.field.columns) == pytest.approx((900 / variance, 400 / variance), rel=1e-5)
    assert parse_noise(format_noise(noise)).field == noise.field
    assert noise.white == whole.noise(plainly=True).white and whole.noise(plainly=True).field == Field((0.6,))
    uneven = dataclasses.replace(whole, width_across=0.3, width_down=1.1, channel_correlations=[0.5, 0.2, 0.4])
    assert uneven.noise().field == dataclasses.replace(noise.field, widths=(0.3, 1.1), channels=(0.5, 0.2, 0.4))
    assert uneven.noise(plainly=True) == whole.noise(plainly=True)
    assert dataclasses.replace(CAMERA, row_noise=0.5).noise().field == Field()  # a ten thousandth of the variance
    points = dataclasses.replace(whole, curve_values=[100.5, 4000], curve_std=[60, 80])
    assert points.noise().field.rows == pytest.approx(900 / (points.noise().std(0.5) * 3994.5) ** 2, rel=1e-5)


def test_networks_that_do_not_serve_it_get_the_noise_plainly(tmp_path):
    camera = dataclasses.replace(CAMERA, row_noise=30.0)
    camera.write(tmp_path / "camera.yaml", [])
    text = f"camera:{tmp_path / 'camera.yaml'}"
    assert on_scale_of(text, None, None, lambda noise: bool(noise.field.rows))[0] == camera.noise()
    assert on_scale_of(text, None, None, lambda noise: noise.field == Field())[0] == camera.noise(plainly=True)
    assert parse_noise(text) == camera.noise() and BuildOptions(noise=text).noise == format_noise(camera.noise())


def test_files_are_read_as_written(tmp_path, written):
    assert read_calibration(written) == CAMERA
    text = written.read_text()
    assert text.startswith("# for a test\nkind: calibration\n") and "gain: 2 # ADU per electron\n" in text
    curve = dataclasses.replace(CAMERA, correlation_width=0.5, curve_values=[100.5, 1000.0], curve_std=[3.0, 40.0])
    assert "width_across" not in text and "channel_correlations" not in text
    curve = dataclasses.replace(curve, width_across=0.25, width_down=1.0, channel_correlations=[0.5, -0.25, 0.125])
    curve.write(tmp_path / "deep/curve.yaml", [])
    assert read_calibration(tmp_path / "deep/curve.yaml") == curve


def test_texts_that_name_a_file_become_its_noise(written):
    text, noise = f"camera:{written}", CAMERA.noise()
    plain = format_noise(noise)
    assert parse_noise(text) == noise and parse_cell_noise(text) == plain
    assert parse_training_noise(f"{text},gaussian:5-55").holds(noise)
    assert read_config([f"--noise={text}"]).noise == plain
    assert BuildOptions(noise=text).noise == plain
    assert calibration_of(text) == CAMERA
    assert [calibration_of(other) for other in ("gaussian:25", None, Gaussian(0.1))] == [None] * 3


def test_a_file_may_lie_at_home(written, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_noise("camera:~/my_camera.yaml") == CAMERA.noise() == parse_noise("camera:$HOME/my_camera.yaml")
    (tmp_path / "curve.yaml").write_text("values: [0, 1]\nstd: [0.1, 0.2]\n")
    assert parse_noise("curve:~/curve.yaml") == parse_noise("curve:0=0.1_1=0.2")
    with pytest.raises(UserError, match="the environment has no NOWHERE"):
        parse_noise("camera:$NOWHERE/my_camera.yaml")


def test_the_file_s_scale_holds_where_none_is_given(written):
    text = f"camera:{written}"
    assert on_scale_of(text, None, None) == (CAMERA.noise(), 4095, 100.5)
    assert on_scale_of(text, 2000, None) == (CAMERA.noise(2000), 2000, 100.5)
    assert on_scale_of(text, None, 0) == (CAMERA.noise(None, 0), 4095, 0)
    assert on_scale_of("gaussian:25", 7, None) == ("gaussian:25", 7, None)


def test_images_that_are_noisy_already_have_whole_scales_and_the_same_noise(written):
    options = BuildOptions(noise=f"camera:{written}", already_noisy=True, validation_fraction=0)
    assert (options.white, options.black) == (4095, 100)
    noise = parse_noise(options.noise)
    for adu in (100.5, 900.0):
        assert (noise.std((adu - 100) / 3995) * 3995) ** 2 == pytest.approx(2 * (adu - 100.5) + VARIANCE, rel=1e-4)
    named = BuildOptions(noise=f"camera:{written}", already_noisy=True, validation_fraction=0, white=4000, black=90)
    assert (named.white, named.black) == (4000, 90)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "camera"}, "kind is camera, not calibration"),
        ({"gain": 0}, "gain is above 0"),
        ({"gain": 4000}, "gain is above 0, and below white"),
        ({"white_level": 100}, "white_level is above black_level"),
        ({"read_noise": -1}, "0 or more"),
        ({"read_noise": 5000}, "within the camera's noise"),
        ({"correlation_width": 9}, "from 0 to 8"),
        ({"width_across": 0.5}, "or both are missing"),
        ({"width_across": 0.5, "width_down": 9}, "from 0 to 8"),
        ({"channel_correlations": [0.5]}, "are three"),
        ({"channel_correlations": [0.9, 0.9, -0.9]}, "no three channels"),
        ({"curve_values": [1, 2]}, "lists of one length"),
        ({"curve_values": [2, 1], "curve_std": [1, 1]}, "growing"),
        ({"curve_values": [1], "curve_std": [1]}, "2 to 64 points"),
    ],
)
def test_figures_that_can_t_be_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(CAMERA, **change)


def test_files_that_are_none_are_named(tmp_path, written):
    path = tmp_path / "wrong.yaml"
    for text, said in (
        ("", "holds no calibration"),
        ("[1]", "holds no calibration"),
        (written.read_text().replace("gain: 2", "gain: much"), "gain is much: give a number"),
        (written.read_text().replace("gain: 2", "gian: 2"), "no 'gian', did you mean 'gain'"),
        (written.read_text() + "gain: 3\n", "comes twice"),
        (written.read_text() + "curve_values: [a]\ncurve_std: [b]\n", "wrong.yaml"),
        ("kind: microscope\nmodel: a\n", "kind"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=said) as raised:
            parse_noise(f"camera:{path}")
        assert str(path) in str(raised.value)
    with pytest.raises(UserError, match="can't be read"):
        parse_noise(f"camera:{tmp_path}/nowhere.yaml")
    with pytest.raises(UserError, match="leave it out"):
        parse_noise(f"camera:{written}+blur:0.5")
    for text in ("camera", "camera:"):
        with pytest.raises(UserError, match=r"or camera:FILE.yaml"):
            parse_noise(text)


def test_a_black_above_the_camera_s_is_refused():
    with pytest.raises(UserError, match=r"--black is 200, but the camera's black level is 100.5"):
        CAMERA.noise(None, 200)
    with pytest.raises(UserError, match="white has to be the higher one"):
        CAMERA.noise(50, None)


def test_no_family_takes_the_name_of_files():
    with pytest.raises(UserError, match="'camera' is there already"):
        register(type("Other", (Gaussian,), {"family": "camera"}))
    assert "camera" not in families()


@pytest.mark.parametrize("name", ["flat\udcfc", "über", "two\nlines: 3"])
def test_remarks_on_files_of_any_name_stay_remarks(tmp_path, name):
    CAMERA.write(tmp_path / "a.yaml", [f"saturated and left out: {name}"])
    assert read_calibration(tmp_path / "a.yaml") == CAMERA


def test_values_are_written_with_ten_digits(tmp_path):
    odd = dataclasses.replace(CAMERA, gain=np.pi, black_level=100.123456789)
    odd.write(tmp_path / "a.yaml", [])
    found = read_calibration(tmp_path / "a.yaml")
    assert (found.gain, found.black_level) == pytest.approx((np.pi, 100.123456789), rel=1e-9)
