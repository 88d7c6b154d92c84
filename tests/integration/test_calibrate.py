"""n2s calibrate on simulated frames of known truth, its refusals, and its file wherever noise is named."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from support.denoisers import save_network
from support.raw_files import write_dng

from n2s_dist import denoise, evaluate
from n2s_dist.commands import build_shards
from n2s_dist.commands.calibrate import main
from n2s_dist.inference.network_choice import load_denoiser
from n2s_dist.noise.calibration import read_calibration
from n2s_dist.noise.correlated import Correlated
from n2s_dist.noise.field import Field
from n2s_dist.noise.microscope import Microscope
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import format_noise, parse_noise
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

SIZE = (160, 192)
SCMOS = Microscope("microscope", "a test's", gain=2.17, read_noise=3.48, offset=100, electrons=1000, bits=12,
                   hot_pixels=5e-4, hot_electrons=300)  # fmt: skip
EVEN = np.ones(SIZE)
SCENE = skimage.data.camera()[100:260, 150:342] / 255
LEVELS = (30, 200, 900, 1500)


def shoot(
    microscope: Microscope, path: Path, electrons: float, count: int = 4, *, clean: np.ndarray = EVEN, seed: int = 0
) -> Path:
    """Frames of one exposure, pages of a TIFF."""
    stack = [microscope.simulate(clean, seed, path.stem, frame=n, electrons=electrons)[0] for n in range(count)]
    tifffile.imwrite(path, np.stack(stack), photometric="minisblack")
    return path


@pytest.fixture
def calibrated(cli, tmp_path):
    """Run n2s calibrate on frames of a microscope with these options: its output and the file."""

    def run(microscope: Microscope, *options: str, levels=LEVELS, dark: bool = True, count: int = 4):
        words: list[object] = ["--dark", shoot(microscope, tmp_path / "dark.tif", 0, count)] if dark else []
        if levels:
            words += ["--flat", *(shoot(microscope, tmp_path / f"flat{n}.tif", n, count) for n in levels)]
        done = cli(main, *words, *options, "--out", tmp_path / "camera.yaml")
        assert done.code == 0, done.err
        return done.out.splitlines(), read_calibration(tmp_path / "camera.yaml")

    return run


def check(camera, microscope: Microscope) -> None:
    assert camera.gain == pytest.approx(microscope.gain, rel=0.05)
    assert camera.read_noise == pytest.approx(microscope.read_noise, rel=0.05)
    assert camera.black_level == pytest.approx(microscope.offset, abs=0.5)
    assert camera.correlation_width == pytest.approx(microscope.noise_blur, abs=0.1)


@pytest.mark.parametrize("width", [0.0, 0.5, 0.8, 1.3])
def test_gain_read_noise_black_level_and_width_are_the_truth(calibrated, width):
    microscope = dataclasses.replace(SCMOS, noise_blur=width)
    lines, camera = calibrated(microscope)
    check(camera, microscope)
    assert (camera.white_level, camera.step, camera.row_noise) == (4095, 1, 0)
    assert len(lines) == 6 and lines[4].startswith("white level   4095 ADU (of 12 bits")
    assert format_noise(camera.noise()) in lines[4] and (camera.correlation_width == 0) == (width == 0)


def test_two_frames_of_each_exposure_are_enough(calibrated):
    check(calibrated(SCMOS, count=2)[1], SCMOS)


def test_row_noise_is_told_from_read_noise(calibrated):
    striped = dataclasses.replace(SCMOS, row_noise=3.0)
    lines, camera = calibrated(striped, count=8)
    check(camera, striped)
    assert camera.row_noise == pytest.approx(3.0, rel=0.15) and camera.column_noise == 0
    assert "row noise" in lines[2]
    assert camera.dark_std**2 == pytest.approx(3.48**2 + 9 + 1 / 12, rel=0.1)


@pytest.mark.parametrize("lit", ["flats", "scene"])
def test_two_widths_and_correlated_channels_are_measured(cli, tmp_path, lit):
    field = Field((0.45, 0.9), channels=(0.5, -0.2, 0.3))
    noise, rng = Correlated(PoissonGaussian(2.0, 5.0, 100.0), field), np.random.default_rng(0)

    def shoot_color(name: str, light: np.ndarray) -> Path:
        frames = noise.corrupt(np.repeat(light[None, :, :, None], 3, axis=3).repeat(6, axis=0), rng)
        tifffile.imwrite(tmp_path / name, np.rint(frames).astype(np.uint16), photometric="rgb")
        return tmp_path / name

    flats = [shoot_color(f"flat{level}.tif", 100.0 + level * EVEN) for level in (200, 2000)]
    scene = shoot_color("scene.tif", 100 + 3000 * SCENE)
    words = ["--flat", *flats] if lit == "flats" else ["--stack", scene]
    words = ["--dark", shoot_color("dark.tif", 100 * EVEN), "--white", 4095, *words]
    done = cli(main, *words, "--out", tmp_path / "camera.yaml")
    assert done.code == 0, done.err
    camera = read_calibration(tmp_path / "camera.yaml")
    assert (camera.width_across, camera.width_down) == (pytest.approx(0.45, abs=0.06), pytest.approx(0.9, abs=0.06))
    assert camera.channel_correlations == pytest.approx([0.5, -0.2, 0.3], abs=0.02)
    assert camera.noise().field.widths == (camera.width_across, camera.width_down)
    assert "down columns" in done.out and "between red and green" in done.out


def test_saturated_flats_are_left_out_and_named(calibrated):
    lines, camera = calibrated(SCMOS, levels=(*LEVELS, 1900, 3000))
    check(camera, SCMOS)
    assert "saturated and left out" in lines[1] and "flat1900.tif" in lines[1] and "flat3000.tif" in lines[1]
    assert "where frames saturate" in lines[4] and camera.white_level == 4095


def test_frames_of_one_scene_say_the_same(calibrated, tmp_path):
    blurred = dataclasses.replace(SCMOS, noise_blur=0.7)
    scene = shoot(blurred, tmp_path / "scene.tif", 1000, 10, clean=SCENE)
    _, camera = calibrated(blurred, "--stack", scene, levels=())
    check(camera, blurred)


def test_without_dark_frames_the_noise_of_each_value_is_known(calibrated, tmp_path):
    lines, camera = calibrated(SCMOS, dark=False)
    assert "not known without --dark" in lines[0] and "not known without --dark" in lines[2]
    noise = camera.noise(black=0)
    for electrons in (30, 500):
        signal = 100 + 2.17 * electrons
        variance = 2.17 * (signal - 100) + 3.48**2 + 1 / 12
        assert (noise.std(signal / 4095) * 4095) ** 2 == pytest.approx(variance, rel=0.05)
    check(calibrated(SCMOS, "--black=100", dark=False)[1], SCMOS)


def test_color_frames_are_gray_ones_side_by_side(cli, tmp_path):
    words = []
    for electrons in (0, 50, 400, 1500):
        stack = np.stack(
            [
                np.stack([SCMOS.simulate(EVEN, 0, color, frame=n, electrons=electrons)[0] for color in "rgb"], axis=-1)
                for n in range(4)
            ]
        )
        words.append(tmp_path / f"{electrons}.tif")
        tifffile.imwrite(words[-1], stack, photometric="rgb")
    done = cli(main, "--dark", words[0], "--flat", *words[1:], "--out", tmp_path / "camera.yaml")
    assert done.code == 0, done.err
    check(read_calibration(tmp_path / "camera.yaml"), SCMOS)


def test_raw_photographs_are_frames_of_four_colors(cli, tmp_path):
    """Whose light differs: green gets twice that of red and four times that of blue."""
    pytest.importorskip("rawpy")
    share = np.tile([[0.5, 1.0], [1.0, 0.25]], (SIZE[0] // 2, SIZE[1] // 2))
    words = []
    for electrons in (0, 50, 400, 1500):
        words.append(tmp_path / str(electrons))
        words[-1].mkdir()
        for n in range(4):
            frame, _ = SCMOS.simulate(share, 0, "mosaic", frame=n, electrons=electrons)
            write_dng(words[-1] / f"{n}.dng", np.asarray(frame, np.uint16).reshape(SIZE), black=(100,) * 4)
    done = cli(main, "--dark", words[0], "--flat", *words[1:], "--out", tmp_path / "camera.yaml")
    assert done.code == 0, done.err
    camera = read_calibration(tmp_path / "camera.yaml")
    check(camera, SCMOS)
    assert camera.white_level == 4095 and "the files' own word" in done.out


def test_floats_and_shifted_bits(calibrated):
    floats = dataclasses.replace(SCMOS, bits=0)
    _, camera = calibrated(floats, "--white=4095")
    check(camera, floats)
    assert camera.step == 0
    deep = dataclasses.replace(SCMOS, bits=16)
    assert calibrated(deep, "--white=60000")[1].white_level == 60000


def test_noise_that_lies_on_no_line_becomes_a_curve(cli, tmp_path):
    """As of a camera's own tone curve: values are the root of light, so noise hardly grows, and then falls."""
    rng, words = np.random.default_rng(0), []
    for electrons in (100, 1000, 4000, 9000, 16000, 24000):
        light = rng.poisson(electrons, (6, *SIZE)) + 15 * rng.standard_normal((6, *SIZE))
        shown = np.rint(4000 * np.clip(light / 30000, 0, 1) ** 0.65).astype(np.uint16)
        words.append(tmp_path / f"{electrons}.tif")
        tifffile.imwrite(words[-1], shown, photometric="minisblack")
    done = cli(main, "--flat", *words, "--white=4095", "--out", tmp_path / "camera.yaml")
    assert done.code == 0 and "off a line, so written as a curve" in done.out, done.err
    noise = read_calibration(tmp_path / "camera.yaml").noise(black=0)
    for path in words:
        stack = tifffile.imread(path).astype(float)
        assert noise.std(stack.mean() / 4095) * 4095 == pytest.approx(stack.var(0, ddof=1).mean() ** 0.5, rel=0.03)


