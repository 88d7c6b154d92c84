"""Zarr and OME-Zarr, written by zarr: pixels, types, chunks, codecs, axes and attributes of both versions come back."""

from pathlib import Path

import numpy as np
import pytest
from support.arrays import change, rewritten
from support.tiff_layouts import values

from n2s_dist.images.files import image_at, list_images
from n2s_dist.images.user_files import open_file
from n2s_dist.utils.errors import UserError

zarr = pytest.importorskip("zarr")

AXES = [{"name": name, "type": kind} for name, kind in zip("tczyx", ("time", "channel", *["space"] * 3), strict=True)]


def ome(path: Path, array: np.ndarray, version: int, **options) -> Path:
    """An OME-Zarr of five axes, with a pyramid, labels and what viewers keep."""
    root = zarr.create_group(path, zarr_format=version)
    for level in range(3):
        small = array[..., :: 2**level, :: 2**level]
        root.create_array(str(level), data=small, chunks=(1, 2, 2, 24, 20), **options)
    root.create_group("labels").create_array("cells", data=np.arange(12).reshape(3, 4))
    scales = [{"name": "a", "axes": AXES, "datasets": [{"path": str(level)} for level in range(3)]}]
    said = {"multiscales": scales, "omero": {"channels": [{"color": "FF0000"}, {"color": "00FF00"}]}}
    root.attrs.update(said if version == 2 else {"ome": {"version": "0.5", **said}})
    return path


@pytest.mark.parametrize("version, dtype", [(2, "u2"), (2, ">u2"), (3, "u1"), (3, "f4")])
def test_ome_images_keep_all_but_the_smaller_copies(tmp_path, version, dtype):
    array = values(np.dtype(dtype).newbyteorder("="), 2, 2, 5, 24, 37).astype(dtype)
    source = ome(tmp_path / "a.ome.zarr", array, version)
    contents, found = rewritten(source, tmp_path / "b.ome.zarr")
    assert (contents.images, contents.size, contents.kind) == (20, (24, 37), "OME-Zarr stack")
    assert contents.notes == ("2 smaller copies of its images are left out",)
    np.testing.assert_array_equal(np.stack([image.pixels[:, :, 0] for image in found]), array.reshape(20, 24, 37))
    before, after = zarr.open_group(source, mode="r"), zarr.open_group(tmp_path / "b.ome.zarr", mode="r")
    np.testing.assert_array_equal(after["0"][:], change(array).astype(dtype))
    assert after["0"].metadata == before["0"].metadata
    assert sorted(after.keys()) == ["0", "labels"]
    np.testing.assert_array_equal(after["labels/cells"][:], before["labels/cells"][:])
    said, kept = before.attrs.asdict(), after.attrs.asdict()
    scale = said.get("ome", said)["multiscales"][0]
    assert len(scale["datasets"]) == 3
    del scale["datasets"][1:]
    assert kept == said


@pytest.mark.parametrize("version", [2, 3])
def test_an_array_by_itself(tmp_path, version):
    array = values(np.uint16, 7, 24, 37)
    source = zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(3, 10, 37), zarr_format=version)
    source.attrs["wave"] = 488
    contents, _ = rewritten(tmp_path / "a.zarr", tmp_path / "b.zarr")
    after = zarr.open_array(tmp_path / "b.zarr", mode="r")
    assert contents.images == 7 and after.metadata == source.metadata and after.attrs["wave"] == 488
    np.testing.assert_array_equal(after[:], change(array))
    rewritten(tmp_path / "a.zarr", tmp_path / "b.zarr")  # which replaces the one before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


def test_shards_of_zarr_itself(tmp_path):
    array = values(np.uint16, 8, 32, 32)
    zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(1, 16, 16), shards=(4, 32, 32))
    rewritten(tmp_path / "a.zarr", tmp_path / "b.zarr")
    after = zarr.open_array(tmp_path / "b.zarr", mode="r")
    assert after.shards == (4, 32, 32)
    np.testing.assert_array_equal(after[:], change(array))


