"""Each kind of file that users have, through denoise, build-shards and the API.

What comes out is the right picture, or one line that names the file, exit code 2 and nothing written.
"""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image
from support.denoisers import save_network
from support.user_files import USER_FILES, UserFile

from n2s_dist import denoise, load_denoiser
from n2s_dist.commands import build_shards
from n2s_dist.images.files import ImageFile
from n2s_dist.images.user_files import open_file
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

NOISE = "gaussian:20"
LOSSY = ("turned.jpg",)
# What Pillow itself reads otherwise than the file says: fewer bits, or one image of several.
PILLOW_LOSES = ("p16_la.png", "turned.tif")

# What Pillow makes other values of.
MISREAD = (
    "i8_signed.tif", "g16_miniswhite.tif", "r16_planar.tif", "raw_thumb_first.tif", "p16_l_trns.png", "p16_rgb_trns.png"
)  # fmt: skip

shipped = cache(load_denoiser)  # which takes a second


def denoised(user_file: UserFile) -> list[np.ndarray]:
    """What the API makes of the images themselves."""
    black = None if user_file.white is None else 0
    assert isinstance(user_file.images, list)
    return [shipped()(image, noise=NOISE, white=user_file.white, black=black)[0] for image in user_file.images]


@pytest.mark.parametrize("name", USER_FILES)
def test_denoise(cli, tmp_path, monkeypatch, name):
    monkeypatch.setattr(denoise, "load_denoiser", lambda *_, **__: shipped())
    source, target = tmp_path / name, tmp_path / "out" / name
    user_file = USER_FILES[name](source)
    done = cli(denoise.main, f"--noise={NOISE}", source, target)
    if isinstance(user_file.images, str):
        line = done.error()
        assert str(source) in line and user_file.images in line
        assert not target.exists() and not (target.parent.exists() and any(target.parent.iterdir()))
        return
    assert done.code == 0, done.err
    assert [path.name for path in target.parent.iterdir()] == [name]
    with open_file(ImageFile(target.parent, name, 0)) as file:
        found = list(file.images())
    for image, wanted in zip(found, denoised(user_file), strict=True):
        if name in LOSSY:
            assert np.abs(image.pixels.astype(int) - wanted).mean() < 1
        else:
            np.testing.assert_array_equal(image.pixels, wanted)
            assert image.pixels.dtype == wanted.dtype
    if user_file.alpha is not None:
        np.testing.assert_array_equal(found[0].alpha, user_file.alpha)


@pytest.mark.parametrize("gray", [True, False])
def test_build_shards(cli, tmp_path, gray):
    """All files in one folder: tiles of those that are 8-bit images, page by page, and of each other one the reason."""
    source, out = tmp_path / "in", tmp_path / "shards"
    source.mkdir()
    user_files = {name: write(source / name) for name, write in USER_FILES.items()}
    options: list[Any] = [source, f"--out={out}", "--tile-size=64", "--workers=1", "--validation-fraction=0"]
    options += ["--gray"] if gray else []
    first = cli(build_shards.main, *options).error()
    assert any(f"{source}/{name}" in first for name in user_files)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    done = cli(build_shards.main, *options, "--on-error=skip")
    assert done.code == 0, done.err
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    reasons = {line["image"]: line["reason"] for line in skipped}
    assert reasons.keys() == {name for name, each in user_files.items() if isinstance(each.tile, str)}
    for name, reason in reasons.items():
        assert str(source / name) in reason and user_files[name].tile in reason, reason
    tiles = {}
    for name, each in user_files.items():
        several = (
            {f"{name}/page-{i:03d}": tile for i, tile in enumerate(each.tile)} if type(each.tile) is list else None
        )
        tiles |= several or {name: each.tile}
    shards = ShardSet(out)
    assert {shards[i].image for i in range(len(shards))} == {
        n for n, tile in tiles.items() if not isinstance(tile, str)
    }
    for tile in (shards[i] for i in range(len(shards))):
        wanted = tiles[tile.image]
        if gray and wanted.shape[2] == 3:
            wanted = np.asarray(Image.fromarray(wanted).convert("L"))[:, :, None]
        np.testing.assert_array_equal(tile.tile, np.broadcast_to(wanted, tile.tile.shape), tile.image)


@pytest.mark.parametrize("name", [name for name in USER_FILES if name not in PILLOW_LOSES])
def test_the_api_with_what_pillow_reads(tmp_path, name):
    """The same picture as of the file, or a refusal."""
    user_file = USER_FILES[name](tmp_path / name)
    if not isinstance(user_file.images, list) or len(user_file.images) > 1:
        return  # Pillow's own to refuse, or to read the first of
    opened = open_by_pillow(tmp_path / name)
    if opened is None:
        return
    if name in MISREAD:
        with pytest.raises(UserError, match="denoise the file itself"):
            shipped()(opened, noise=NOISE)
        return
    found, _ = shipped()(opened, noise=NOISE, white=user_file.white)
    (wanted,) = denoised(user_file)
    pixels = np.asarray(found.convert("RGB") if found.mode == "P" and wanted.shape[2] == 3 else found)
    np.testing.assert_array_equal(pixels.reshape(*pixels.shape[:2], -1)[:, :, : wanted.shape[2]], wanted)


def open_by_pillow(path: Path) -> Image.Image | None:
    """None for what it does not read."""
    try:
        opened = Image.open(path)
        opened.load()
        return opened
    except (OSError, ValueError, SyntaxError):
        return None


def test_denoising_needs_no_folder_for_temporary_files(cli, tmp_path, monkeypatch):
    network = save_network(tmp_path / "run", "gaussian:25")
    Image.fromarray(skimage.data.astronaut()[:64, 100:180]).save(tmp_path / "noisy.png")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [])
    words = (f"--checkpoint={network}", tmp_path / "noisy.png", tmp_path / "denoised.png", "--uncertainty")
    done = cli(denoise.main, *words)
    assert done.code == 0, done.err
    assert (tmp_path / "denoised.png").exists() and (tmp_path / "denoised-std.png").exists()
