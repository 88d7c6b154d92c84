"""n2s inspect-noise, from files to a picture and words, and with the shipped networks' estimate."""

import numpy as np
import skimage.data
import tifffile
from PIL import Image

from n2s_dist.commands import inspect_noise
from n2s_dist.images.eight_bit import to_uint8
from n2s_dist.inference.network_choice import ShippedDenoiser
from n2s_dist.noise.specification import parse_noise

GRAY = skimage.data.camera()[..., None] / 255
COLOR = skimage.data.astronaut() / 255


def noisy(text: str, image: np.ndarray = GRAY) -> np.ndarray:
    return parse_noise(text).corrupt(image, np.random.default_rng(0))


def test_a_picture_and_words_are_made_of_files(cli, tmp_path, no_layout):
    Image.fromarray(to_uint8(noisy("gaussian:25", COLOR[:256, 100:356]))).save(tmp_path / "color.png")
    twelve = np.rint(4095 * noisy("gaussian:20", GRAY[:256, 100:356])[..., 0].clip(0, 1)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "gray.tif", twelve)
    for name, options in (("color.png", []), ("gray.tif", ["--white=4095"])):
        out = tmp_path / f"{name}-noise.png"
        done = cli(inspect_noise.main, tmp_path / name, "--out", out, "--no-network", *options)
        assert done.code == 0, done.err
        assert (
            "strength: about the same" in done.out
            and "what was seen, as text: curve:" in done.out
            and f"wrote {out}" in done.out
        )
        assert np.asarray(Image.open(out).convert("L")).std() > 10
    done = cli(inspect_noise.main, tmp_path / "gray.tif", "--out", tmp_path / "x.png", "--no-network")
    assert "--white 4095 for 12 bits" in done.error()


def test_a_jpegs_noise_is_estimated_as_for_denoising(tmp_path, monkeypatch):
    """From luma, where JPEG has stored color at half its resolution: of the same pixels, that say the same."""
    shipped = ShippedDenoiser("cpu")
    crop = to_uint8(noisy("gaussian:20", COLOR[100:148, 100:148]))
    Image.fromarray(crop).save(tmp_path / "a.jpg", quality=90, subsampling="4:2:0")
    monkeypatch.setattr(inspect_noise, "load_denoiser", lambda: shipped)
    asked, estimate = [], shipped.noises_of

    def noises_of(images, noise):
        """For denoising the noise is named, since to estimate it takes more than a second."""
        asked.append((images, noise))
        return estimate(images, noise if noise == "unknown" else "gaussian:20")

    monkeypatch.setattr(shipped, "noises_of", noises_of)
    found = inspect_noise.estimate(inspect_noise.read_unit(tmp_path / "a.jpg", None, None))
    assert found.level * 255 > 18  # and as color, which the JPEG blurred, near nothing
    shipped(Image.open(tmp_path / "a.jpg"))
    shipped(np.asarray(Image.open(tmp_path / "a.jpg")))  # which does not say that it was a JPEG
    assert [noise for _, noise in asked] == ["unknown", None, None]
    assert [images.chroma_subsampled for images, _ in asked] == [True, True, False]
    for images, _ in asked:
        np.testing.assert_allclose(images.pixels, asked[0][0].pixels, atol=1e-6)
