"""Building shards: every pixel once in its place, the same bytes every time, and nothing half-built published."""

import errno
import itertools
import json
import shutil
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.archives import contents
from support.damage import cut_in_the_middle

from n2s_dist.shards import reader
from n2s_dist.shards.build import builder, collection, plan, staging, tiles
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.build.sources import Source
from n2s_dist.shards.build.workspace import workspace
from n2s_dist.shards.manifest import read_manifest
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import sha256_file

SIZES = [(40, 50), (70, 33), (16, 20), (64, 100), (33, 33), (32, 32), (65, 64), (96, 40), (31, 90), (48, 48)]
OPTIONS = BuildOptions(tile_size=32, validation_fraction=0.3, seed=5)


def write_images(folder: Path) -> dict[str, np.ndarray]:
    """Ten images of random pixels: color, gray and an upright one that is stored on its side."""
    rng = np.random.default_rng(0)
    written = {}
    for number, (height, width) in enumerate(SIZES):
        name = f"{'sub/' if number % 3 == 0 else ''}image{number}.png"
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        exif = Image.Exif()
        if number == 1:
            pixels[...] = pixels[:, :, :1]
        if number == 3:
            exif[0x0112] = 6
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:, :, 0] if number == 1 else pixels).save(folder / name, exif=exif)
        written[name] = np.rot90(pixels, -1) if number == 3 else pixels
    return written


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "source"
    write_images(folder)
    return folder


@pytest.fixture(scope="module")
def pixels(tmp_path_factory) -> dict[str, np.ndarray]:
    return write_images(tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="module")
def built(source) -> Path:
    out = source.with_name("built")
    build_shards([str(source)], out, OPTIONS, workers=1)
    return out


def samples(folder: Path) -> dict[str, list[reader.Sample]]:
    opened = {split: ShardSet(folder, split) for split in read_manifest(folder).splits}
    return {split: [split_set[index] for index in range(len(split_set))] for split, split_set in opened.items()}


# --- what is built ----------------------------------------------------------------------------------