def test_weak_frames_are_refused_in_one_line_and_nothing_is_written(cli, tmp_path):
    dark, flat = shoot(SCMOS, tmp_path / "dark.tif", 0), shoot(SCMOS, tmp_path / "flat.tif", 200)
    one = shoot(SCMOS, tmp_path / "one.tif", 200, 1)
    small = shoot(SCMOS, tmp_path / "small.tif", 200, clean=EVEN[:100])
    bright = shoot(SCMOS, tmp_path / "bright.tif", 5000)
    twice = tmp_path / "twice.tif"
    tifffile.imwrite(twice, np.stack([tifffile.imread(one)] * 2), photometric="minisblack")
    black = shoot(dataclasses.replace(SCMOS, offset=2), tmp_path / "black.tif", 0)
    floats = shoot(dataclasses.replace(SCMOS, bits=0), tmp_path / "floats.tif", 200)
    (tmp_path / "mixed").mkdir()
    for number, electrons in enumerate((200, 500)):
        shoot(SCMOS, tmp_path / f"mixed/{number}.tif", electrons, 1)
    falling = tmp_path / "falling.tif"
    tifffile.imwrite(falling, 3000 + np.random.default_rng(0).normal(0, 2, (4, *SIZE)).round().astype(np.uint16),
                     photometric="minisblack")  # fmt: skip
    for words, said in (
        (["--dark", dark], "--flat or --stack is missing"),
        (["--dark", dark, "--flat", one], "one.tif holds one frame: give two or more of each exposure"),
        (["--dark", one, "--flat", flat], "one.tif holds one frame"),
        (["--dark", dark, "--flat", small], "frames of different sizes: 192 x 100"),
        (["--flat", flat], "1 unsaturated exposures are too few"),
        (["--flat", flat, flat], "too near each other"),
        (["--dark", dark, "--flat", bright], "0 unsaturated exposures are too few"),
        (["--dark", dark, "--flat", twice], "twice.tif has no noise at all"),
        (["--dark", black, "--flat", flat], "cut off at 0: raise the camera's offset, or leave --dark out"),
        (["--flat", floats, floats], "--white is missing"),
        (["--dark", dark, "--flat", tmp_path / "mixed"], "different brightness"),
        (["--flat", flat, falling], "does not grow with light"),
        (["--dark", dark, "--flat", tmp_path / "nowhere"], "nowhere does not exist"),
        (["--dark", dark, "--flat", flat, "--white=50", "--black=100"], "--white is 50"),
    ):
        assert said in cli(main, *words, "--out", tmp_path / "camera.yaml").error(), words
        assert not (tmp_path / "camera.yaml").exists()
    assert "should end with .yaml" in cli(main, "--dark", dark, "--flat", flat, "--out", tmp_path / "camera").error()


