"""n2s inspect-noise: words that are true of the noise, a picture of it, and one line for mistakes."""

import functools

import numpy as np
import pytest
import skimage.data
from matplotlib.figure import Figure
from PIL import Image

from n2s_dist.commands import inspect_noise
from n2s_dist.images.eight_bit import to_uint8
from n2s_dist.noise.inspection import NoiseView, view_noise
from n2s_dist.noise.specification import parse_noise
from n2s_dist.reporting.noise_figure import blur_width, curve_text, describe_noise

GRAY = skimage.data.camera()[..., None] / 255
COLOR = skimage.data.astronaut() / 255


def noisy(text: str, image: np.ndarray = GRAY) -> np.ndarray:
    return parse_noise(text).corrupt(image, np.random.default_rng(0))


@functools.cache
def view(text: str) -> NoiseView:
    """Of noise in GRAY."""
    return view_noise(noisy(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gaussian:20", ["strength: about the same at every brightness", "as good as independent"]),
        ("poisson:0.02", ["strength: grows with light", "as good as independent"]),
        ("gaussian:20+blur:0.6", ["strength: about the same", "as white noise blurred by 0."]),
    ],
)
def test_words_tell_kinds_of_noise_apart(text, said):
    lines = describe_noise(view(text), None)
    assert [want for want in said if not any(want in line for line in lines)] == []
    assert not any(line.startswith(("model", "channels")) for line in lines)


def test_a_model_that_fits_is_told_from_one_that_does_not():
    white = view("gaussian:20")
    assert any(
        "gaussian:20, as n2s denoise estimates it, fits" in line
        for line in describe_noise(white, parse_noise("gaussian:20"))
    )
    wrong = "\n".join(describe_noise(white, parse_noise("gaussian:5")))
    assert "does not fit: the noise is 3" in wrong and "correlated" not in wrong.split("does not fit")[1].split("\n")[0]
    blurred = "\n".join(describe_noise(view("gaussian:20+blur:0.6"), parse_noise("gaussian:20")))
    assert "does not fit" in blurred and "and correlated" in blurred


@pytest.mark.parametrize("text", ["gaussian:20", "poisson:0.02", "gaussian:20+blur:0.6"])
def test_the_text_names_the_noise_that_was_seen(text):
    found, true = parse_noise(curve_text(view(text))), parse_noise(text)
    for value in (0.2, 0.5, 0.7):
        assert float(found.std(value)) == pytest.approx(float(true.std(value)), rel=0.15)
    assert found.width == pytest.approx(true.width, abs=0.1)
    assert found.width == pytest.approx(blur_width(view(text)), abs=0.05)


def test_channels_are_described_apart():
    noisy_blue = COLOR + np.array([0.02, 0.04, 0.1]) * np.random.default_rng(0).standard_normal(COLOR.shape)
    seen = view_noise(noisy_blue)
    lines = describe_noise(seen, None)
    assert [line.split()[0] for line in lines[:3]] == ["red", "green", "blue"]
    found = parse_noise(curve_text(seen))
    np.testing.assert_allclose(found.std(np.full((1, 1, 3), 0.5))[0, 0], [0.02, 0.04, 0.1], rtol=0.2)


def test_gray_stored_as_color_is_described_as_gray(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_noise, "draw_noise", lambda *_: Figure())  # the words are what is compared
    gray = to_uint8(noisy("gaussian:25")[:128, :128, 0])
    said = []
    for name, image in (("gray", gray), ("color", np.dstack([gray] * 3))):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        done = cli(inspect_noise.main, tmp_path / f"{name}.png", "--out", tmp_path / "out.png", "--no-network")
        said.append(done.out)
    assert said[0] == said[1] and not said[0].startswith("red")


def test_mistakes_get_one_line(cli, tmp_path):
    assert "does not exist" in cli(inspect_noise.main, tmp_path / "no/where.png", f"--out={tmp_path}/a.png").error()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "black.png")
    main, out = inspect_noise.main, tmp_path / "out.png"
    assert "too few places with noise" in cli(main, tmp_path / "black.png", "--out", out, "--no-network").error()
    assert "should end with .png" in cli(main, tmp_path / "black.png", "--out", tmp_path / "out.jpg").error()
    assert "nowhere.png" in cli(main, tmp_path / "nowhere.png", "--out", out).error()
    assert not out.exists()
    noise = to_uint8(noisy("gaussian:20")[..., 0])
    Image.fromarray(noise).save(tmp_path / "noisy.png")
    error = cli(main, tmp_path / "noisy.png", "--out", tmp_path / "noisy.png", "--no-network").error()
    assert "would be overwritten" in error and (np.asarray(Image.open(tmp_path / "noisy.png")) == noise).all()
