"""PNG: transparency of 16 bits, long texts and profiles."""

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from support.deep_png import write_16_bit_png

from n2s_dist.images.files import ImageFile
from n2s_dist.images.user_files import open_file, read_picture, write_file


@pytest.mark.parametrize("transparent", [(700,), (70, 2000, 9)])
def test_a_transparent_color_of_16_bits_becomes_alpha(tmp_path, transparent):
    """Where all its bits are met; denoised pixels may come to have it, so it is no color any more."""
    pixels = np.random.default_rng(0).integers(0, 65536, (24, 37, len(transparent))).astype(np.uint16)
    pixels[3, 5] = transparent
    pixels[4, 5] = np.array(transparent) + 1  # the same in its high byte
    write_16_bit_png(tmp_path / "in.png", pixels, transparent)
    with open_file(ImageFile(tmp_path, "in.png", 0)) as file:
        write_file(tmp_path / "out.png", file.images(), file.contents)
    for name in ("in.png", "out.png"):
        found = read_picture(ImageFile(tmp_path, name, 0))
        np.testing.assert_array_equal(found.pixels, pixels)
        assert found.alpha is not None and found.alpha.dtype == np.uint16
        assert np.argwhere(found.alpha[:, :, 0] == 0).tolist() == [[3, 5]]


def test_long_texts_and_profiles(tmp_path):
    """Some programs keep all of their own data there, longer than Pillow takes by default."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Data", "x" * (3 << 20), zip=True)
    profile = np.random.default_rng(0).bytes(2 << 20)
    gray = np.random.default_rng(0).integers(0, 256, (24, 37), np.uint8)
    Image.fromarray(gray).save(tmp_path / "in.png", pnginfo=info, icc_profile=profile)
    with open_file(ImageFile(tmp_path, "in.png", 0)) as file:
        write_file(tmp_path / "out.png", file.images(), file.contents)
    with Image.open(tmp_path / "out.png") as found:
        np.testing.assert_array_equal(np.asarray(found), gray)
        assert found.info["Data"] == "x" * (3 << 20) and found.info["icc_profile"] == profile
