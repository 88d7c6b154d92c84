"""Checking shards: every damage is found and its place named; repair gives the first bytes back; tars of others."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from support.archives import contents

from n2s_dist.shards import verify
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.manifest import read_manifest
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils.errors import UserError

TAR, IDX = "train-000001.tar", "train-000001.idx"


@pytest.fixture(scope="module")
def source(random_images) -> Path:
    return random_images(6, 300, 310, "bmp")


@pytest.fixture(scope="module")
def whole(source) -> Path:
    """Two training shards of 1 MiB and one for validation."""
    out = source.with_name("shards")
    build_shards([str(source)], out, BuildOptions(tile_size=64, validation_fraction=0.1, shard_mib=1), workers=1)
    return out


@pytest.fixture
def damaged(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "damaged"))


def test_whole_shards_have_no_faults(whole):
    assert len(read_manifest(whole).splits["train"].shards) == 2
    assert verify.verify_shards(whole, workers=1) == []


def pixel_offset(folder: Path, sample: int) -> int:
    return ShardSet(folder)._shard(1).describe(sample).offset


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 16]))


def test_a_flipped_bit_is_found_and_its_sample_named(damaged):
    for sample in (0, 7):
        flip(damaged / TAR, pixel_offset(damaged, sample) + 1000)
    faults = verify.verify_shards(damaged, workers=1)
    assert [(fault.file, fault.sample) for fault in faults] == [(TAR, None), (TAR, "0"), (TAR, "7")]
    assert "sha256" in faults[0].reason and "pixels" in faults[1].reason


DAMAGE = {
    "truncated": (lambda folder: os.truncate(folder / TAR, 100_000), TAR, "bytes"),
    "missing": (lambda folder: (folder / TAR).unlink(), TAR, "missing"),
    "index missing": (lambda folder: (folder / IDX).unlink(), TAR, IDX),
    "index of another": (lambda folder: shutil.copy(folder / "train-000000.idx", folder / IDX), IDX, "tar holds"),
    "shard of another": (lambda folder: shutil.copy(folder / "train-000000.tar", folder / TAR), TAR, ""),
    "header": (lambda folder: flip(folder / TAR, 0), TAR, "sha256"),
    "stranger": (lambda folder: shutil.copy(folder / TAR, folder / "train-000007.tar"), "train-000007.tar", "manifest"),
    "manifest": (lambda folder: os.truncate(folder / "manifest.json", 200), "manifest.json", "manifest"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_the_file_named(damaged, damage):
    harm, name, word = DAMAGE[damage]
    harm(damaged)
    faults = verify.verify_shards(damaged, workers=1)
    assert name in {fault.file for fault in faults} and any(word in fault.reason for fault in faults)
    assert all("\n" not in str(fault) for fault in faults)


@pytest.mark.parametrize("damage", ["truncated", "missing", "index missing", "index of another", "header"])
def test_repair_gives_the_same_bytes_and_touches_nothing_else(damaged, whole, source, damage, tmp_path):
    DAMAGE[damage][0](damaged)
    before = (damaged / "train-000000.tar").stat()
    faults = verify.verify_shards(damaged, workers=1)
    assert verify.repair_shards(damaged, [str(source)], faults, workers=1) == [TAR]
    assert contents(damaged) == contents(whole)
    after = (damaged / "train-000000.tar").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_repair_from_other_images_is_refused(damaged, source, tmp_path):
    os.truncate(damaged / TAR, 5)
    faults, before = verify.verify_shards(damaged, workers=1), contents(damaged)
    other = Path(shutil.copytree(source, tmp_path / "source"))
    (other / "0.bmp").unlink()
    with pytest.raises(UserError, match="not built from these images"):
        verify.repair_shards(damaged, [str(other)], faults, workers=1)
    for path in source.iterdir():  # the same names and sizes, other pixels
        Image.fromarray(255 - np.asarray(Image.open(path))).save(other / path.name)
    with pytest.raises(UserError, match="came out differently"):
        verify.repair_shards(damaged, [str(other)], faults, workers=1)
    assert contents(damaged) == before and {p.name for p in tmp_path.iterdir()} == {"damaged", "source"}


def test_the_program_repairs_and_its_exit_code_says_what_it_found(damaged, whole, source, cli, load_tool):
    tool = load_tool("verify_shards")
    done = cli(tool.main, damaged, "--workers", 1)
    assert done.code == 0 and "all is well" in done.out
    flip(damaged / TAR, pixel_offset(damaged, 3))
    done = cli(tool.main, damaged, "--workers", 1)
    assert done.code == 1 and f"{TAR}, sample 3" in done.out and "Traceback" not in done.err
    done = cli(tool.main, damaged, "--workers", 1, "--repair", source)
    assert done.code == 0 and f"built {TAR} anew" in done.out
    assert contents(damaged) == contents(whole)
    assert "holds no manifest.json" in cli(tool.main, source, "--workers", 1).error()


# --- tars of other programs -------------------------------------------------------------------------


def photographs(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (40 + n, 60 - n, 3), dtype=np.uint8) for n in range(count)]


@pytest.mark.parametrize("kind", ["npy", "png", "jpg"])
def test_shards_of_webdatasets_own_writer_can_be_read(tmp_path, kind):
    images = photographs(7)
    with webdataset.ShardWriter(str(tmp_path / "set-%04d.tar"), maxcount=4, verbose=0) as writer:
        for number, image in enumerate(images):
            writer.write({"__key__": f"some/where.or/{number:03d}", kind: image, "cls": number})
    manifest = verify.write_index(tmp_path)
    split = manifest.splits["train"]
    assert (split.samples, len(split.shards), manifest.channels) == (7, 2, 3)
    assert (split.min_height, split.min_width) == (40, 54)
    assert verify.verify_shards(tmp_path, workers=1) == []
    opened = ShardSet(tmp_path)
    for index, image in enumerate(images):
        if kind == "jpg":
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "jpeg", quality=100)
            assert opened[index].tile.shape == image.shape
            assert np.abs(opened[index].tile.astype(int) - np.asarray(Image.open(stream))).mean() < 3
        else:
            np.testing.assert_array_equal(opened[index].tile, image)
    assert len({opened[index].image_key for index in range(7)}) == 7  # each has noise of its own


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


RAW = np.zeros((16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    "members, words",
    [
        ({"a.txt": b"words"}, "a holds no image"),
        ({"a.npy": npy(RAW.astype(np.float32))}, "sample a: a tile of <f4"),
        ({"a.npy": npy(np.asfortranarray(RAW))}, "Fortran"),
        ({"a.npy": npy(RAW[..., :2])}, "2"),
        ({"a.npy": npy(RAW), "b.npy": npy(RAW[..., :1])}, "channels"),
        ({"a.npy": npy(np.array([{}], object))}, "sample a"),
        ({"a.png": b"not a PNG"}, "a.png is not a readable image"),
        ({"a.npy": npy(RAW), "b.npy": npy(RAW), "a.json": b"{}"}, "a comes twice"),
        ({}, "no samples"),
    ],
)
def test_what_cant_be_trained_on_is_refused_by_name(tmp_path, members, words):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in members.items():
            add(tar, name, data)
    with pytest.raises(UserError, match=words) as refusal:
        verify.write_index(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_tars_whose_names_cant_be_written_down_are_refused_by_name(tmp_path):
    with tarfile.open(tmp_path / "my tiles.tar", "w") as tar:
        add(tar, "a.npy", npy(RAW))
    with pytest.raises(UserError, match=r"a shard with the name 'my tiles\.tar'\): rename it"):
        verify.write_index(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["my tiles.tar"]


def test_links_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.npy", npy(RAW))
        link = tarfile.TarInfo("b.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert verify.write_index(tmp_path).splits["train"].samples == 1


def test_a_set_with_a_manifest_is_not_indexed_over(whole):
    before = contents(whole)
    with pytest.raises(UserError, match="has a manifest already"):
        verify.write_index(whole)
    assert contents(whole) == before
