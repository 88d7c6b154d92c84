"""Shards of a part of the levels (--levels): the same noisy images as without, but for those of other levels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.archives import contents

from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.specification import parse_training_noise
from n2s_dist.shards import verify
from n2s_dist.shards.build import plan
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.manifest import read_manifest
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError

NOISE = "gaussian:5-55,poisson:0.005-0.1"
LEVELS = "gaussian:5-28"
SEED = 4
NAMES = [f"{number}.png" for number in range(24)]


def options(levels: str | None = LEVELS) -> BuildOptions:
    return BuildOptions(32, True, 0.2, seed=SEED, noise=NOISE, levels=levels)


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (48, 64), dtype=np.uint8)).save(folder / name)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str | None, Path]:
    """Folders of the images and of shards of all of them and of a part."""
    folder = tmp_path_factory.mktemp("levels")
    write_images(folder / "source")
    for levels, name in ((None, "all"), (LEVELS, "part")):
        build_shards([str(folder / "source")], folder / name, options(levels), workers=1)
    return {"source": folder / "source", None: folder / "all", LEVELS: folder / "part"}


def tiles(folder: Path) -> dict[tuple[str, int, int], bytes]:
    """What the training split holds, by image and place."""
    shards = ShardSet(folder)
    samples = [shards[index] for index in range(len(shards))]
    return {(sample.image, sample.row, sample.column): sample.tile.tobytes() for sample in samples}


def has_a_level_within(name: str) -> bool:
    noise = parse_training_noise(NOISE)
    match noise.of_image(hashing.name_key(name), seed=SEED):
        case Gaussian(sigma):
            return 5 / 255 <= sigma <= 28 / 255
        case Poisson():
            return False
    raise AssertionError


def test_images_of_other_levels_are_left_out_and_the_rest_is_the_same(built):
    everything, part = tiles(built[None]), tiles(built[LEVELS])
    assert part == {place: pixels for place, pixels in everything.items() if has_a_level_within(place[0])}
    assert 0 < len(part) < len(everything)
    manifest = read_manifest(built[LEVELS])
    assert (manifest.noise, manifest.levels, read_manifest(built[None]).levels) == (NOISE, LEVELS, None)
    assert manifest.splits["train"].images == len({image for image, _, _ in part})


def test_images_for_validation_are_the_same_whatever_their_level(built):
    before, after = contents(built[None]), contents(built[LEVELS])
    names = [name for name in before if name.startswith("validation")]
    assert names and all(before[name] == after[name] for name in names)


def test_another_part_is_another_set(built):
    with pytest.raises(UserError, match="other images or options"):
        build_shards([str(built["source"])], built[LEVELS], options("gaussian:5-30"), workers=1)


def test_damaged_shards_are_mended(built, tmp_path):
    copy = Path(shutil.copytree(built[LEVELS], tmp_path / "copy"))
    (copy / "train-000000.tar").write_bytes(b"")
    faults = verify.verify_shards(copy, workers=1)
    assert verify.repair_shards(copy, [str(built["source"])], faults, workers=1) == ["train-000000.tar"]
    assert contents(copy) == contents(built[LEVELS])


def test_an_image_left_out_that_changes_sides_is_written(built, tmp_path):
    """Skipping an image for validation brings another one there: one that its level had left out of training."""
    validation = plan.choose_validation(NAMES, 0.2, SEED)
    lost = min(validation)
    (new,) = plan.choose_validation([name for name in NAMES if name != lost], 0.2, SEED) - validation
    assert not has_a_level_within(new)
    source = Path(shutil.copytree(built["source"], tmp_path / "source"))
    (source / lost).write_bytes((source / lost).read_bytes()[:1000])
    build_shards([str(source)], tmp_path / "out", options(), workers=1, on_error="skip")
    (source / lost).unlink()
    build_shards([str(source)], tmp_path / "expected", options(), workers=1)
    out, expected = contents(tmp_path / "out"), contents(tmp_path / "expected")
    assert all(out[name] == expected[name] for name in expected.keys() - {"manifest.json"})


def test_mistakes_are_named(built, tmp_path):
    for noise, levels, words in (
        ("gaussian:25", "gaussian:5-28", "it takes --noise with ranges"),
        (None, "gaussian:5-28", "it takes --noise with ranges"),
        (NOISE, "gaussian:25", "give parts of the ranges"),
        (NOISE, "gaussian:3-28", "give parts of the ranges"),
        (NOISE, "gamma:20-200", "give parts of the ranges"),
        (NOISE, "gaussian:28-5", "not in order"),
    ):
        with pytest.raises(UserError, match=words):
            BuildOptions(noise=noise, levels=levels)
    with pytest.raises(UserError, match="leaves none of the images to train on"):
        build_shards([str(built["source"])], tmp_path / "out", options("gaussian:5-5.0001"), workers=1)
    assert not list(tmp_path.iterdir())


def test_the_program_takes_it(built, cli, load_tool, tmp_path):
    done = cli(
        load_tool("build_shards").main, built["source"], "--out", tmp_path / "out", "--workers=1", "--tile-size=32",
        "--gray", "--validation-fraction=0.2", f"--seed={SEED}", f"--noise={NOISE}", f"--levels={LEVELS}", "--dry-run",
    )  # fmt: skip
    split = read_manifest(built[LEVELS]).splits["train"]
    assert done.code == 0 and f"train: {split.images} images, {split.samples} tiles" in done.out
