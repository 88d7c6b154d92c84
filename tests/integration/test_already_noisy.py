"""Images that are noisy already: stored as they are, to rounding, and trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from support.archives import contents

from n2s_dist import train as training
from n2s_dist.images.decoded import DecodedImage
from n2s_dist.images.user_files import write_picture
from n2s_dist.models import checkpoint
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.specification import format_noise
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet
from n2s_dist.shards.verify import repair_shards, verify_shards
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

NOISES = [Gaussian(25 / 255), Poisson(0.02), Poisson(0.0005), Gamma(80)]


def measured(photographs: Path, folder: Path, noise, dtype: type, gray: bool = False) -> dict[str, np.ndarray]:
    """Photographs with noise, as a camera would write them: clipped, and rounded to the type. Values from 0 to 1."""
    folder.mkdir()
    written, full_scale = {}, np.iinfo(dtype).max
    for number, path in enumerate(sorted(photographs.glob("*.png"))):
        clean = np.asarray(Image.open(path).convert("L" if gray else "RGB"))
        clean = (clean[:, :, None] if gray else clean)[:128, :128] / 255
        noisy = np.clip(noise.corrupt(clean, np.random.default_rng(number)), 0, 1)
        pixels = np.round(noisy * full_scale).astype(dtype)
        write_picture(folder / f"{path.stem}.png", DecodedImage(pixels, None))
        written[f"{path.stem}.png"] = pixels / full_scale
    return written


@pytest.mark.parametrize("noise", NOISES, ids=format_noise)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiles_are_the_files_own_values(photographs, tmp_path, noise, dtype):
    images = measured(photographs, tmp_path / "in", noise, dtype)
    options = BuildOptions(64, validation_fraction=0, noise=format_noise(noise), already_noisy=True)
    manifest = build_shards([str(tmp_path / "in")], tmp_path / "out", options, workers=1)
    shards, stored = ShardSet(tmp_path / "out"), noise.encoding
    assert manifest.splits.keys() == {"train"} and shards.noise == format_noise(noise)
    assert len(shards) == 4 * len(images)
    steps = {Gaussian: stored.scale / 2, Poisson: noise.level / 2, Gamma: 2.0**-12}  # of a value of at most 1
    for index in range(len(shards)):
        sample = shards[index]
        expected = images[sample.image][sample.row : sample.row + 64, sample.column : sample.column + 64]
        assert np.abs(stored.decode(sample.tile) - expected).max() <= steps[type(noise)] + 1e-6


def test_a_network_learns_from_them_and_never_met_a_clean_pixel(photographs, tiny, cli, load_tool, tmp_path):
    """By the program; on gray files of 16 bits, which then denoises them by more than half."""
    noise = Gaussian(25 / 255)
    noisy = measured(photographs, tmp_path / "in", noise, np.uint16, gray=True)
    done = cli(load_tool("build_shards").main, tmp_path / "in", "--out", tmp_path / "out", "--tile-size=64", "--gray",
               "--noise=gaussian:25", "--already-noisy", "--workers=1")  # fmt: skip
    assert done.code == 0 and "validation" not in done.out, done.err
    options = [f"--data.shards={tmp_path / 'out'}", "--train.total_samples=1600", "--train.log_every_samples=800"]
    done = cli(training.main, *tiny, *options, "--noise=gaussian:25", f"--run_dir={tmp_path / 'run'}")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert not any("val_psnr_db" in row for row in rows)
    model = checkpoint.load(checkpoint.locate(tmp_path / "run")).model
    for path in sorted(photographs.glob("*.png")):
        clean = np.asarray(Image.open(path).convert("L"))[:128, :128, None] / 255
        y = torch.from_numpy(noisy[f"{path.stem}.png"].astype(np.float32)).permute(2, 0, 1)[None]
        with torch.no_grad():
            estimate = model.denoise(y, noise)[0].permute(1, 2, 0).numpy()
        before = np.square(noisy[f"{path.stem}.png"] - clean).mean()
        assert np.square(estimate - clean).mean() < 0.5 * before
    wrong = cli(training.main, *tiny, *options, "--noise=gaussian:50", f"--run_dir={tmp_path / 'other'}")
    assert "holds tiles with noise gaussian:25, not gaussian:50" in wrong.error()


def test_12_bits_in_files_of_16_are_divided_by_what_white_is(photographs, cli, load_tool, tmp_path):
    main = load_tool("build_shards").main
    options = ["--tile-size=64", "--noise=gaussian:25", "--already-noisy", "--workers=1"]
    for name, scale in (("few", 16), ("all", 16 * 65535 / 4095)):
        (tmp_path / name).mkdir()
        for path in photographs.glob("*.png"):
            pixels = np.round(np.asarray(Image.open(path)).astype(float) * scale).astype(np.uint16)
            write_picture(tmp_path / name / path.name, DecodedImage(pixels, None))
    few = cli(main, tmp_path / "few", "--out", tmp_path / "few-out", *options, "--white=4095")
    assert few.code == 0 == cli(main, tmp_path / "all", "--out", tmp_path / "all-out", *options).code, few.err
    few_set, all_set = (ShardSet(tmp_path / f"{name}-out") for name in ("few", "all"))
    samples = [all_set[index] for index in range(len(all_set))]
    whole = {(sample.image, sample.row, sample.column): sample.tile for sample in samples}
    assert len(whole) == len(few_set)
    for index in range(len(few_set)):
        sample = few_set[index]
        one, other = sample.tile.astype(int), whole[sample.image, sample.row, sample.column]
        assert np.abs(one - other).max() <= 1  # a rounding that tips over

    def refusal(*more: str) -> str:
        return cli(main, tmp_path / "few", "--out", tmp_path / "out", *options, *more).error()

    assert "more than twice --white 100" in refusal("--white=100")
    assert "--white is 65536" in refusal("--white=65536")
    with pytest.raises(UserError, match="--white and --black go with --already-noisy"):
        BuildOptions(white=4095)


@pytest.mark.parametrize("white", [None, 200])
def test_damage_is_repaired_from_the_noisy_images(photographs, tmp_path, white):
    measured(photographs, tmp_path / "in", NOISES[0], np.uint8)
    options = BuildOptions(64, validation_fraction=0, noise="gaussian:25", already_noisy=True, white=white)
    build_shards([str(tmp_path / "in")], tmp_path / "out", options, workers=1)
    whole = contents(tmp_path / "out")
    (tmp_path / "out/train-000000.tar").write_bytes(b"damage")
    repair_shards(tmp_path / "out", [str(tmp_path / "in")], verify_shards(tmp_path / "out", 1), workers=1)
    assert contents(tmp_path / "out") == whole


def test_what_can_not_be_is_refused(photographs, cli, load_tool, tmp_path):
    measured(photographs, tmp_path / "in", NOISES[0], np.uint8)

    def refusal(*options: str) -> str:
        main = load_tool("build_shards").main
        return cli(main, tmp_path / "in", "--out", tmp_path / "out", "--already-noisy", "--workers=1", *options).error()

    assert "--already-noisy takes --noise FAMILY:LEVEL" in refusal()
    assert "--already-noisy takes --noise FAMILY:LEVEL" in refusal("--noise=gaussian:5-55")
    assert "with --already-noisy it is 0" in refusal("--noise=gaussian:25", "--validation-fraction=0.1")
    assert "is color, and noisy images are taken as they are: build without --gray" in refusal(
        "--noise=gaussian:25", "--gray"
    )
    shutil.rmtree(tmp_path / "in")
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", np.full((64, 64, 3), 200, np.float32))
    assert "a.tif: floats are on the 0-1 scale, but these go up to 200" in refusal("--noise=gaussian:25")
    tifffile.imwrite(tmp_path / "in/a.tif", np.full((64, 64, 3), 0.7, np.float32))
    assert "a.tif: values go up to 0.7, as on the 0-1 scale" in refusal("--noise=gaussian:25", "--white=4095")
    (tmp_path / "in/a.tif").unlink()
    see_through = DecodedImage(np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 1), 9, np.uint8))
    write_picture(tmp_path / "in/a.png", see_through)
    assert "a.png has an alpha channel" in refusal("--noise=gaussian:25")
    for options in ({}, {"already_noisy": True, "validation_fraction": 0}):
        with pytest.raises(UserError, match=r"zeta 1e-05 can't be drawn or stored: .* the least zeta is 2e-05"):
            BuildOptions(noise="poisson:1e-5", **options)
    with pytest.raises(UserError, match="noise"):
        BuildOptions(noise="gausian:25", already_noisy=True, validation_fraction=0)
