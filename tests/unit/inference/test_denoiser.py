"""The Python API: every kind of image in and out, what is refused and how, batches and tiles."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.models import random_model

import n2s_dist
from n2s_dist.inference import arrays
from n2s_dist.inference.denoiser import Denoiser, Info
from n2s_dist.inference.network_choice import load_denoiser
from n2s_dist.inference.tiling import denoise_whole
from n2s_dist.inference.uncertainty import posterior_tiled
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.models.self_ensemble import SelfEnsemble
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import parse_noise
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

SMALL = ["--network.widths=[4,8]", "--network.blocks=1"]
RANGES = "--noise=gaussian:5-55,poisson:0.005-0.1,gamma:20-200"


def denoiser(channels: int = 3, *options: str, tile: int = 768) -> Denoiser:
    model = random_model(*SMALL, *options, channels=channels)
    return Denoiser(checkpoint.Loaded(Path("some"), read_config([*SMALL, *options]), channels, "", 0, model), tile)


@pytest.fixture
def color() -> np.ndarray:
    return np.random.default_rng(0).random((20, 33, 3)).astype(np.float32)


def whole(denoise: Denoiser, noisy: np.ndarray, noise=None) -> np.ndarray:
    """What one image becomes: float32 [H, W, C]."""
    return denoise_whole(denoise.loaded.model, noisy, noise or denoise.loaded.model.noise.single)


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# --- kinds ------------------------------------------------------------------------------------------------


def test_arrays_of_floats(color):
    denoise, gray = denoiser(), denoiser(1)
    expected = whole(denoise, color)
    assert np.abs(expected - color).max() > 0.01
    for dtype in (np.float32, np.float64, np.float16):
        found, info = denoise(color.astype(dtype))
        assert found.dtype == dtype and found.shape == color.shape
        np.testing.assert_allclose(found, expected, atol=0.01 if dtype == np.float16 else 1e-5)
    assert (info.noise, info.estimated, info.std) == (Gaussian(25 / 255), False, None) and info.seconds > 0
    flat = color[:, :, 0]
    for shaped in (flat, flat[:, :, None], flat[None, :, :, None]):
        found, _ = gray(shaped)
        assert found.shape == shaped.shape
        close(found.reshape(flat.shape), whole(gray, flat[:, :, None])[:, :, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_of_integers_are_scaled_rounded_and_clamped(color, dtype):
    denoise, white = denoiser(), np.iinfo(dtype).max
    noisy = (color * white).astype(dtype)
    before = noisy.copy()
    found, _ = denoise(noisy)
    expected = np.clip(whole(denoise, noisy / np.float32(white)), 0, 1) * white
    assert found.dtype == dtype and np.abs(found - expected).max() < (0.51 if dtype == np.uint8 else 2)
    assert found.min() == 0 or found.max() == white  # some had to be clamped
    np.testing.assert_array_equal(noisy, before)


def test_given_floats_are_not_overwritten(color):
    before = color.copy()
    denoiser()(color)
    np.testing.assert_array_equal(color, before)


@pytest.mark.parametrize("shape", [(3, 20, 33), (2, 3, 20, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_tensors(shape, dtype):
    denoise = denoiser()
    noisy = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    noisy = (noisy * 255).to(dtype) if dtype == torch.uint8 else noisy.to(dtype)
    found, info = denoise(noisy, uncertainty=True)
    assert found.dtype == dtype and found.shape == noisy.shape and found.is_contiguous()
    assert info.std.dtype == torch.float32 and info.std.shape == noisy.shape
    as_array, array_info = denoise(noisy.movedim(-3, -1).double().numpy() / (255 if dtype == torch.uint8 else 1))
    if dtype == torch.uint8:
        as_array = np.round(np.clip(as_array, 0, 1) * 255)
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-4
    tolerance = 1 if dtype == torch.uint8 else 1e-5
    np.testing.assert_allclose(found.double().movedim(-3, -1), as_array, rtol=rounding, atol=tolerance)
    assert array_info.std is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "L", "LA", "1", "F", "I;16"])
def test_pil_images(color, mode):
    if mode == "F":
        image = Image.fromarray(color[:, :, 0])
    elif mode == "I;16":
        image = Image.fromarray((color[:, :, 0] * 65535).astype(np.uint16))
    else:
        image = Image.fromarray((color * 255).astype(np.uint8)).convert(mode)
        if "A" in mode:
            image.putalpha(Image.fromarray((color[:, :, 1] * 255).astype(np.uint8)))
    gray = mode in ("L", "LA", "1", "F", "I;16")
    denoise = denoiser(1 if gray else 3)
    found, info = denoise(image, uncertainty=True)
    assert found.mode == {"P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "1": "L"}.get(mode, mode)
    assert found.size == image.size and info.std.shape == (
        (20, 33) if mode in ("L", "1", "F", "I;16") else (20, 33, 1 if gray else 3)
    )
    if "A" in mode:
        assert found.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    plain = image.convert("L" if gray else "RGB") if mode not in ("F", "I;16") else image
    pixels = np.asarray(plain, np.float32).reshape(20, 33, -1) / {"F": 1, "I;16": 65535}.get(mode, 255)
    expected = whole(denoise, pixels)
    array = np.asarray(found.convert("RGB") if mode == "RGBA" else found.getchannel("L") if mode == "LA" else found)
    scale = {"F": 1, "I;16": 65535}.get(mode, 255)
    wanted = expected if mode == "F" else np.clip(expected, 0, 1)
    assert np.abs(array.reshape(pixels.shape) / scale - wanted).max() < (1e-5 if mode == "F" else 0.51 / 255)


def test_transparency_of_arrays_and_tensors_comes_back(color):
    denoise = denoiser()
    alpha = np.linspace(0, 1, 20 * 33, dtype=np.float32).reshape(20, 33, 1)
    given = np.concatenate([color, alpha], axis=2)
    found, info = denoise(given, uncertainty=True)
    close(found[:, :, :3], whole(denoise, color))
    np.testing.assert_array_equal(found[:, :, 3:], alpha)
    assert info.std.shape == color.shape
    turned, _ = denoise(torch.from_numpy(given).permute(2, 0, 1))
    close(turned.permute(1, 2, 0), found)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 5)])
def test_images_of_one_pixel_and_other_small_ones(size):
    for ensemble in (False, True):
        found, info = denoiser()(np.full((*size, 3), 0.5), "gaussian:25", uncertainty=True, ensemble=ensemble)
        assert found.shape == info.std.shape == (*size, 3)
        assert np.isfinite(found).all() and (info.std > 0).all()


def test_a_batch_is_its_images(color):
    """Through the network in portions of at most a tile's pixels."""
    denoise = denoiser(tile=64)
    batch = np.stack([np.roll(color, shift, axis=0) for shift in range(9)])
    calls = []
    model = denoise.loaded.model
    model.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    found, _ = denoise(batch)
    assert calls == [6, 3]  # 64 x 64 pixels hold 6 of 20 x 33
    for one, expected in zip(batch, found, strict=True):
        close(denoise(one)[0], expected)