def test_tiles_are_the_source_pixels_and_cover_all_of_them(built, pixels):
    seen = {name: np.zeros(image.shape[:2], bool) for name, image in pixels.items()}
    tiles = [sample for split in samples(built).values() for sample in split]
    for tile, name, _, row, column in tiles:
        height, width, channels = tile.shape
        source = pixels[name]
        assert (height, width, channels) == (min(32, source.shape[0]), min(32, source.shape[1]), 3)
        np.testing.assert_array_equal(tile, source[row : row + height, column : column + width])
        seen[name][row : row + height, column : column + width] = True
    assert all(covered.all() for covered in seen.values())
    assert len(tiles) == sum(
        -(-height // 32) * -(-width // 32) for height, width in SIZES
    )  # and no more than that takes


def test_key_json_describes_the_tile(built, pixels):
    with tarfile.open(built / "train-000000.tar") as tar:
        for index, member in enumerate(tar.getnames()[1::2]):
            sample = ShardSet(built)[index]
            height, width = pixels[sample.image].shape[:2]
            assert json.load(tar.extractfile(member)) == {
                "image": sample.image, "row": sample.row, "column": sample.column, "height": height, "width": width,
                "crc32": f"{zlib.crc32(sample.tile.tobytes()):08x}",
            }  # fmt: skip


@pytest.mark.parametrize(
    "length, tile, starts",
    [(5, 32, [0]), (32, 32, [0]), (33, 32, [0, 1]), (64, 32, [0, 32]), (70, 32, [0, 32, 38]), (96, 32, [0, 32, 64])],
)
def test_the_last_tile_aligns_to_the_border(length, tile, starts):
    (split,) = plan.make_plan(["a.png"], [(length, length)], BuildOptions(tile, validation_fraction=0))
    assert np.unique(split.tiles.row).tolist() == np.unique(split.tiles.column).tolist() == starts


def test_no_image_is_in_both_splits(built, pixels):
    names = {split: {sample.image for sample in content} for split, content in samples(built).items()}
    assert not names["train"] & names["validation"]
    assert names["train"] | names["validation"] == set(pixels)
    assert len(names["validation"]) == 3  # 0.3 of 10
    manifest = read_manifest(built)
    assert {split: len(found) for split, found in names.items()} == {s: v.images for s, v in manifest.splits.items()}


@pytest.mark.parametrize("fraction, count", [(0, 0), (0.001, 1), (0.02, 2), (0.5, 50), (0.98, 98)])
def test_validation_fraction_is_a_share_of_the_images(fraction, count):
    names = [f"{number}.png" for number in range(100)]
    chosen = plan.choose_validation(names, fraction, seed=0)
    assert len(chosen) == count and chosen <= set(names)
    assert plan.choose_validation(names[::-1], fraction, seed=0) == chosen  # whatever order they are listed in
    if 2 <= count <= 50:
        assert plan.choose_validation(names, fraction, seed=1) != chosen
    if count:
        assert chosen != set(sorted(names)[:count])  # not simply the first


def test_validation_takes_not_all_images():
    with pytest.raises(UserError, match=r"validation-fraction 0\.5 of 1 images"):
        plan.choose_validation(["a.png"], 0.5, seed=0)


def test_without_validation_there_is_one_split(source, tmp_path, pixels):
    options = BuildOptions(tile_size=32, validation_fraction=0)
    manifest = build_shards([str(source)], tmp_path / "out", options, workers=1)
    assert list(manifest.splits) == ["train"] and manifest.splits["train"].images == len(pixels)


def test_tiles_are_shuffled_over_the_split(built):
    train = samples(built)["train"]
    together = sum(one.image == two.image for one, two in itertools.pairwise(train))
    assert together < (len(train) - read_manifest(built).splits["train"].images) / 2  # unshuffled: twice this bound


def test_the_manifest_is_true(built, pixels):
    manifest, found = read_manifest(built), samples(built)
    assert (manifest.tile_size, manifest.channels, manifest.noise, manifest.seed) == (32, 3, None, 5)
    assert list(manifest.splits) == ["train", "validation"]
    for name, split in manifest.splits.items():
        shapes = np.array([sample.tile.shape for sample in found[name]])
        assert split.samples == len(shapes) == sum(entry.samples for entry in split.shards)
        assert (split.min_height, split.min_width) == tuple(shapes[:, :2].min(0))
        for entry in split.shards:
            assert entry.bytes == (built / entry.name).stat().st_size
            assert entry.sha256 == sha256_file(built / entry.name)
    listed = {entry.name for split in manifest.splits.values() for entry in split.shards}
    assert {path.name for path in built.iterdir()} == {
        "manifest.json", *listed, *(name.replace(".tar", ".idx") for name in listed)
    }  # fmt: skip


def test_sha256_file_agrees_with_a_published_digest(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")


def test_gray_shards(source, tmp_path, pixels):
    build_shards([str(source)], tmp_path / "gray", BuildOptions(tile_size=32, gray=True), workers=1)
    for sample in samples(tmp_path / "gray")["train"]:
        height, width, channels = sample.tile.shape
        place = pixels[sample.image][sample.row : sample.row + height, sample.column : sample.column + width]
        assert channels == 1 and np.abs(sample.tile[:, :, 0] - place @ [0.299, 0.587, 0.114]).max() <= 1


def test_a_zip_builds_the_same_tars_as_its_folder(source, built, tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in source.rglob("*.png"):
            archive.write(path, path.relative_to(source))
    build_shards([str(tmp_path / "images.zip")], tmp_path / "out", OPTIONS, workers=1)
    assert contents(tmp_path / "out") == contents(built)


def test_every_build_gives_the_same_bytes(source, built, tmp_path):
    build_shards([str(source)], tmp_path / "again", OPTIONS, workers=1)
    assert contents(tmp_path / "again") == contents(built)


def test_another_seed_gives_another_order_and_split():
    names = [f"{number}.png" for number in range(len(SIZES))]
    for fraction in (0, 0.3):
        plans = [plan.make_plan(names, SIZES, BuildOptions(32, False, fraction, seed)) for seed in (5, 6)]
        first, second = (np.concatenate([split.tiles.number for split in splits]) for splits in plans)
        assert len(first) == len(second) and np.mean(first == second) < 0.3
    chosen = [plan.choose_validation(names, 0.3, seed) for seed in range(5)]
    assert len({frozenset(split) for split in chosen}) > 2


def test_two_sources_keep_their_names_apart(source, built, tmp_path, pixels):
    shutil.copytree(source, tmp_path / "second")
    build_shards([str(source), str(tmp_path / "second")], tmp_path / "out", OPTIONS, workers=1)
    names = {sample.image for split in samples(tmp_path / "out").values() for sample in split}
    assert names == {f"{folder}/{name}" for folder in ("source", "second") for name in pixels}
    with pytest.raises(UserError, match="rename one folder"):
        build_shards([str(source), str(source)], tmp_path / "twice", OPTIONS)


def test_shards_are_no_larger_than_asked_for(tmp_path):
    (tmp_path / "source").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (700, 760, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "source/a.bmp")
    options = BuildOptions(tile_size=64, validation_fraction=0, shard_mib=1)
    split = build_shards([str(tmp_path / "source")], tmp_path / "out", options, workers=1).splits["train"]
    assert len(split.shards) == 2 and all(entry.bytes <= 2**20 for entry in split.shards)
    assert split.shards[0].bytes > 2**20 - 2 * 64 * 64 * 3 - 10240 - 2048  # another tile would not have fitted
    opened = ShardSet(tmp_path / "out")
    places = set()
    for index in range(len(opened)):
        tile, _, _, row, column = opened[index]
        np.testing.assert_array_equal(tile, image[row : row + 64, column : column + 64])
        places.add((row, column))
    assert len(places) == len(opened) == 11 * 12


# --- building again ---------------------------------------------------------------------------------


def test_a_second_build_changes_nothing_and_says_so(source, built, capsys):
    def state() -> dict[str, tuple]:
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in built.iterdir()}

    before = state()
    capsys.readouterr()
    manifest = build_shards([str(source)], built, OPTIONS, workers=1)
    assert "nothing to do" in capsys.readouterr().out
    assert state() == before and manifest == read_manifest(built)


@pytest.mark.parametrize("change", ["tile_size", "gray", "validation_fraction", "seed", "shard_mib", "images"])
def test_other_options_or_images_are_not_mixed_in(source, built, tmp_path, change):
    others = {"tile_size": 16, "gray": True, "validation_fraction": 0, "seed": 6, "shard_mib": 1}
    sources, before = [str(source)], contents(built)
    if change == "images":
        sources = [shutil.copytree(source, tmp_path / "source")]
        (tmp_path / "source/image1.png").unlink()
    options = BuildOptions(**{**vars(OPTIONS), **({change: others[change]} if change in others else {})})
    with pytest.raises(UserError, match=f"{built} holds shards of other images or options"):
        build_shards(sources, built, options, workers=1)
    assert contents(built) == before


def test_a_folder_with_other_things_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="exists and holds no shards"):
        build_shards([str(source)], tmp_path / "out", OPTIONS)
    assert contents(tmp_path / "out") == {"thesis.txt": b"all of it"}


def test_an_empty_folder_and_the_rest_of_a_killed_build_are_taken_over(source, built, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/train-000007.tar").write_bytes(b"half")
    build_shards([str(source)], tmp_path / "out", OPTIONS, workers=1)
    assert contents(tmp_path / "out") == contents(built)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_unreadable_image_is_named_and_nothing_is_published(source, tmp_path, suffix):
    shutil.copytree(source, tmp_path / "source")
    Image.open(source / "image4.png").save(tmp_path / f"source/image4a.{suffix}")
    data = (tmp_path / f"source/image4a.{suffix}").read_bytes()
    (tmp_path / f"source/image4a.{suffix}").write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(UserError, match=rf"image4a\.{suffix}"):
        build_shards([str(tmp_path / "source")], tmp_path / "new/out", OPTIONS, workers=1)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".out.partial"]  # where the others are finished


def disk_is_full(options: BuildOptions, job: tiles.Job) -> int:
    """Stands in for write_image_tiles in worker processes: half of a sample, then no more."""
    with Path(job.places.shard(0)).open("r+b") as stream:
        stream.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device", job.places.shard(0))


def test_a_disk_that_fills_up_leaves_nothing_behind(source, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "write_image_tiles", disk_is_full)
    with pytest.raises(OSError, match="No space left") as failure:
        build_shards([str(source)], tmp_path / "out", OPTIONS, workers=1)
    assert failure.value.errno == errno.ENOSPC  # run_command turns it into one line
    assert not list(tmp_path.iterdir())


def test_after_an_interrupt_the_same_command_goes_on(source, built, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builder, "publish", interrupt)
        build_shards([str(source)], tmp_path / "out", OPTIONS, workers=1)
    assert "the same command" in capsys.readouterr().err and not (tmp_path / "out").exists()
    build_shards([str(source)], tmp_path / "out", OPTIONS, workers=1)
    assert contents(tmp_path / "out") == contents(built)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_too_small_is_refused_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"more than .* has free"):
        build_shards([str(source)], tmp_path / "deep/out", OPTIONS, workers=1)
    assert not list(tmp_path.iterdir())