# --- where noise is named -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def camera_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("camera")
    path = folder / "camera.yaml"
    path.write_text("kind: calibration\nblack_level: 100\nwhite_level: 4095\ngain: 20\nread_noise: 30\n")
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("network"), channels=1)


def a_frame(path: Path, kind: str = "uint16") -> np.ndarray:
    noise = parse_noise("poisson-gaussian:0.005:2")
    values = 100 + 3995 * noise.corrupt(SCENE, np.random.default_rng(0))
    frame = values.astype(kind) if kind == "float32" else np.clip(np.rint(values), 0, 4095).astype(kind)
    tifffile.imwrite(path, frame)
    return frame


def test_denoising_takes_noise_white_and_black_from_the_file(cli, camera_file, network, tmp_path):
    a_frame(tmp_path / "noisy.tif")
    written = format_noise(read_calibration(camera_file).noise())
    ways = {
        "file": [f"--noise=camera:{camera_file}"],
        "named": [f"--noise={written}", "--white=4095", "--black=100"],
        "moved": [f"--noise=camera:{camera_file}", "--black=0"],
    }
    for name, options in ways.items():
        done = cli(denoise.main, f"--checkpoint={network}", tmp_path / "noisy.tif", tmp_path / f"{name}.tif", *options)
        assert done.code == 0, done.err
    found = {name: tifffile.imread(tmp_path / f"{name}.tif").astype(int) for name in ways}
    assert np.abs(found["file"] - found["named"]).max() <= 1
    assert np.abs(found["moved"] - found["file"]).mean() < 2  # the same noise on another scale
    high = cli(denoise.main, f"--checkpoint={network}", tmp_path / "noisy.tif", tmp_path / "a.tif", *ways["file"],
               "--black=200")  # fmt: skip
    assert "the camera's black level is 100" in high.error() and not (tmp_path / "a.tif").exists()


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_the_api_takes_the_file(camera_file, network, tmp_path, kind):
    frame, text = a_frame(tmp_path / "noisy.tif", kind), f"camera:{camera_file}"
    denoiser = load_denoiser(network)
    found, info = denoiser(frame, noise=text)
    noise = read_calibration(camera_file).noise()
    expected, _ = denoiser(frame, noise=noise, white=4095, black=100)
    np.testing.assert_array_equal(found, expected)
    assert info.noise == noise and not info.estimated


