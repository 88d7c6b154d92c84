"""n2s-denoise: files, folders and archives in and out, at the depth and with the transparency that they have."""

import errno
import shutil
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from n2s_dist import denoise
from n2s_dist.images.decoded import DecodedImage
from n2s_dist.images.eight_bit import read_image, to_uint8
from n2s_dist.images.files import ImageFile
from n2s_dist.images.user_files import read_picture, write_picture
from n2s_dist.inference import acceptance, files, posterior_samples
from n2s_dist.inference.network_choice import load_denoiser
from n2s_dist.inference.tiling import denoise_whole
from n2s_dist.inference.uncertainty import posterior_tiled, std_picture
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.models.self_ensemble import SelfEnsemble
from n2s_dist.noise.specification import parse_noise
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture
def run(cli, trained):
    def denoised(*arguments: object):
        return cli(denoise.main, f"--checkpoint={trained}", *arguments)

    return denoised


def expected(trained: Path, path: Path) -> np.ndarray:
    """What the trained model makes of an image file in one piece: uint8 [H, W, C]."""
    model = checkpoint.load(checkpoint.locate(trained)).model
    return to_uint8(denoise_whole(model, np.asarray(Image.open(path)) / np.float32(255), model.noise.single))


def assert_same_pixels(path: Path, wanted: np.ndarray) -> None:
    """Equal but for a rounding that may tip over: at most one level in one pixel of 10,000."""
    difference = np.abs(np.asarray(Image.open(path)).astype(int) - wanted)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-4


def test_a_file_goes_to_a_file_or_into_a_folder(run, trained, photographs, tmp_path):
    noisy = photographs / "coffee.png"
    (tmp_path / "folder").mkdir()
    assert run(noisy, tmp_path / "new" / "clean.png").code == run(noisy, tmp_path / "folder", "--tile=48").code == 0
    for path in (tmp_path / "new" / "clean.png", tmp_path / "folder" / "coffee.png"):
        assert_same_pixels(path, expected(trained, noisy))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["clean.png", "coffee.png", "folder", "new"]