def all_of_one_size(options: BuildOptions, images: list[Source]) -> list[tuple[int, int]]:
    """Stands in for measure in worker processes."""
    return [(40, 40)] * len(images)


def test_an_image_that_changes_in_the_meantime_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "measure", all_of_one_size)
    with pytest.raises(UserError, match=r"image\d\.png changed while shards were built"):
        build_shards([str(source)], tmp_path / "out", OPTIONS, workers=1)
    assert not list(tmp_path.iterdir())


# --- scale ------------------------------------------------------------------------------------------


def test_a_tar_builds_the_same_tars_as_its_folder(source, built, tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(source, ".")
    build_shards([str(tmp_path / "images.tar")], tmp_path / "out", OPTIONS, workers=1)
    assert contents(tmp_path / "out") == contents(built)
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        archive.add(source, ".")
    with pytest.raises(UserError, match=r"images\.tar\.gz is compressed"):
        build_shards([str(tmp_path / "images.tar.gz")], tmp_path / "again", OPTIONS, workers=1)


def break_images(folder: Path) -> dict[str, np.ndarray]:
    """Damage two images, one in its header, one in its pixels; returns what is left to build from."""
    (folder / "image2.png").write_bytes(b"not an image")
    cut_in_the_middle(folder / "image7.png")
    return {"image2.png": None, "image7.png": None}


def test_unreadable_images_are_skipped_when_asked_and_listed(source, tmp_path, pixels):
    folder = Path(shutil.copytree(source, tmp_path / "source"))
    for name in break_images(folder):
        assert name in pixels
    manifest = build_shards([str(folder)], tmp_path / "out", OPTIONS, workers=1, on_error="skip")
    assert manifest.skipped == 2
    listed = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert [line["image"] for line in listed] == ["image2.png", "image7.png"]
    assert "not a readable image" in listed[0]["reason"] and "can't be decoded" in listed[1]["reason"]
    for name in break_images(folder):
        (folder / name).unlink()
    build_shards([str(folder)], tmp_path / "without", OPTIONS, workers=1)
    skipped, without = contents(tmp_path / "out"), contents(tmp_path / "without")
    for name in without.keys() - {"manifest.json"}:  # whose fingerprint counts the damaged ones
        assert skipped[name] == without[name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source", "without"]


@pytest.mark.parametrize(("fraction", "of_validation"), [(0.2, True), (0.15, False)])
def test_noisy_tiles_of_an_image_that_changes_sides_are_made_anew(tmp_path, fraction, of_validation):
    """Training tiles hold noise, validation tiles none: neither may be copied as the other when an image is skipped."""
    names, options = [f"{number}.png" for number in range(10)], BuildOptions(32, 1, fraction, noise="gaussian:25")
    before = plan.choose_validation(names, fraction, options.seed)
    lost = next(name for name in names if (name in before) == of_validation)
    kept = [name for name in names if name != lost]
    assert plan.choose_validation(kept, fraction, options.seed) != before - {lost}
    rng, folder = np.random.default_rng(0), tmp_path / "source"
    folder.mkdir()
    for name in names:
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / name)
    (folder / lost).write_bytes((folder / lost).read_bytes()[:2000])
    build_shards([str(folder)], tmp_path / "out", options, workers=1, on_error="skip")
    (folder / lost).unlink()
    build_shards([str(folder)], tmp_path / "expected", options, workers=1)
    out, expected = contents(tmp_path / "out"), contents(tmp_path / "expected")
    assert all(out[name] == expected[name] for name in expected.keys() - {"manifest.json"})


def test_when_no_image_can_be_read_nothing_is_skipped(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="none of the 1 images"):
        build_shards([str(tmp_path / "source")], tmp_path / "out", OPTIONS, workers=1, on_error="skip")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_two_builds_of_one_set_do_not_meet(source, tmp_path):
    with workspace(tmp_path / "out"), pytest.raises(UserError, match="another process is building"):
        build_shards([str(source)], tmp_path / "out", OPTIONS, workers=1)


def test_what_is_written_already_is_checked_before_it_is_kept(source, built, tmp_path, monkeypatch):
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builder, "publish", interrupt)
        build_shards([str(source)], tmp_path / "out", OPTIONS, workers=1)
    (shard,) = tmp_path.glob(".out.partial/*/*/train-000000.tar")
    data = bytearray(shard.read_bytes())
    data[5000:6000] = bytes(1000)  # as a power failure may leave it
    shard.write_bytes(data)
    build_shards([str(source)], tmp_path / "out", OPTIONS, workers=1)
    assert contents(tmp_path / "out") == contents(built)


