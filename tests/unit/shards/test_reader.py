"""Shards: plain tars that other programs read, and clear words about damaged ones."""

import io
import json
import os
import resource
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from nvidia.dali import fn, pipeline_def
from PIL import Image

from n2s_dist.shards import reader, tar_format
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.manifest import Manifest, read_manifest
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Shards of six images of random pixels, two of them for validation; some tiles are smaller than the tile size."""
    source = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(40, 50), (70, 33), (16, 20), (64, 100), (33, 33), (32, 32)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(source / f"image{number}.png")
    out = source.with_name("shards")
    build_shards([str(source)], out, BuildOptions(tile_size=32, validation_fraction=0.3), workers=1)
    return out


@pytest.fixture
def damaged(folder, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


def read_all(folder: Path) -> list[reader.Sample]:
    opened = ShardSet(folder)
    return [opened[index] for index in range(len(opened))]


def about(sample: reader.Sample) -> tuple[str, int, int]:
    return sample.image, sample.row, sample.column


# --- other readers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "validation"])
def test_tarfile_reads_what_the_shard_set_reads(folder, split):
    opened = ShardSet(folder, split)
    with tarfile.open(folder / f"{split}-000000.tar") as tar:
        members = tar.getmembers()
        contents = [tar.extractfile(member).read() for member in members]
    assert [m.name for m in members] == [f"{i:09d}.{suffix}" for i in range(len(opened)) for suffix in ("npy", "json")]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    for index in range(len(opened)):
        sample, text = opened[index], json.loads(contents[2 * index + 1])
        np.testing.assert_array_equal(np.load(io.BytesIO(contents[2 * index])), sample.tile)
        assert (text["image"], text["row"], text["column"]) == about(sample)
        assert sample.image_key == hashing.name_key(text["image"])


def test_plain_webdataset_reads_the_same_pixels(folder):
    samples = list(webdataset.WebDataset(str(folder / "train-000000.tar"), shardshuffle=False).decode())
    expected = read_all(folder)
    assert len(samples) == len(expected)
    for sample, other in zip(samples, expected, strict=True):
        np.testing.assert_array_equal(sample["npy"], other.tile)
        assert (sample["json"]["image"], sample["json"]["row"], sample["json"]["column"]) == about(other)


def test_dali_reads_the_same_pixels_through_the_index(folder):
    expected = read_all(folder)

    @pipeline_def(batch_size=len(expected), num_threads=1, device_id=None)
    def reader():
        tar = str(folder / "train-000000.tar")
        npy, text = fn.readers.webdataset(paths=[tar], index_paths=[tar.replace(".tar", ".idx")], ext=["npy", "json"])
        return npy, text

    npy, text = reader().run()
    for index, sample in enumerate(expected):
        np.testing.assert_array_equal(np.load(io.BytesIO(npy.at(index).tobytes())), sample.tile)
        described = json.loads(text.at(index).tobytes())
        assert (described["image"], described["row"], described["column"]) == about(sample)


def test_sizes_and_offsets_known_beforehand_are_those_of_a_tar():
    """The builder places samples by sizes alone: tarfile, writing the same members, must agree byte for byte."""
    shapes = [(1, 1, 1), (16, 33, 3), (13, 13, 3), (64, 1000, 1)]
    tiles = [np.full(shape, number, np.uint8) for number, shape in enumerate(shapes)]
    stream, ours = io.BytesIO(), b""
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, tile in enumerate(tiles):
            npy = io.BytesIO()
            np.save(npy, tile)
            text = json.dumps({"number": number}, separators=(",", ":")).encode()
            for name, content in ((f"{number}.npy", npy.getvalue()), (f"{number}.json", text)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            sample = b"".join(tar_format.sample_parts(str(number), tile, {"number": number}))
            assert len(sample) == tar_format.sample_size(len(tar_format.npy_header(tile.shape)) + tile.size, len(text))
            ours += sample
    assert stream.getvalue()[: len(ours)] == ours
    assert len(stream.getvalue()) == tar_format.tar_size(len(ours))
    assert tar_format.samples_room(tar_format.tar_size(len(ours))) >= len(ours)
    assert tar_format.samples_room(tar_format.tar_size(len(ours)) - 1) < len(ours)


# --- our reader -------------------------------------------------------------------------------------


def test_tiles_are_read_only_views(folder):
    """A loader that copies tiles would be limited by memory bandwidth, and could change what others read."""
    sample = ShardSet(folder)[0]
    assert not sample.tile.flags.writeable and not sample.tile.flags.owndata


def test_many_samples_at_once_are_the_single_ones(folder):
    """In any order, more than once, the first time and again; their tiles are views as well."""
    opened = ShardSet(folder)
    indices = np.random.default_rng(1).integers(0, len(opened), 3 * len(opened))
    for _ in range(2):
        found = opened.take(indices)
        for at, index in enumerate(indices.tolist()):
            sample = opened[index]
            np.testing.assert_array_equal(found.tiles[at], sample.tile)
            assert found.tiles[at].shape == sample.tile.shape == (*found.sizes[at], 3)
            assert int(found.image_keys[at]) == sample.image_key == hashing.name_key(sample.image)
            assert tuple(found.places[at]) == (sample.row, sample.column)
            assert not found.tiles[at].flags.writeable and not found.tiles[at].flags.owndata
        np.testing.assert_array_equal(opened.image_keys(indices), found.image_keys)


def test_manifest_survives_a_round_trip(folder):
    manifest = read_manifest(folder)
    assert Manifest.from_json(manifest.to_json(), folder) == manifest
    assert (folder / "manifest.json").read_text() == manifest.to_json()


def test_missing_folders_and_splits_are_named(folder, damaged):
    with pytest.raises(UserError, match=r"nowhere.*manifest\.json"):
        ShardSet(folder / "nowhere")
    with pytest.raises(UserError, match="no 'test' split"):
        ShardSet(folder, "test")


# --- damaged shards ---------------------------------------------------------------------------------

TAR, IDX, MANIFEST = "train-000000.tar", "train-000000.idx", "manifest.json"


def replaced(name: str, old: bytes, new: bytes):
    """Damage that puts one string in the place of another's first occurrence."""

    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return damage


