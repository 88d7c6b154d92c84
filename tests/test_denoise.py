"""n2s-denoise: tiles that no one can tell from the whole, and files, folders and archives in and out."""

import shutil
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from n2s_dist import checkpoint, denoise
from n2s_dist.command_line import read_config
from n2s_dist.denoise import denoise_tiled, denoise_whole
from n2s_dist.images import to_uint8
from n2s_dist.score import ScoreModel, build_score_model

pytestmark = pytest.mark.usefixtures("cpu")


def random_model(*options: str) -> ScoreModel:
    """A network whose every weight counts, with an output of a sensible size."""
    model = build_score_model(read_config([*options]), 3).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1)
    return model


@pytest.mark.parametrize("coordinates", ["stable", "image"])
@pytest.mark.parametrize("size", [(150, 203), (203, 150), (131, 7), (40, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_tiles_equal_the_whole_resunet(size, coordinates):
    """Margins of 40 pixels around tiles of 32: the tiles in the middle see none of the image's borders."""
    options = ["--network.widths=[4,8]", "--network.blocks=1", f"--ardae.coordinates={coordinates}"]
    model = random_model(*options)
    assert model.network.receptive_radius <= 40
    noisy = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    whole = denoise_whole(model, noisy, model.noise)
    assert np.abs(whole - noisy).max() > 0.01  # the network does something
    np.testing.assert_allclose(denoise_tiled(model, noisy, model.noise, tile=32), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(600, 21), (21, 600)], ids=["600x21", "21x600"])
def test_tiles_equal_the_whole_unet_n2n(size):
    """A strip, since this network looks 189 pixels far: in one of its five tiles both borders are out of sight."""
    model = random_model("--network.name=unet_n2n")
    noisy = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    whole = denoise_whole(model, noisy, model.noise)
    assert np.abs(whole - noisy).max() > 0.01
    np.testing.assert_allclose(denoise_tiled(model, noisy, model.noise, tile=128), whole, rtol=0, atol=1e-5)


# --- the program ------------------------------------------------------------------------------------------


@pytest.fixture
def run(cli, trained):
    def denoised(*arguments: object):
        return cli(denoise.main, f"--checkpoint={trained}", *arguments)

    return denoised


def expected(trained: Path, path: Path) -> np.ndarray:
    """What the trained model makes of an image file in one piece: uint8 [H, W, C]."""
    model = checkpoint.load(checkpoint.locate(trained)).model
    return to_uint8(denoise_whole(model, np.asarray(Image.open(path)) / np.float32(255), model.noise))


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


def test_grey_broken_and_ambiguous_images_are_named(run, photographs, tmp_path):
    image = Image.open(photographs / "coffee.png")
    image.convert("L").save(tmp_path / "grey.png")
    assert "grey.png is grey" in run(tmp_path / "grey.png", tmp_path / "out.png").error()
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