def test_a_plan_of_many_tiles_is_small():
    """24,000 tiles of 500 images: some arrays, not objects."""
    names, sizes = [f"{number:04d}.png" for number in range(500)], [(1404, 2040)] * 500
    tracemalloc.start()
    splits = plan.make_plan(names, sizes, BuildOptions())
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    count = sum(len(split.tiles) for split in splits)
    assert count == 500 * 48 and held < 60 * count and peak < 250 * count


# --- the program ------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_built_and_writes_nothing(source, cli, load_tool, tmp_path):
    tool, arguments = load_tool("build_shards"), ["--out", tmp_path / "out", "--tile-size", 32, "--workers", 1]
    foretold = cli(tool.main, source, *arguments, "--dry-run").out.splitlines()
    assert not list(tmp_path.iterdir())
    built = cli(tool.main, source, *arguments).out.splitlines()
    assert len(built) == 2
    assert [line.replace(" of uint8", "") for line in foretold[:2]] == built
    assert "MiB free" in foretold[2]


def test_an_empty_working_folder_can_hold_the_shards(source, cli, load_tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli(load_tool("build_shards").main, source, "--out", ".", "--tile-size", 32, "--workers", 1)
    assert "Traceback" not in done.err and done.code in (0, 2)


def test_fetched_names_are_sources(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/set12 does not exist: run n2s fetch set12"):
        build_shards(["set12"], "out", OPTIONS)
    shutil.copytree(source, "data/set12")
    shutil.copytree(source, "more")
    build_shards(["set12", "more"], "out", OPTIONS, workers=1)
    names = {sample.image.split("/")[0] for split in samples(tmp_path / "out").values() for sample in split}
    assert names == {"set12", "more"}


@pytest.mark.parametrize(
    "arguments, names",
    [
        (["nowhere"], "nowhere"),
        (["empty"], "empty"),
        (["SOURCE", "--tile-size", "8"], "--tile-size"),
        (["SOURCE", "--tile-size", "large"], "--tile-size"),
        (["SOURCE", "--validation-fraction", "1.5"], "--validation-fraction"),
        (["SOURCE", "--validation-fraction", "nan"], "--validation-fraction"),
        (["SOURCE", "--shard-mib", "0"], "--shard-mib"),
        (["SOURCE", "--seed", "-1"], "--seed"),
        (["SOURCE", "--noise", "gaussian"], "gaussian:SIGMA"),
        (["SOURCE", "--on-error", "ignore"], "--on-error"),
        (["SOURCE", "--seed", str(2**64)], "--seed"),
        (["SOURCE", "--out", "file.txt/out"], "file.txt"),
        ([], "SOURCE"),
    ],
)
def test_mistakes_are_one_line(cli, load_tool, source, tmp_path, monkeypatch, arguments, names):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("a file, where a folder should be")
    words = [source if word == "SOURCE" else word for word in ["--out", "out", *arguments]]
    done = cli(load_tool("build_shards").main, *words)
    errors = [line for line in done.err.splitlines() if "error:" in line]
    assert done.code == 2 and len(errors) == 1 and names in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file.txt"]
