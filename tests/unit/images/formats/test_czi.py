"""CZI, written by Zeiss's own library: planes, axes and bits come out, of tiles, scenes and recordings cut short."""

import tempfile
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import tifffile
from support.arrays import change, rewritten
from support.microscope_files import write_czi
from support.tiff_layouts import values

from n2s_dist.images.czi_directory import read_tiles
from n2s_dist.images.files import list_images
from n2s_dist.images.scale import Scale
from n2s_dist.images.user_files import open_file
from n2s_dist.utils.errors import UserError

pytest.importorskip("pylibCZIrw")

STACK = values(np.uint16, 2, 2, 3, 40, 56) // 16  # T, C, Z, Y, X, of 12 bits


def pixels(found) -> np.ndarray:
    return np.stack([image.pixels[:, :, 0] for image in found])


@pytest.mark.parametrize("options", [{}, {"tile": 20}, {"compression": "zstd1:"}, {"first": 7}], ids=str)
def test_a_stack_comes_out_as_ome_tiff(tmp_path, options):
    write_czi(tmp_path / "a.czi", STACK, "TCZ", bits=12, pixel_um={"X": 0.1, "Y": 0.2, "Z": 0.5}, **options)
    contents, found = rewritten(tmp_path / "a.czi", tmp_path / "b.ome.tif")
    assert (contents.images, contents.dtype, contents.scale) == (12, np.uint16, Scale(0, 4095))
    np.testing.assert_array_equal(pixels(found), STACK.reshape(12, 40, 56))
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as file:
        (series,) = file.series
        assert file.is_ome and series.axes == "TCZYX"
        np.testing.assert_array_equal(series.asarray(), change(STACK))
        said = ('PhysicalSizeX="0.1"', 'PhysicalSizeY="0.2"', 'PhysicalSizeZ="0.5"', 'Name="DAPI"', 'Name="GFP"')
        assert [words for words in said if words not in file.ome_metadata] == []
    again, _ = rewritten(tmp_path / "b.ome.tif", tmp_path / "c.tif")
    assert (again.images, again.scale) == (12, Scale(0, 4095))


@pytest.mark.parametrize("axes", ["", "T", "C", "Z", "TZ", "CZ"])
def test_arrays_keep_the_axes_that_there_are(tmp_path, axes):
    stack = values(np.uint8, *(2, 3)[: len(axes)], 40, 56)
    write_czi(tmp_path / "a.czi", stack, axes)
    rewritten(tmp_path / "a.czi", tmp_path / "b.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), change(stack))
    zarr = pytest.importorskip("zarr")
    rewritten(tmp_path / "a.czi", tmp_path / "b.zarr")
    array = zarr.open_array(tmp_path / "b.zarr", mode="r")
    assert array.metadata.dimension_names == (*axes.lower(), "y", "x")
    np.testing.assert_array_equal(array[:], change(stack))


def test_floats_and_colors_of_floats(tmp_path):
    stack = values(np.float32, 3, 40, 56)
    write_czi(tmp_path / "a.czi", stack, "Z")
    contents, found = rewritten(tmp_path / "a.czi", tmp_path / "b.tif")
    assert contents.scale is None
    np.testing.assert_array_equal(pixels(found), stack)
    write_czi(tmp_path / "c.czi", values(np.float32, 40, 56, 3), "", color=True)
    with pytest.raises(UserError, match=r"c\.czi has values of Bgr96Float, which are not read here"):
        rewritten(tmp_path / "c.czi", tmp_path / "d.tif")


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_color(tmp_path, dtype):
    stack = values(dtype, 3, 40, 56, 3)
    write_czi(tmp_path / "a.czi", stack, "T", color=True)
    contents, found = rewritten(tmp_path / "a.czi", tmp_path / "b.ome.tif")
    assert (contents.channels, contents.dtype, contents.scale) == (3, np.dtype(dtype), None)
    np.testing.assert_array_equal(np.stack([image.pixels for image in found]), stack)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.ome.tif"), change(stack))


def test_scenes_are_images_of_their_own(tmp_path):
    stack = values(np.uint16, 2, 3, 40, 56)
    write_czi(tmp_path / "a.czi", stack, "SZ")
    contents, found = rewritten(tmp_path / "a.czi", tmp_path / "b.ome.tif")
    assert contents.series[0].axes == (("P", 2), ("Z", 3))
    np.testing.assert_array_equal(pixels(found), stack.reshape(6, 40, 56))
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as file:
        assert [series.axes for series in file.series] == ["ZYX", "ZYX"]
        for series, wanted in zip(file.series, stack, strict=True):
            np.testing.assert_array_equal(series.asarray(), change(wanted))


def test_scenes_of_several_sizes(tmp_path):
    import pylibCZIrw.czi as pylib

    scenes = [values(np.uint16, 40, 56), values(np.uint16, 30, 70)]
    with pylib.create_czi(str(tmp_path / "a.czi")) as file:
        for number, plane in enumerate(scenes):
            file.write(plane, location=(1000 * number, 0), scene=number)
    contents, found = rewritten(tmp_path / "a.czi", tmp_path / "b.ome.tif")
    assert contents.sizes == ((40, 56), (30, 70))
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as file:
        for image, series, wanted in zip(found, file.series, scenes, strict=True):
            np.testing.assert_array_equal(image.pixels[:, :, 0], wanted)
            np.testing.assert_array_equal(series.asarray(), change(wanted))


def write_places(path: Path, places: list[dict[str, int]]) -> None:
    import pylibCZIrw.czi as pylib

    with pylib.create_czi(str(path)) as file:
        for place in places:
            file.write(STACK[place["T"], 0, place["Z"]], plane=place)


def test_times_that_lack_planes_are_left_out(tmp_path):
    write_places(tmp_path / "a.czi", [{"T": 0, "Z": 0}, {"T": 0, "Z": 1}, {"T": 1, "Z": 0}])
    contents, found = rewritten(tmp_path / "a.czi", tmp_path / "b.npy")
    assert contents.notes == ("the last 1 of its 2 times lack planes, and are left out",)
    np.testing.assert_array_equal(pixels(found), STACK[0, 0, :2])
    write_places(tmp_path / "c.czi", [{"T": 0, "Z": 0}, {"T": 1, "Z": 0}, {"T": 1, "Z": 1}])
    with pytest.raises(UserError, match=r"c\.czi lacks planes: its tiles are of 3\. Save it whole"):
        rewritten(tmp_path / "c.czi", tmp_path / "d.npy")


def test_a_member_of_an_archive_is_read_from_a_copy_that_goes(tmp_path, monkeypatch):
    write_czi(tmp_path / "a.czi", STACK, "TCZ")
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.czi", "a.czi")
    (tmp_path / "a.czi").unlink()
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    (listed,) = list_images(tmp_path / "a.zip")
    with open_file(listed) as file:
        np.testing.assert_array_equal(pixels(file.images()), STACK.reshape(12, 40, 56))
        assert len([*folder.iterdir()]) == 1
    del file
    assert [*folder.iterdir()] == []


def test_the_list_of_tiles_is_what_was_written(tmp_path):
    write_czi(tmp_path / "a.czi", STACK[0, 0, 0], "", tile=30)
    with (tmp_path / "a.czi").open("rb") as stream:
        tiles = read_tiles(stream)
    assert [tile.box for tile in tiles] == [(0, 0, 30, 30), (30, 0, 26, 30), (0, 30, 30, 10), (30, 30, 26, 10)]
    assert {(tile.kind, tile.compression, tile.is_copy) for tile in tiles} == {(1, 0, False)}