# --- noise, uncertainty, ensemble ---------------------------------------------------------------------------


def test_noise_is_text_or_a_model(color):
    denoise = denoiser(3, RANGES)
    for text, model in (("gaussian:20", Gaussian(20 / 255)), ("poisson:0.05", Poisson(0.05)), ("gamma:50", Gamma(50))):
        by_text, info = denoise(color, text)
        by_model, _ = denoise(color, model)
        assert info.noise == model and not info.estimated
        np.testing.assert_array_equal(by_text, by_model)
        close(by_text, whole(denoise, color, model))
    exact = Gaussian(20.123456789 / 255)
    assert denoise(color, exact)[1].noise is exact
    for wrong, message in (("loud", "loud"), ("gaussian:0", "gaussian:0"), ("gaussian:", "gaussian:")):
        with pytest.raises(UserError, match=message):
            denoise(color, wrong)
    with pytest.raises(UserError, match="was trained on gaussian:25"):
        denoiser()(color, Gamma(50))


def test_unknown_noise_is_estimated_for_each_image(color, monkeypatch):
    asked = []

    def estimate_noise(model, noisy, family=None, missing=None):
        asked.append((noisy.shape, noisy.dtype, family))
        return Gaussian(float(noisy.mean()))

    monkeypatch.setattr("n2s_dist.inference.denoiser.estimate_noise", estimate_noise)
    several, one = denoiser(3, RANGES), denoiser()
    found, info = several(color)
    assert info.estimated and info.noise == Gaussian(float(color.mean()))
    close(found, whole(several, color, info.noise))
    batch = np.stack([color, color / 2])
    found, info = several(batch, uncertainty=True)
    assert [noise.sigma for noise in info.noise] == [image.mean() for image in batch]
    for image, noise, expected in zip(batch, info.noise, found, strict=True):
        close(whole(several, image, noise), expected)
    assert one(color)[1].estimated is False and one(color, "unknown")[1].estimated is True
    assert one(color, "gaussian")[1].estimated is True
    assert {call[:2] for call in asked} == {(color.shape, np.dtype(np.float32))}
    assert [call[2] for call in asked] == [None, None, None, None, "gaussian"]