def overwritten(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def count_in_words(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["splits"]["train"]["shards"][0]["samples"] = "ten"
    (folder / MANIFEST).write_text(json.dumps(manifest))


DAMAGE = {
    "truncated tar": (lambda folder: os.truncate(folder / TAR, 5000), TAR),
    "tar with something appended": (lambda folder: os.truncate(folder / TAR, 2**20), TAR),
    "missing tar": (lambda folder: (folder / TAR).unlink(), TAR),
    "tile's magic number": (replaced(TAR, b"\x93NUMPY", b"\x93PUMNY"), TAR),
    "tile's header": (replaced(TAR, b"'descr'", b"('desc'"), TAR),
    "tile's type": (replaced(TAR, b"|u1", b"|i1"), TAR),
    "tile in Fortran order": (replaced(TAR, b"'fortran_order': False", b"'fortran_order': True "), TAR),
    "tile's shape": (replaced(TAR, b"(32, 32, 3)", b"(32, 31, 3)"), TAR),
    "description's braces": (replaced(TAR, b'{"column"', b'\0"column"'), TAR),
    "description without image": (replaced(TAR, b'"image"', b'"imbge"'), TAR),
    "missing idx": (lambda folder: (folder / IDX).unlink(), IDX),
    "empty idx": (overwritten(IDX, b""), IDX),
    "binary idx": (overwritten(IDX, b"\xff\xfe\x00" * 30), IDX),
    "older idx": (replaced(IDX, b"v1.2", b"v1.1"), IDX),
    "idx without its last line": (lambda folder: os.truncate(folder / IDX, (folder / IDX).stat().st_size - 20), IDX),
    "idx with a negative offset": (replaced(IDX, b"npy 512 ", b"npy -512 "), IDX),
    "idx beyond the end": (replaced(IDX, b"npy 512 ", b"npy 99999999 "), IDX),
    "idx beyond all ends": (replaced(IDX, b"npy 512 ", b"npy 9223372036854775807 "), "train-000000"),
    "idx beyond 64 bits": (replaced(IDX, b"npy 512 ", b"npy 99999999999999999999 "), IDX),
    "idx shifted by a block": (replaced(IDX, b"npy 512 ", b"npy 1024 "), "train-000000"),
    "idx with another size": (replaced(IDX, b" 3200 ", b" 3100 "), "train-000000"),
    "idx with a json that isn't": (replaced(IDX, b"json 4608 ", b"json 512 "), "train-000000"),
    "manifest of text": (overwritten(MANIFEST, b"hello"), MANIFEST),
    "manifest of nothing": (overwritten(MANIFEST, b""), MANIFEST),
    "binary manifest": (overwritten(MANIFEST, b"\xff\xfe\x00" * 30), MANIFEST),
    "manifest that is a list": (overwritten(MANIFEST, b"[]"), MANIFEST),
    "manifest that is null": (overwritten(MANIFEST, b"null"), MANIFEST),
    "manifest of another program": (overwritten(MANIFEST, b'{"name": "app", "version": 1}'), MANIFEST),
    "manifest cut short": (lambda folder: os.truncate(folder / MANIFEST, 300), MANIFEST),
    "manifest of another version": (replaced(MANIFEST, b'"version": 1', b'"version": 2'), MANIFEST),
    "manifest of another format": (replaced(MANIFEST, b"n2s_dist shards", b"n2s_dist shapes"), MANIFEST),
    "manifest without channels": (replaced(MANIFEST, b'"channels": 3,', b""), MANIFEST),
    "manifest with an unknown key": (replaced(MANIFEST, b'"channels": 3,', b'"channels": 3, "chanels": 3,'), MANIFEST),
    "manifest that miscounts": (replaced(MANIFEST, b'"samples": ', b'"samples": 1'), MANIFEST),
    "manifest that counts in words": (count_in_words, MANIFEST),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_and_the_file_named(damaged, damage):
    harm, name = DAMAGE[damage]
    harm(damaged)
    with pytest.raises(UserError) as refusal:
        read_all(damaged)
    assert str(damaged / name) in str(refusal.value)


def test_a_wrong_version_says_which_is_read(damaged):
    replaced(MANIFEST, b'"version": 1', b'"version": 7')(damaged)
    with pytest.raises(UserError, match="format version 7; this program reads 1"):
        ShardSet(damaged)


def test_as_many_files_are_allowed_as_a_set_has_shards(monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = 1024
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
        reader.allow_open_files(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, limits[1])
        reader.allow_open_files(soft)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > soft
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    with pytest.raises(UserError, match=r"5000 shards take 5512 open files, .* may have 4096 .*ulimit -Hn"):
        reader.allow_open_files(5000)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 64))
    with pytest.raises(UserError, match=r"2 shards take 514 open files, all else included, and a process may have 64"):
        reader.allow_open_files(2)
