"""tools/inspect_shards.py: what it says equals the manifest, what it draws equals the tiles and training's noise."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from n2s_dist.images.eight_bit import to_uint8
from n2s_dist.loading import sample_order
from n2s_dist.loading.crop_loader import CropLoader
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.specification import format_noise, parse_noise
from n2s_dist.shards import preview
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.preview import ContactSheet, contact_sheet, summary
from n2s_dist.shards.reader import ShardSet

SEED = 5


@pytest.fixture(scope="module")
def main(load_tool):
    """The program's main()."""
    return load_tool("inspect_shards").main


def build(folder: Path, images: dict[str, np.ndarray], **options) -> Path:
    for name, image in images.items():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "source" / name)
    options = BuildOptions(validation_fraction=0, **options)
    build_shards([str(folder / "source")], folder / "shards", options, workers=1)
    return folder / "shards"


@pytest.fixture(scope="module")
def mid_gray(tmp_path_factory) -> Path:
    """Color tiles of 64 x 64, all pixels 128: noise of five standard deviations still fits into 8 bits."""
    return build(tmp_path_factory.mktemp("mid_gray"), {"a.png": np.full((256, 256, 3), 128, np.uint8)}, tile_size=64)


@pytest.fixture(scope="module")
def gray(tmp_path_factory) -> Path:
    """One-channel tiles of three sizes; one source's name is far too long for a line."""
    rng = np.random.default_rng(0)
    images = {
        "one.png": rng.integers(0, 256, (90, 130), dtype=np.uint8),
        f"{'deep/' * 12}{'long' * 12}.png": rng.integers(0, 256, (48, 40), dtype=np.uint8),
        "flat.png": rng.integers(0, 256, (30, 200), dtype=np.uint8),
    }
    return build(tmp_path_factory.mktemp("gray"), images, tile_size=64, gray=True)


def numbers(line: str) -> list[float]:
    """All numbers of a line but those that are part of a word."""
    return [float(word.replace(",", "")) for word in line.split() if re.fullmatch(r"[\d,]+(\.\d+)?", word)]


