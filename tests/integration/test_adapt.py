"""n2s adapt: from a user's noisy images to a network of their own, whatever interrupts it."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from support.denoisers import UNIVERSAL, save_network

from n2s_dist import load_denoiser
from n2s_dist.commands import adapt
from n2s_dist.images.user_files import OpenFile
from n2s_dist.inference import own_images
from n2s_dist.models import checkpoint
from n2s_dist.noise.specification import format_noise
from n2s_dist.shards.manifest import read_manifest
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

MAPS = "gaussian:1-75,gaussian:2-60+blur:0-1.5,poisson-gaussian:0.0025-0.1:1-25"


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A gray network that is told maps, of fresh weights."""
    return save_network(tmp_path_factory.mktemp("maps"), MAPS, channels=1, condition="map")


def noisy_images(folder: Path, count: int = 12, side: int = 48) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        clean = rng.uniform(0.2, 0.8, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1)
        pixels = np.clip(clean + 20 / 255 * rng.standard_normal(clean.shape), 0, 1)
        Image.fromarray(np.uint8(np.rint(255 * pixels))).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    """It has one precision, and other tests train in it as well. Worker processes of a build import for seconds."""
    monkeypatch.setattr(adapt, "_PRECISION", "no")
    monkeypatch.setattr(adapt, "build_shards", partial(adapt.build_shards, workers=1))


@pytest.fixture
def six_steps(monkeypatch):
    """In place of what the machine's speed makes of the minutes."""
    monkeypatch.setattr(adapt, "count_steps", lambda config, seconds: 6)


def test_a_tenth_is_held_out_and_the_rest_is_trained_on(tmp_path, cli, network, six_steps):
    images, out = noisy_images(tmp_path / "mine"), tmp_path / "run"
    done = cli(adapt.main, images, f"--out={out}", f"--network={network}", "--noise=gaussian:20")
    assert done.code == 0 and "held-out AR-DAE loss" in done.out and "1 image(s)" in done.out
    manifest = read_manifest(out / "shards")
    assert (manifest.already_noisy, manifest.noise, manifest.splits["train"].images) == (True, "gaussian:20", 11)
    loaded = checkpoint.load(checkpoint.locate(out))
    assert loaded.samples_seen == 6 * 4 and format_noise(loaded.model.noise.single) == "gaussian:20"
    before = checkpoint.load(checkpoint.locate(network)).model.state_dict()
    assert any(not torch.equal(before[name], value) for name, value in loaded.model.state_dict().items())
    x_hat, info = load_denoiser(out)(np.asarray(Image.open(images / "00.png")))
    assert x_hat.shape == (48, 48) and not info.estimated
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []


def test_an_interrupted_run_goes_on_with_the_noise_and_the_length_it_began_with(tmp_path, cli, network, monkeypatch):
    images, out = noisy_images(tmp_path / "mine"), tmp_path / "run"
    words = [images, f"--out={out}", f"--network={network}", "--noise=gaussian:20"]
    monkeypatch.setattr(adapt, "count_steps", lambda config, seconds: 6)
    with monkeypatch.context() as patch:
        patch.setattr(adapt, "train", lambda config: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli(adapt.main, *words).code == 130 and (out / "adapt.json").exists()
    monkeypatch.setattr(adapt, "count_steps", lambda config, seconds: pytest.fail("counted twice"))
    assert cli(adapt.main, *words).code == 0
    assert checkpoint.load(checkpoint.locate(out)).samples_seen == 24
    other = noisy_images(tmp_path / "others")
    assert f"{out} was begun with {network} on {images}" in cli(adapt.main, other, *words[1:]).error()


def test_the_noise_is_estimated_over_the_images(tmp_path, cli, network, six_steps):
    """Here by a network that learned nothing: only that the estimate becomes the run's noise is looked at."""
    images, out = noisy_images(tmp_path / "mine", count=3), tmp_path / "run"
    done = cli(adapt.main, images, f"--out={out}", f"--network={network}")
    assert "(estimated)" in done.out
    assert read_manifest(out / "shards").noise == json.loads((out / "adapt.json").read_text())["noise"]


def test_images_without_noise_teach_nothing(tmp_path, cli, network):
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(3):
        ramp = np.linspace(20 + number, 230, 48 * 48).reshape(48, 48)
        Image.fromarray(np.uint8(np.rint(ramp))).save(folder / f"{number}.png")
    done = cli(adapt.main, folder, f"--out={tmp_path / 'run'}", f"--network={network}")
    assert "hardly any noise was found" in done.error() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("end", [0, 255])
def test_images_whose_noise_is_cut_off_are_refused(tmp_path, cli, network, end):
    images = noisy_images(tmp_path / "mine", count=3)
    pixels = np.asarray(Image.open(images / "00.png")).copy()
    pixels[:4] = end
    Image.fromarray(pixels).save(images / "00.png")
    done = cli(adapt.main, images, f"--out={tmp_path / 'run'}", f"--network={network}", "--noise=gaussian:20")
    assert "% of the values are the" in done.error() and not (tmp_path / "run").exists()


def test_twelve_bits_in_files_of_sixteen_are_trained_on_as_they_are(tmp_path, cli, network, six_steps):
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        frame = 100 + 2000 * rng.uniform(0.4, 0.6, (48, 48)) + 80 * rng.standard_normal((48, 48))
        tifffile.imwrite(folder / f"{number}.tif", np.rint(frame).astype(np.uint16))
    words = [folder, f"--network={network}", "--noise=gaussian:6"]
    assert "--white" in cli(adapt.main, *words, f"--out={tmp_path / 'a'}").error()
    done = cli(adapt.main, *words, f"--out={tmp_path / 'b'}", "--white=4095", "--black=100")
    assert done.code == 0 and read_manifest(tmp_path / "b" / "shards").white == 4095


def test_pages_of_a_stack_are_images(tmp_path):
    """Held-out ones are in no shard; the others are what files of their own are."""
    pages = [np.asarray(Image.open(path)) for path in sorted(noisy_images(tmp_path / "mine").iterdir())]
    tifffile.imwrite(tmp_path / "stack.tif", np.stack(pages), photometric="minisblack")
    out = tmp_path / "run"
    images = adapt.choose_images(tmp_path / "stack.tif")
    noise = adapt.parse_noise("gaussian:20")
    adapt.build(images, tmp_path / "stack.tif", out, noise, None, None)
    (held_out,) = images.held_out
    np.testing.assert_array_equal(np.rint(own_images.read_unit(held_out, 1, None, None)[:, :, 0] * 255), pages[5])
    shards = ShardSet(out / "shards")
    tiles = {shards[i].image: shards[i].tile for i in range(len(shards))}
    assert set(tiles) == {f"stack.tif/page-{number:03d}" for number in range(12) if number != 5}
    for name, tile in tiles.items():
        assert np.abs(noise.encoding.decode(tile)[:, :, 0] * 255 - pages[int(name[-3:])]).max() < 0.1


@pytest.mark.parametrize("fault", ["one", "mixed", "small", "file", "minutes", "told families", "color network"])
def test_mistakes_are_named_before_anything_is_written(tmp_path, cli, network, fault):
    images, extra = noisy_images(tmp_path / "mine", count=1 if fault == "one" else 4), []
    if fault == "mixed":
        Image.new("RGB", (48, 48), (1, 2, 3)).save(images / "color.png")
    if fault == "small":
        Image.new("L", (20, 48)).save(images / "small.png")
    source = images / "00.png" if fault == "file" else images
    if fault == "minutes":
        extra = ["--minutes=0"]
    if fault == "told families":
        network = save_network(tmp_path / "families", UNIVERSAL, channels=1)
    if fault == "color network":
        network = save_network(tmp_path / "color", MAPS, channels=3, condition="map")
    words = {
        "one": "holds 1 image",
        "mixed": "must hold gray images or color ones, not both",
        "small": "a side of 20 pixels",
        "file": "holds 1 image",
        "minutes": "--minutes is 0",
        "told families": "is told families of noise",
        "color network": "the images are gray, but",
    }
    done = cli(adapt.main, source, f"--out={tmp_path / 'run'}", f"--network={network}", "--noise=gaussian:20", *extra)
    assert words[fault] in done.error() and not (tmp_path / "run").exists()


def test_a_run_that_can_not_be_gone_on_with_is_named_before_any_work(tmp_path, cli, network, monkeypatch):
    monkeypatch.setattr(adapt, "choose_unclipped", lambda *_: pytest.fail("looked at noise"))
    images, out = noisy_images(tmp_path / "mine", count=3), tmp_path / "run"
    words = [images, f"--out={out}", f"--network={network}", "--noise=gaussian:20"]
    out.write_text("")
    assert f"{out} is a file" in cli(adapt.main, *words).error()
    out.unlink()
    out.mkdir()
    for text in ('{"images": "a"', "[]", '{"images": "a", "network": "b", "noise": "gaussian:20"}'):
        (out / "adapt.json").write_text(text)
        assert "adapt.json can't be read" in cli(adapt.main, *words).error()


def test_each_image_is_decoded_once_to_look_at_its_noise(tmp_path, monkeypatch):
    images = adapt.choose_images(noisy_images(tmp_path / "mine", count=12))
    decoded = []
    image = OpenFile.image
    monkeypatch.setattr(OpenFile, "images", lambda file: pytest.fail("decoded from the beginning"))
    monkeypatch.setattr(OpenFile, "image", lambda file, number: decoded.append(file.path) or image(file, number))
    parts = adapt.choose_unclipped(images, None, None)
    assert len(parts) == 6 == len(decoded) == len(set(decoded))


@pytest.mark.parametrize("kind", ["equal channels", "green alone", "palette of measured values"])
def test_gray_images_stored_as_color_are_adapted_to_as_gray(tmp_path, kind):
    folder, stored = noisy_images(tmp_path / "mine", count=4), tmp_path / "stored"
    stored.mkdir()
    for path in folder.iterdir():
        gray = Image.open(path)
        black = Image.new("L", gray.size)
        image = Image.merge("RGB", [gray] * 3 if kind == "equal channels" else [black, gray, black])
        if kind.startswith("palette"):
            image = gray.copy()
            image.putpalette([value for level in range(256) for value in (level, level // 2, 255 - level)])
        image.save(stored / path.name)
    images = adapt.choose_images(stored)
    assert images.channels == 1
    plain = adapt.choose_images(folder)
    np.testing.assert_array_equal(adapt.held_out_crops(images, None, None), adapt.held_out_crops(plain, None, None))
    adapt.build(images, stored, tmp_path / "run", adapt.parse_noise("gaussian:20"), None, None)
    adapt.build(plain, folder, tmp_path / "plain", adapt.parse_noise("gaussian:20"), None, None)
    shards, others = ShardSet(tmp_path / "run/shards"), ShardSet(tmp_path / "plain/shards")
    assert sorted(shards[i].tile.tobytes() for i in range(3)) == sorted(others[i].tile.tobytes() for i in range(3))


def test_color_among_gray_stored_as_color_is_named(tmp_path):
    folder = noisy_images(tmp_path / "mine", count=3)
    for path in folder.iterdir():
        Image.open(path).convert("RGB").save(path)
    colored = np.random.default_rng(0).integers(1, 200, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(colored).save(folder / "01.png")
    with pytest.raises(UserError, match=r"01\.png is color, unlike the first image: leave it out"):
        adapt.choose_unclipped(adapt.choose_images(folder), None, None)


def test_what_held_out_crops_say():
    worse, better = torch.tensor([0.5, 0.6, 0.7]), torch.tensor([0.4, 0.5, 0.61])
    assert ": better." in adapt.verdict(worse, better, "a", Path("b"), 1)
    assert "keep that one" in adapt.verdict(better, worse, "a", Path("b"), 1)
    assert "keep that one" in adapt.verdict(worse, worse, "a", Path("b"), 1)


def test_steps_follow_from_the_time_that_a_step_takes(tmp_path, network):
    images = adapt.choose_images(noisy_images(tmp_path / "mine", count=3))
    loaded, out, noise = checkpoint.load(checkpoint.locate(network)), tmp_path / "run", adapt.parse_noise("gaussian:20")
    adapt.build(images, tmp_path / "mine", out, noise, None, None)
    config = adapt.configure(loaded, str(network), out, noise, images)
    one, many = (adapt.count_steps(config, seconds) for seconds in (0.0, 600.0))
    assert one == 1 and many > 10
    assert sorted(path.name for path in out.iterdir()) == ["shards"]