def test_uncertainty_and_ensemble(color):
    denoise = denoiser()
    model = denoise.loaded.model
    found, info = denoise(color, ensemble=True)
    close(found, denoise_whole(SelfEnsemble(model), color, model.noise.single))
    assert np.abs(found - denoise(color)[0]).max() > 1e-3
    found, info = denoise(color, uncertainty=True, ensemble=True)
    expected = posterior_tiled(SelfEnsemble(model), color, model.noise.single)
    close(found, expected.estimate)
    np.testing.assert_array_equal(info.std, expected.std)


# --- what is refused --------------------------------------------------------------------------------------

STRANGE = {
    "not finite": (np.full((8, 8, 3), np.nan), "192 of 192 values are not finite"),
    "infinite": (np.array([[[0.5, np.inf, 0.5]]]), "1 of 3 values are not finite"),
    "0 to 255": (np.random.default_rng(0).random((8, 8, 3)) * 255, "divide them by 255"),
    "dark, 0 to 255": (np.eye(40)[:, :, None] * np.full(3, 60.0), "divide them by 255"),
    "0 to 65535": (np.random.default_rng(0).random((8, 8, 3)) * 65535, "divide them by 65535"),
    "-1 to 1": (np.full((8, 8, 3), -0.5), "0-1 scale, but the mean of these is -0.5"),
    "empty": (np.zeros((0, 8, 3)), "holds no pixels"),
    "no images": (np.zeros((0, 8, 8, 3)), "holds no pixels"),
    "int64": (np.zeros((8, 8, 3), np.int64), "int64 have no known range"),
    "bool": (np.zeros((8, 8, 3), bool), "bool have no known range"),
    "complex": (np.zeros((8, 8, 3), complex), "complex128 have no known range"),
    "channels first": (np.zeros((3, 40, 50)), r"\(3, 40, 50\) is no image"),
    "a line": (np.zeros(8), r"\(8,\) is no image"),
    "flat tensor": (torch.zeros(8, 8), r"\[8, 8\] is no image"),
    "channels last": (torch.zeros(40, 50, 3), "40 channels"),
    "a list": ([[0.5]], "a list is no image"),
    "PIL I": (Image.new("I", (8, 8)), "mode I has no known range"),
    "gray": (np.zeros((8, 8)), "the image is gray, but .* on color images: load (a gray network|universal-gray)"),
    "gray and alpha": (np.zeros((8, 8, 2)), "the image is gray"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_images_are_refused_in_one_line(name):
    given, message = STRANGE[name]
    with pytest.raises(ValueError, match=message) as caught:
        denoiser()(given)
    assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)


def test_color_is_refused_by_a_gray_network(color, monkeypatch):
    monkeypatch.setattr(pretrained, "names", list)
    with pytest.raises(UserError, match=r"the image is color, but .* gray images: load a color network, or convert"):
        denoiser(1)(color)
    monkeypatch.setattr(pretrained, "names", lambda: ["universal-color"])
    with pytest.raises(UserError, match="load universal-color, or convert"):
        denoiser(1)(color)


def test_negative_values_are_gaussian(color):
    denoise, noisy = denoiser(3, RANGES), color - 0.3
    close(denoise(noisy, "gaussian:25")[0], whole(denoise, noisy, Gaussian(25 / 255)))
    for noise in ("poisson:0.01", "gamma:50"):
        with pytest.raises(UserError, match=f"values are negative, which {noise} noise never makes"):
            denoise(noisy, noise)
        denoise(np.clip(noisy, 0, None), noise)


def test_bright_noise_is_not_taken_for_another_scale():
    """The strongest noise that can be named, on white."""
    rng = np.random.default_rng(0)
    for noise in (Gaussian(1.0), Poisson(1.0), Gamma(10)):
        arrays.opened(noise.corrupt(np.ones((200, 200, 3)), rng))


# --- loading ----------------------------------------------------------------------------------------------


def test_a_trained_network_is_loaded(trained, color):
    denoise = n2s_dist.load_denoiser(trained)
    assert n2s_dist.load_denoiser is load_denoiser and denoise.channels == 3
    model = checkpoint.load(checkpoint.locate(trained)).model
    close(denoise(color)[0], denoise_whole(model, color, model.noise.single))
    close(load_denoiser(str(trained), device="cpu", tile=16)(color)[0], denoise(color)[0])
    with pytest.raises(UserError, match="nowhere holds no checkpoint"):
        load_denoiser("nowhere")
    with pytest.raises(AttributeError, match="load_denoisers"):
        n2s_dist.load_denoisers  # noqa: B018


@pytest.mark.parametrize("channels", [1, 3])
def test_of_the_shipped_networks_the_one_for_the_noise_is_taken(shipped, color, channels, monkeypatch):
    noisy = np.resize(color, (40, 36, channels)) * 0.3 + 0.2
    kind, named = {1: "gray", 3: "color"}[channels], functools.cache(load_denoiser)

    def check(given, noise, network):
        found, info = shipped(given, noise)
        assert str(info.network.path) == f"{network}-{kind}"
        close(found, named(f"{network}-{kind}")(given, noise)[0])
        return info

    for noise in ("gaussian:20", Gaussian(20 / 255)):
        assert check(noisy, noise, "gaussian").noise == Gaussian(20 / 255)
    several = {1: "white", 3: "universal"}[channels]
    for noise in ("poisson:0.05", Gamma(50), PoissonGaussian(0.01, 0.02)):  # which looks like Poisson noise in color
        assert not check(noisy, noise, several).estimated
    blurred = "gaussian:20+blur:0.7"
    for noise in (blurred, parse_noise(blurred)):  # which no other was trained for
        assert not check(noisy, noise, "instrument").estimated
    assert not check(noisy, "curve:0=0.05_1=0.1", {1: "white", 3: "instrument"}[channels]).estimated

    asked = []

    def estimate_noise(model, image, family=None, missing=None):
        asked.append(len(getattr(model.noise, "ranges", [0])))
        return Gaussian(0.12) if image.mean() < 0.5 else Poisson(0.05)

    monkeypatch.setattr("n2s_dist.inference.denoiser.estimate_noise", estimate_noise)
    monkeypatch.setattr("n2s_dist.inference.network_choice.checked_noise", lambda _, image, plain, *more: plain)
    assert check(noisy, "gaussian", "gaussian").estimated and asked == [1, 1]  # who estimates: one of one family
    found, info = shipped(noisy)
    assert info.estimated and str(info.network.path) == f"gaussian-{kind}" and asked[2:] == [3]
    close(found, named(f"gaussian-{kind}")(noisy, Gaussian(0.12))[0])
    bright = np.stack([noisy, noisy + 0.5])
    assert check(bright, None, several).noise == [Gaussian(0.12), Poisson(0.05)]


def ship_these(monkeypatch, shelf: dict[str, Denoiser], offered: list[str]) -> None:
    """Networks to choose among in place of those that come with the package; those not offered are withdrawn."""
    monkeypatch.setattr(pretrained, "names", lambda: sorted(shelf))
    monkeypatch.setattr(pretrained, "offered", lambda: offered)
    monkeypatch.setattr("n2s_dist.inference.network_choice._load", lambda name, device, tile: shelf[name])


def test_a_network_with_a_focus_is_taken_for_noise_there(color, monkeypatch):
    focused = ["--noise=gaussian:5-55", "--ardae.whole_range=true", "--ardae.focus=gaussian:22-28"]
    shelf = {
        "all": denoiser(3, RANGES), "focused": denoiser(3, *focused), "gaussian": denoiser(3, *focused[:2])
    }  # fmt: skip
    ship_these(monkeypatch, shelf, sorted(shelf))
    denoise = load_denoiser()

    def chosen(given, noise) -> str:
        network = denoise(given, noise)[1].network
        return next(name for name, each in shelf.items() if each.loaded is network)

    assert [chosen(color, noise) for noise in ("gaussian:25", "gaussian:30", Gaussian(1.0))] == [
        "focused", "gaussian", "gaussian"
    ]  # fmt: skip
    assert chosen(color, Poisson(0.05)) == chosen(color, PoissonGaussian(0.01, 0.02)) == "all"
    asked = []

    def estimate_noise(model, image, family=None, missing=None):
        asked.append(next(name for name, each in shelf.items() if each.loaded.model is model))
        return Gaussian(25 / 255 if image.mean() < 0.7 else 40 / 255)

    monkeypatch.setattr("n2s_dist.inference.denoiser.estimate_noise", estimate_noise)
    assert chosen(color, "gaussian") == chosen(color, None) == "focused"
    assert chosen(np.stack([color, color + 0.5]), None) == "gaussian"
    assert asked == ["gaussian", "all", "all", "all"]


def test_a_withdrawn_network_is_taken_for_noise_that_no_other_was_trained_for(color, monkeypatch):
    shelf = {
        "blurred": denoiser(3, "--noise=gaussian:5-55,gaussian:5-55+blur:0-1.5", "--network.condition=map"),
        "white": denoiser(3, RANGES),
    }
    ship_these(monkeypatch, shelf, ["white"])
    for noise, name in (("gaussian:25", "white"), ("poisson:0.05", "white"), ("gaussian:25+blur:1", "blurred")):
        assert load_denoiser()(color, noise)[1].network is shelf[name].loaded


def test_who_tells_formulas_apart_may_be_withdrawn(color, monkeypatch):
    """Of the networks that are told families the one of the most; another denoises."""
    maps = [
        "--noise=gaussian:1-75,poisson:0.001-0.2,gamma:10-400,poisson-gaussian:0.01-0.1:1-25",
        "--network.condition=map",
    ]
    shelf = {"families": denoiser(3, RANGES), "one": denoiser(3, "--noise=gaussian:5-55"), "maps": denoiser(3, *maps)}
    ship_these(monkeypatch, shelf, ["maps", "one"])
    asked = []

    def estimate_noise(model, image, family=None, missing=None):
        asked.append(next(name for name, each in shelf.items() if each.loaded.model is model))
        return Poisson(0.05)

    monkeypatch.setattr("n2s_dist.inference.denoiser.estimate_noise", estimate_noise)
    denoise = load_denoiser()
    assert denoise(color)[1].network is shelf["maps"].loaded
    assert denoise(color, "poisson")[1].network is shelf["maps"].loaded
    assert asked == ["families", "maps"]


def test_noise_that_formulas_do_not_fit_is_estimated_by_a_network_told_maps(color, monkeypatch):
    shelf = {
        "maps": denoiser(3, "--noise=gaussian:1-75,gaussian:5-55+blur:0-1.5", "--network.condition=map"),
        "white": denoiser(3, RANGES),
    }
    ship_these(monkeypatch, shelf, ["white"])
    correlated, weak = parse_noise("gaussian:20+blur:0.8"), parse_noise("gaussian:1.5")

    def denoised(plain: str, found: NoiseModel | None) -> Info:
        def by_formulas(model, image, family=None, missing=None):
            assert model is shelf["white"].loaded.model
            return parse_noise(plain)

        def by_maps(model, image, own, holds, missing):
            assert model is shelf["maps"].loaded.model
            return (found or own) if holds else weak

        monkeypatch.setattr("n2s_dist.inference.denoiser.estimate_noise", by_formulas)
        monkeypatch.setattr("n2s_dist.inference.network_choice.checked_noise", by_maps)
        return load_denoiser()(color)[1]

    assert denoised("gaussian:20", None).noise == parse_noise("gaussian:20")
    info = denoised("gaussian:20", correlated)
    assert info.noise == correlated and info.network is shelf["maps"].loaded and info.estimated
    info = denoised("gaussian:5", correlated)  # the weakest that the other network knows
    assert info.noise == weak and info.network is shelf["maps"].loaded


def test_without_a_network_of_one_family_the_universal_one_is_taken(color, monkeypatch):
    names = [name for name in pretrained.names() if not name.startswith("instrument")]
    monkeypatch.setattr(pretrained, "names", lambda: [name for name in names if not name.startswith("gaussian")])
    assert str(load_denoiser()(color, "gaussian:20")[1].network.path) == "universal-color"
    monkeypatch.setattr(pretrained, "names", list)
    with pytest.raises(UserError, match="no network for color images"):
        load_denoiser()(color, "gaussian:20")


def test_tiles_of_a_large_image_equal_the_whole(trained):
    noisy = np.random.default_rng(0).random((512, 600, 3)).astype(np.float32)
    tiled, in_one = (load_denoiser(trained, tile=tile)(noisy)[0] for tile in (160, 600))
    assert np.abs(tiled - in_one).max() < 1e-4