def parts(sheet: ContactSheet, shards: ShardSet) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each tile on the sheet: the tile, and what is drawn at its clean and its noisy place."""
    out = []
    for index, *corners in zip(sheet.indices, sheet.clean_corners, sheet.noisy_corners, strict=True):
        tile = shards[index].tile
        drawn = (sheet.pixels[y : y + tile.shape[0], x : x + tile.shape[1]] for y, x in corners)
        out.append((tile, *drawn))
    return out


# --- in words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_summary_says_what_the_manifest_says(shards, split):
    manifest = json.loads((shards / "manifest.json").read_text())
    lines = summary(shards, split)
    assert "clean, color (3 channels), tiles of 64 x 64, built with seed 0" in lines[1]
    for name, entry in manifest["splits"].items():
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        mib = round(sum(shard["bytes"] for shard in entry["shards"]) / 2**20, 1)
        smallest = [entry["min_height"], entry["min_width"]]
        assert numbers(line) == [entry["images"], entry["samples"], len(entry["shards"]), mib, *smallest]
    chosen = manifest["splits"][split]
    for shard in chosen["shards"]:
        (line,) = (line for line in lines if line.startswith(shard["name"]))
        assert numbers(line)[:2] == [shard["samples"], round(shard["bytes"] / 2**20, 1)]
        assert line.endswith(shard["sha256"][:16])
    data = ShardSet(shards, split)
    sources = {data[index].image for index in range(len(data))}
    listed = [line for line in lines if line.endswith(" tiles") and ".png" in line]
    assert {line.split()[0] for line in listed} == sources
    assert sum(numbers(line)[0] for line in listed) == chosen["samples"]


def test_tile_sizes_are_counted(gray):
    lines = summary(gray, "train")
    assert "gray (1 channel)" in lines[1]
    begin = lines.index("tile sizes") + 1
    seen = {tuple(numbers(line)[:2]): numbers(line)[2] for line in lines[begin : begin + 3]}
    assert seen == {(64, 64): 6, (30, 64): 4, (48, 40): 1}
    assert lines[begin + 3] == ""


def test_lines_fit_a_terminal_and_long_lists_are_shortened(gray, tmp_path):
    """40 tiles of 256 x 256 from 10 images in shards of 1 MiB: more shards and sources than are listed."""
    rng = np.random.default_rng(0)
    images = {f"{n}.png": rng.integers(0, 256, (512, 512, 3), dtype=np.uint8) for n in range(10)}
    many = build(tmp_path, images, shard_mib=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preview, "_MAX_SHARDS", 4)
        lines = preview.summary(many, "train")
    begin = next(n for n, line in enumerate(lines) if line.startswith("shards of train"))
    names = [f"train-{n:06d}.tar" for n in (0, 1, 7)]
    assert [line.split()[0] for line in lines[begin + 1 : begin + 5]] == [*names[:2], "...", names[2]]
    assert lines[begin + 3] == "... 5 more" and "  ... 5 more images" in lines
    for line in [*lines, *preview.summary(gray, "train"), *preview.summary(many, "train")]:
        assert len(line) <= 80
    assert sum(line.startswith("train-") for line in preview.summary(many, "train")) == 8


# --- in pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [Gaussian(25 / 255), Poisson(0.01), Gamma(100.0)], ids=format_noise)
def test_the_sheet_shows_tiles_and_the_noise_of_training(main, cli, shards, noise, tmp_path):
    """Every tile at its place, pixel for pixel; the noisy one is what the loader yields for the same seed."""
    data, out = ShardSet(shards), tmp_path / "sheet.png"
    done = cli(main, shards, "--out", out, "--noise", format_noise(noise), "--seed", SEED, "--tiles", 10)
    assert done.code == 0 and done.out.endswith(f"\nsheet: {out}\n")
    sheet = contact_sheet(data, 10, parse_noise(format_noise(noise)), SEED)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), sheet.pixels)
    assert len(set(sheet.indices)) == 10

    positions = np.arange(2 * len(data))  # whole tiles: the crop is as large as they are
    loaded = next(CropLoader(data, iter([positions]), len(positions), 64, noise, SEED)).numpy()
    seen = dict(zip(sample_order.sample_index(SEED, positions, len(data)).tolist(), range(len(positions)), strict=True))
    choices = sample_order.crop_choice(SEED, positions)[:, 2:] & np.uint64(1)
    for index, (tile, clean, noisy) in zip(sheet.indices, parts(sheet, data), strict=True):
        np.testing.assert_array_equal(clean, tile)
        left_right, up_down, transposed = choices[seen[index]]
        crop = loaded[seen[index]].transpose(1, 2, 0)
        crop = crop.swapaxes(0, 1) if transposed else crop
        crop = crop[::-1] if up_down else crop
        crop = crop[:, ::-1] if left_right else crop
        np.testing.assert_array_equal(noisy, to_uint8(crop))


@pytest.mark.parametrize(
    "noise, deviation",
    [
        (Gaussian(25 / 255), 25 / 255),
        (Poisson(0.01), (0.01 * 128 / 255) ** 0.5),
        (Gamma(100.0), 128 / 255 / 10),
    ],
    ids=["gaussian", "poisson", "gamma"],
)
def test_noisy_tiles_have_the_noise_they_name(mid_gray, noise, deviation):
    data = ShardSet(mid_gray)
    residuals = [
        (noisy.astype(float) - tile) / 255 for tile, _, noisy in parts(contact_sheet(data, 16, noise, 0), data)
    ]
    assert len(residuals) == 16
    values = np.stack(residuals)
    rounding = 1 / 255 / 12**0.5
    standard_error = 1 / np.sqrt(2 * values.size)
    assert abs(values.std() / np.hypot(deviation, rounding) - 1) < 5 * standard_error + 1e-3
    assert abs(values.mean()) < 5 * deviation / np.sqrt(values.size)


def test_gray_tiles_of_several_sizes(gray):
    """More are asked for than there are: each is shown once."""
    data = ShardSet(gray)
    sheet = contact_sheet(data, 100, Gaussian(0.1), 0)
    assert sheet.pixels.shape[2] == 1 and sorted(sheet.indices) == list(range(len(data)))
    for tile, clean, noisy in parts(sheet, data):
        np.testing.assert_array_equal(clean, tile)
        assert (noisy != tile).mean() > 0.5
    boxes = [(*corner, *data[i].tile.shape[:2]) for i, corner in zip(sheet.indices, sheet.clean_corners, strict=True)]
    boxes += [(*corner, *data[i].tile.shape[:2]) for i, corner in zip(sheet.indices, sheet.noisy_corners, strict=True)]
    covered = np.zeros(sheet.pixels.shape[:2], int)
    for y, x, height, width in boxes:
        covered[y : y + height, x : x + width] += 1
    assert covered.max() == 1 and covered.sum() == sum(box[2] * box[3] for box in boxes)  # none overlap or stick out


def test_the_seed_chooses_tiles_and_noise(shards):
    data = ShardSet(shards)
    one, again, other = (contact_sheet(data, 5, Gaussian(0.1), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert one.indices != other.indices
    everything = [contact_sheet(data, len(data), Gaussian(0.1), seed) for seed in (0, 1)]
    first, second = ({i: noisy for i, (_, _, noisy) in zip(s.indices, parts(s, data), strict=True)} for s in everything)
    assert all((first[index] != second[index]).mean() > 0.5 for index in first)


# --- as a program -----------------------------------------------------------------------------------


def test_without_out_the_sheet_goes_to_runs(main, cli, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli(main, shards)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[:-2] == summary(shards, "train")
    assert done.out.endswith(f"sheet: runs/inspect/{Path(shards).name}.png\n")
    assert Image.open(tmp_path / f"runs/inspect/{Path(shards).name}.png").width > 100


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--split", "test"], "no 'test' split"),
        (["--noise", "gaussian:0"], "noise 'gaussian:0' is not understood"),
        (["--out", "sheet.jpg"], "name a .png file"),
        (["--out", "s.png", "--tiles", "0"], "--tiles is 0"),
        (["--out", "s.png", "--seed", "-1"], "--seed is -1"),
        (["--out", "taken/s.png"], "can't be used"),
    ],
)
def test_mistakes_are_named(main, cli, shards, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file where a folder is wanted")
    done = cli(main, shards, *arguments)
    assert said in done.error() and done.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_folder_without_shards(main, cli, tmp_path):
    assert "holds no manifest.json" in cli(main, tmp_path).error()
    assert "holds no manifest.json" in cli(main, tmp_path / "missing").error()


def test_tiles_stored_with_noise_are_shown_as_they_are(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    folder = build(tmp_path, {"a.png": image}, tile_size=64, noise="gaussian:25")
    sheet = contact_sheet(ShardSet(folder), 1, Gaussian(0.5), SEED)
    ((top, left),) = sheet.clean_corners
    shown = sheet.pixels[top : top + 64, left : left + 64].astype(float) / 255
    inside = (image > 80) & (image < 175)  # where the clamp plays no part
    assert (shown - image / 255)[inside].std() == pytest.approx(25 / 255, rel=0.03)
    assert any("gaussian:25" in line for line in summary(folder, "train"))