def test_floats_on_the_unit_scale_are_refused_where_black_is_zero_too(network, tmp_path):
    path = tmp_path / "camera.yaml"
    path.write_text("kind: calibration\nblack_level: 0\nwhite_level: 4095\ngain: 20\nread_noise: 30\n")
    said = r"values go up to \S+, as on the 0-1 scale, but --black is 0 and --white 4095.*poisson-gaussian"
    with pytest.raises(UserError, match=said):
        load_denoiser(network)(SCENE.astype(np.float32), noise=f"camera:{path}")


def test_shipped_networks_take_the_file_as_well(camera_file, tmp_path):
    frame = a_frame(tmp_path / "noisy.tif")
    found, info = load_denoiser()(frame, noise=f"camera:{camera_file}")
    assert info.noise == read_calibration(camera_file).noise() and found.shape == frame.shape


def test_shards_of_noisy_frames_have_the_file_s_scale_and_noise(cli, camera_file, tmp_path):
    (tmp_path / "frames").mkdir()
    frame = a_frame(tmp_path / "frames/a.tif")
    words = [tmp_path / "frames", "--out", tmp_path / "shards", "--gray", "--tile-size=160", "--already-noisy"]
    done = cli(build_shards.main, *words, f"--noise=camera:{camera_file}", "--workers=1")
    assert done.code == 0, done.err
    shards = ShardSet(tmp_path / "shards")
    noise = read_calibration(camera_file).noise(4095, 100)
    assert shards.noise == format_noise(noise)
    sample = shards[0]
    expected = (frame[: sample.tile.shape[0], sample.column : sample.column + sample.tile.shape[1]] - 100.0) / 3995
    np.testing.assert_allclose(noise.encoding.decode(sample.tile)[..., 0], expected, atol=1e-3)


def test_shards_of_clean_images_get_the_file_s_noise(cli, camera_file, photographs, tmp_path):
    words = [photographs, "--out", tmp_path / "shards", "--tile-size=64", "--workers=1"]
    assert cli(build_shards.main, *words, f"--noise=camera:{camera_file}").code == 0
    assert ShardSet(tmp_path / "shards").noise == format_noise(read_calibration(camera_file).noise())


def test_evaluation_takes_the_file(cli, camera_file, network, photographs, tmp_path):
    gray = tmp_path / "gray"
    gray.mkdir()
    tifffile.imwrite(gray / "a.tif", np.rint(255 * SCENE).astype(np.uint8))
    words = [f"--checkpoint={network}", f"--benchmark=own={gray}", "--no-wandb"]
    done = cli(evaluate.main, *words, f"--noise=camera:{camera_file}", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert format_noise(read_calibration(camera_file).noise()) in (tmp_path / "out/results.json").read_text()
    noisy = [f"--checkpoint={network}", f"--noisy=own={gray}", "--no-wandb", "--out", tmp_path / "noisy"]
    done = cli(evaluate.main, *noisy, f"--noise=camera:{camera_file}")
    assert done.code == 0, done.err
    assert format_noise(read_calibration(camera_file).noise(black=0)) in (tmp_path / "noisy/results.json").read_text()