@pytest.mark.parametrize(
    "names, shape, images",
    [
        (("y", "x", "rgb"), (24, 37, 3), 1),
        (("x", "y"), (37, 24), 1),
        (("time", "Y", "X"), (3, 24, 37), 3),
        (("y", "time", "x"), (24, 5, 37), 5),
    ],
)
def test_an_arrays_own_names_say_its_axes(tmp_path, names, shape, images):
    array = values(np.uint8, *shape)
    zarr.create_array(tmp_path / "a.zarr", data=array, dimension_names=names)
    zarr.create_array(tmp_path / "b.zarr", data=array, zarr_format=2).attrs["_ARRAY_DIMENSIONS"] = list(names)
    for name in ("a.zarr", "b.zarr"):
        contents, _ = rewritten(tmp_path / name, tmp_path / f"out-{name}")
        assert (contents.images, contents.size) == (images, (24, 37))
        np.testing.assert_array_equal(zarr.open_array(tmp_path / f"out-{name}", mode="r")[:], change(array))


def test_axes_that_nobody_names_are_asked_for(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=values(np.uint8, 3, 24, 37))
    with pytest.raises(UserError, match="--axes"), open_file(image_at(tmp_path / "a.zarr")):
        pass
    assert rewritten(tmp_path / "a.zarr", tmp_path / "b.zarr", "SYX")[0].channels == 3
    assert rewritten(tmp_path / "a.zarr", tmp_path / "c.zarr", "CYX")[0].images == 3


def test_what_may_be_several_images_is_refused_in_a_line(tmp_path):
    root = zarr.create_group(tmp_path / "a.zarr")
    for name in ("raw", "mask"):
        root.create_array(name, data=values(np.uint8, 24, 37))
    (tmp_path / "empty.zarr").mkdir()
    for name, words in {
        "a.zarr": r"several images or none \((mask, raw|raw, mask)\)",
        "empty.zarr": "readable",
    }.items():
        with pytest.raises(UserError, match=rf"{name} .*{words}"), open_file(image_at(tmp_path / name)):
            pass


def test_one_group_of_a_converter_is_found(tmp_path):
    """bioformats2raw writes a group for each image, here one."""
    ome(tmp_path / "a.zarr/0", values(np.uint8, 1, 2, 3, 24, 37), 2)
    (tmp_path / "a.zarr/.zgroup").write_text('{"zarr_format": 2}')
    rewritten(tmp_path / "a.zarr", tmp_path / "b.zarr")
    after = zarr.open_group(tmp_path / "b.zarr", mode="r")
    np.testing.assert_array_equal(after["0/0"][:], change(values(np.uint8, 1, 2, 3, 24, 37)))
    assert "1" not in after["0"]


def test_folders_are_images(tmp_path):
    for name in ("a.zarr", "sub/b.zarr"):
        zarr.create_array(tmp_path / name, data=values(np.uint8, 24, 37))
    assert [image.name for image in list_images(tmp_path)] == ["a.zarr", "sub/b.zarr"]
    assert list_images(tmp_path / "a.zarr")[0].num_bytes > 0
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr/words.txt").write_text("not ours")
    with pytest.raises(UserError, match=r"c\.zarr is there and is no Zarr"):
        rewritten(tmp_path / "a.zarr", tmp_path / "c.zarr")
    assert (tmp_path / "c.zarr/words.txt").exists()


def test_stacks_of_other_formats_become_arrays(tmp_path):
    array = values(np.uint16, 5, 24, 37)
    np.save(tmp_path / "a.npy", array)
    rewritten(tmp_path / "a.npy", tmp_path / "b.zarr")
    after = zarr.open_array(tmp_path / "b.zarr", mode="r")
    assert after.metadata.dimension_names == ("q", "y", "x") and after.chunks == (1, 24, 37)
    np.testing.assert_array_equal(after[:], change(array))