def test_a_folder_keeps_its_tree_and_becomes_png(run, trained, photographs, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    shutil.copy(photographs / "coffee.png", tmp_path / "in")
    Image.open(photographs / "rocket.png").save(tmp_path / "in" / "deep" / "rocket.JPG", quality=95)
    done = run(tmp_path / "in", tmp_path / "out")
    assert done.code == 0 and str(tmp_path / "out") in done.out
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["coffee.png", "deep/rocket.png"]
    assert_same_pixels(tmp_path / "out" / "deep" / "rocket.png", expected(trained, tmp_path / "in/deep/rocket.JPG"))


def test_a_zip_archive_is_a_folder(run, trained, photographs, tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.write(photographs / "coffee.png", "some/coffee.png")
    assert run(tmp_path / "in.zip", tmp_path / "out").code == 0
    assert_same_pixels(tmp_path / "out" / "some" / "coffee.png", expected(trained, photographs / "coffee.png"))


def test_the_level_of_the_noise_may_be_given(run, photographs, tmp_path):
    noisy = photographs / "coffee.png"
    for level in (5, 25, 50):
        assert run(noisy, tmp_path / f"{level}.png", f"--noise=gaussian:{level}").code == 0
    assert run(noisy, tmp_path / "default.png").code == 0
    assert (tmp_path / "default.png").read_bytes() == (tmp_path / "25.png").read_bytes()
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 3


def test_what_users_do_wrong_is_named(run, cli, photographs, tmp_path):
    noisy, out = photographs / "coffee.png", tmp_path / "out.png"
    assert "nowhere.png" in run(tmp_path / "nowhere.png", out).error()
    assert "no image suffix" in run(noisy, tmp_path / "out.txt").error()
    assert "--tile is 8" in run(noisy, out, "--tile=8").error()
    assert "gamma:50" in run(noisy, out, "--noise=gamma:50").error()
    assert "loud" in run(noisy, out, "--noise=loud").error()
    assert str(tmp_path / "none") in cli(denoise.main, f"--checkpoint={tmp_path / 'none'}", noisy, out).error()
    (tmp_path / "empty").mkdir()
    assert "holds no images" in run(tmp_path / "empty", tmp_path / "other").error()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_gray_broken_and_ambiguous_images_are_named(run, photographs, tmp_path):
    image = Image.open(photographs / "coffee.png")
    image.convert("L").save(tmp_path / "gray.png")
    message = run(tmp_path / "gray.png", tmp_path / "out.png").error()
    assert "gray.png: the image is gray" in message and "trained on color" in message
    (tmp_path / "text.png").write_text("not a picture")
    assert "text.png" in run(tmp_path / "text.png", tmp_path / "out.png").error()
    (tmp_path / "twins").mkdir()
    image.save(tmp_path / "twins" / "a.png")
    image.save(tmp_path / "twins" / "a.jpg")
    assert "differ only in their suffix" in run(tmp_path / "twins", tmp_path / "out").error()


def test_a_folder_can_not_go_where_a_file_is(run, photographs, tmp_path):
    (tmp_path / "taken").write_text("precious")
    assert "taken" in run(photographs, tmp_path / "taken").error()
    assert (tmp_path / "taken").read_text() == "precious"


def test_the_console_command_is_installed():
    (point,) = [point for point in entry_points(group="console_scripts") if point.name == "n2s-denoise"]
    assert point.load() is denoise.command


# --- depth, transparency, uncertainty ---------------------------------------------------------------------


def read(path: Path) -> DecodedImage:
    return read_picture(ImageFile(path.parent, path.name, path.stat().st_size))


@pytest.fixture
def deep(photographs, tmp_path) -> np.ndarray:
    """in.png: 16 bits a channel, of which the low ones are not those of any 8-bit image, half transparent."""
    pixels = np.asarray(Image.open(photographs / "coffee.png")).astype(np.uint16) * 256
    values = np.concatenate([pixels + 77, np.full((*pixels.shape[:2], 1), 30_000, np.uint16)], axis=2)
    write_picture(tmp_path / "in.png", DecodedImage.of(values))
    return values


@pytest.mark.parametrize("out", ["out.png", "out.tif"])
def test_16_bits_and_transparency_stay(run, trained, deep, tmp_path, out):
    assert run(tmp_path / "in.png", tmp_path / out).code == 0
    found = read(tmp_path / out)
    model = checkpoint.load(checkpoint.locate(trained)).model
    wanted = np.clip(denoise_whole(model, deep[:, :, :3] / 65535, model.noise.single), 0, 1) * 65535
    assert found.pixels.dtype == np.uint16 and np.abs(found.pixels - wanted).max() < 2
    np.testing.assert_array_equal(found.alpha, deep[:, :, 3:])


def test_formats_that_hold_less(run, deep, tmp_path):
    for name in ("out.jpg", "out.bmp"):
        assert "transparency" in run(tmp_path / "in.png", tmp_path / name).error()
    tifffile.imwrite(tmp_path / "opaque.tif", deep[:, :, :3], photometric="rgb")
    assert run(tmp_path / "opaque.tif", tmp_path / "out.jpg").code == 0
    assert read(tmp_path / "out.jpg").pixels.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_gray_keeps_its_transparency(tmp_path, suffix):
    gray = DecodedImage(np.full((8, 9, 1), 70, np.uint8), np.arange(72, dtype=np.uint8).reshape(8, 9, 1))
    write_picture(tmp_path / f"a.{suffix}", gray)
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        np.testing.assert_array_equal(np.asarray(opened.convert("RGBA"))[:, :, 3:], gray.alpha)


def test_uncertainty_and_ensemble(run, trained, photographs, tmp_path):
    noisy = photographs / "coffee.png"
    assert run(noisy, tmp_path / "out.png", "--uncertainty", "--ensemble", "--noise=gaussian:20").code == 0
    loaded = checkpoint.load(checkpoint.locate(trained))
    noise = parse_noise("gaussian:20")
    pixels = np.asarray(Image.open(noisy)) / np.float32(255)
    expected = posterior_tiled(SelfEnsemble(loaded.model), pixels, noise)
    assert_same_pixels(tmp_path / "out.png", to_uint8(expected.estimate))
    found = read(tmp_path / "out-std.png").pixels
    assert found.dtype == np.uint16 and found.mean() > 100
    np.testing.assert_allclose(found, std_picture(expected.std), rtol=1e-3, atol=1)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a-std.png"):
        shutil.copy(noisy, tmp_path / "in" / name)
    assert "-std" in run(tmp_path / "in", tmp_path / "folder", "--uncertainty").error()


def test_samples(cli, tmp_path, monkeypatch):
    """Beside the denoised image, of its type and pages; of one seed the same, of another one others."""
    monkeypatch.setattr(posterior_samples, "STEPS", 2)
    pages = np.random.default_rng(0).integers(0, 65536, (2, 32, 40), np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", pages, photometric="minisblack")
    words = ("--checkpoint=universal-gray", "--noise=gaussian:30", "--samples=2", tmp_path / "in.tif")
    assert cli(denoise.main, *words, "--uncertainty", tmp_path / "out.tif").code == 0
    names = ["out-sample1.tif", "out-sample2.tif", "out-std.tif", "out.tif"]
    assert sorted(path.name for path in tmp_path.glob("out*")) == names
    first, second, mean = (tifffile.imread(tmp_path / name) for name in (*names[:2], "out.tif"))
    assert first.dtype == np.uint16 and first.shape == pages.shape
    _, info = load_denoiser("universal-gray")(pages[1], noise="gaussian:30", samples=2)
    assert np.abs(info.samples.astype(int) - [first[1], second[1]]).max() <= 1
    assert np.abs(first - mean.astype(int)).mean() > 100 and np.abs(first - second.astype(int)).mean() > 100
    assert cli(denoise.main, *words, tmp_path / "again.tif").code == 0
    assert (tmp_path / "again-sample1.tif").read_bytes() == (tmp_path / "out-sample1.tif").read_bytes()
    assert cli(denoise.main, *words, "--seed=1", tmp_path / "other.tif").code == 0
    assert (tifffile.imread(tmp_path / "other-sample1.tif") != first).mean() > 0.9


def test_samples_that_can_not_be_are_refused_first(cli, trained, photographs, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a-sample2.png"):
        shutil.copy(photographs / "coffee.png", tmp_path / "in" / name)
    words = ("--noise=gaussian:30", tmp_path / "in")
    assert "a-sample2.png would be written beside" in cli(denoise.main, "--samples=2", *words, tmp_path / "out").error()
    one = (tmp_path / "in/a-sample2.png", tmp_path / "in/a.png")
    assert "a-sample2.png would be written beside" in cli(denoise.main, "--samples=2", *one).error()
    assert "1 to 256" in cli(denoise.main, "--samples=-1", *words, tmp_path / "out").error()
    assert "seed of the samples is -3" in cli(denoise.main, "--seed=-3", *words, tmp_path / "out").error()
    refused = cli(denoise.main, f"--checkpoint={trained}", "--samples=1", *one[:1], tmp_path / "out.png").error()
    assert "samples take a network of many levels" in refused and "take universal-color" in refused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_values_that_a_format_can_not_hold_are_named(run, tmp_path):
    for mode in ("F", "I"):
        Image.new(mode, (40, 40)).save(tmp_path / "strange.tif")
        refused = run(tmp_path / "strange.tif", tmp_path / "out.png", "--white=1").error()
        assert "out.png can't hold values of type" in refused and "end it in .tif" in refused
    assert not (tmp_path / "out.png").exists()


def test_without_a_checkpoint_a_shipped_network_serves(cli, load_tool, trained, photographs, tmp_path, monkeypatch):
    """By the image's channels; where none is there, one line says so."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "weights")
    monkeypatch.setattr(acceptance, "problems", lambda *_: [])  # it has hardly been trained
    noisy, out = photographs / "coffee.png", tmp_path / "out.png"
    assert "no network for color images" in cli(denoise.main, noisy, out).error()
    assert cli(load_tool("ship_weights").main, trained, "--name=universal-color").code == 0
    assert cli(denoise.main, noisy, out).code == 0
    model = checkpoint.load(checkpoint.locate("universal-color")).model
    assert_same_pixels(
        out, to_uint8(denoise_whole(model, np.asarray(Image.open(noisy)) / np.float32(255), model.noise.single))
    )
    Image.open(noisy).convert("L").save(tmp_path / "gray.png")
    assert "no network for gray images" in cli(denoise.main, tmp_path / "gray.png", out).error()


def test_one_large_image_has_a_bar(run, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BAR_DELAY_SEC", 0)  # of the seconds that pass before it is worth one
    done = run("--tile=64", photographs / "coffee.png", tmp_path / "out.png")
    assert done.code == 0 and "px/s" in done.err and f"/{160 * 192 / 1000:.1f}k" in done.err


def test_no_image_is_overwritten_by_its_own_denoised_version(run, photographs, tmp_path):
    before = (photographs / "coffee.png").read_bytes()
    shutil.copy(photographs / "coffee.png", tmp_path / "coffee.png")
    for out in ("coffee.png", "."):
        assert "coffee.png would be overwritten" in run(tmp_path / "coffee.png", tmp_path / out).error()
    assert "coffee.png would be overwritten" in run(tmp_path, tmp_path).error()
    assert (tmp_path / "coffee.png").read_bytes() == before


def test_a_place_that_can_not_be_written_is_found_before_an_image_is_denoised(cli, tmp_path, monkeypatch, photographs):
    """Denoising a large image takes most of an hour."""

    def touch(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", touch)
    monkeypatch.setattr(denoise, "load_denoiser", lambda *_, **__: lambda *_, **__: pytest.fail("denoised for nothing"))
    done = cli(denoise.main, "--noise=gaussian:25", photographs / "coffee.png", tmp_path / "out.png")
    assert f"{tmp_path}/out.png can't be used (Read-only file system)" in done.error()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.tif", "out.png can't hold 3 images"),
        ("a.webp", "a.webp is an animated WebP of 3 frames"),
        ("a.png", "a.png is an animated PNG of 3 frames"),
    ],
)
def test_several_images_are_no_single_one(run, tmp_path, name, kind):
    pages = [Image.fromarray(np.full((40, 40, 3), value, np.uint8)) for value in (0, 100, 200)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    assert kind in run(tmp_path / name, tmp_path / "out.png").error()
    with pytest.raises(UserError, match=r"of 3 (images|frames): save each"):
        read_image(ImageFile(tmp_path, name, 0))


def test_a_damaged_image_can_be_skipped(run, photographs, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(photographs / "coffee.png", tmp_path / "in")
    (tmp_path / "in/broken.png").write_bytes((photographs / "coffee.png").read_bytes()[:2_000])
    Image.open(photographs / "coffee.png").convert("L").save(tmp_path / "in/gray.png")
    assert "broken.png" in run(tmp_path / "in", tmp_path / "out").error()
    done = run(tmp_path / "in", tmp_path / "out", "--on-error=skip")
    assert done.code == 0 and done.out.endswith(f"wrote 1 images to {tmp_path / 'out'}, skipped 2\n"), done.err
    assert "skipped: " in done.out and "broken.png" in done.out and "gray.png: the image is gray" in done.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["coffee.png"]
    (tmp_path / "in/coffee.png").unlink()
    assert "none of the 2 images" in run(tmp_path / "in", tmp_path / "out", "--on-error=skip").error()


def test_12_bits_in_files_of_16(run, photographs, tmp_path):
    """Told what white is, it does what it does with the same image in the whole of 16 bits; untold it says so."""
    pixels = np.asarray(Image.open(photographs / "coffee.png")).astype(np.uint16) * 16
    write_picture(tmp_path / "few.tif", DecodedImage(pixels, None))
    write_picture(tmp_path / "all.tif", DecodedImage(np.round(pixels * (65535 / 4095)).astype(np.uint16), None))
    done = run(tmp_path / "few.tif", tmp_path / "few-out.tif", "--white=4095", "--uncertainty")
    assert done.code == 0 and "say --white" not in done.out
    done = run(tmp_path / "all.tif", tmp_path / "all-out.tif", "--uncertainty")
    assert done.code == 0 and "say --white" not in done.out
    few, whole = (read(tmp_path / f"{name}-out.tif").pixels for name in ("few", "all"))
    assert few.dtype == np.uint16 and np.abs(few - whole * (4095 / 65535)).max() < 0.6  # a half for each rounding
    few, whole = (read(tmp_path / f"{name}-out-std.png").pixels.astype(int) for name in ("few", "all"))
    assert np.abs(few - whole).max() <= 0.002 * whole.max()
    refused = run(tmp_path / "few.tif", tmp_path / "out.tif").error()
    assert "--white 4095 for 12 bits" in refused and not (tmp_path / "out.tif").exists()
    assert "more than twice --white 100" in run(tmp_path / "few.tif", tmp_path / "out.tif", "--white=100").error()
    coffee = photographs / "coffee.png"
    refused = run(coffee, tmp_path / "out.png", "--white=0").error()
    assert "--black is 0 and --white 0: give two numbers, white being the higher one" in refused
    assert f"{coffee}" in run(coffee, tmp_path / "out.png", "--white=4095").error()


def test_what_is_odd_about_the_noise_is_said(cli, tmp_path):
    """A level at an end of what the network knows, estimated for an image without noise; one beyond that."""
    smooth = np.add.outer(np.arange(48), 2 * np.arange(40)).astype(np.uint8)
    Image.fromarray(np.stack([smooth, smooth[::-1], smooth[:, ::-1]], axis=-1)).save(tmp_path / "smooth.png")

    def said(*options: str) -> str:
        return cli(denoise.main, *options, tmp_path / "smooth.png", tmp_path / "out.png").out

    network = "--checkpoint=gaussian-color"
    assert "gaussian:5 (estimated), an end of what the network knows (gaussian:5-55)" in said(network)
    assert "gaussian:80 is none of what the network was trained on" in said(network, "--noise=gaussian:80")
    assert "smooth.png: " not in said(network, "--noise=gaussian:30")


def test_hot_pixels_are_repaired_where_it_is_asked_for_and_counted(run, tmp_path):
    """In each page of a stack, and told in one line for all."""
    pages = np.random.default_rng(0).normal(120, 25, (3, 48, 40, 3)).clip(1, 254).astype(np.uint8)
    pages[:] = 0.3 * pages.mean() + 0.2 * pages
    pages[0, 20, 20] = pages[2, 30, 10, 1] = 255
    tifffile.imwrite(tmp_path / "in.tif", pages, photometric="rgb")
    wanted = tmp_path / "in.tif", tmp_path / "out.tif", "--noise=gaussian:5"
    assert "dead pixels" not in run(*wanted).out
    plain = tifffile.imread(tmp_path / "out.tif")
    done = run(*wanted, "--repair-hot-pixels")
    assert done.out.count("dead pixels") == 1 and "in.tif: repaired 2 hot or dead pixels of 5,760\n" in done.out
    repaired = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_array_equal(repaired[1], plain[1])
    assert repaired[0, 20, 20].max() < 100 and repaired[2, 30, 10, 1] < 100
