"""LIF, byte by byte: planes, axes, bits and lengths of all images come out."""

import numpy as np
import pytest
import tifffile
from support.arrays import change, rewritten
from support.microscope_files import write_lif
from support.tiff_layouts import values

from n2s_dist.images.scale import Scale
from n2s_dist.utils.errors import UserError

pytest.importorskip("liffile")

STACK = values(np.uint16, 2, 2, 3, 40, 56) // 16  # of 12 bits


def test_all_images_come_out_as_ome_tiff(tmp_path):
    images = {"one": (STACK, "TCZYX"), "two": (STACK[0, 0, 0], "YX"), "three": (STACK[0], "ZCYX")}
    images["three"] = (np.ascontiguousarray(STACK[0].swapaxes(0, 1)), "ZCYX")
    write_lif(tmp_path / "a.lif", images, 12, pixel_um=0.25)
    contents, found = rewritten(tmp_path / "a.lif", tmp_path / "b.ome.tif")
    assert (contents.images, contents.dtype, contents.scale) == (19, np.uint16, Scale(0, 4095))
    planes = np.concatenate([array.reshape(-1, 40, 56) for array, _ in images.values()])
    np.testing.assert_array_equal(np.stack([image.pixels[:, :, 0] for image in found]), planes)
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as file:
        assert file.ome_metadata.count('PhysicalSizeX="0.25"') == 3 and 'SignificantBits="12"' in file.ome_metadata
        for series, (name, (array, letters)) in zip(file.series, images.items(), strict=True):
            assert (series.name, series.axes) == (name, letters)
            np.testing.assert_array_equal(series.asarray(), change(array))


@pytest.mark.parametrize("letters", ["YX", "ZYX", "CYX", "TCYX", "MYX", "TMZYX"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_an_image_keeps_its_axes(tmp_path, letters, dtype):
    array = values(dtype, *(2, 3, 2)[: len(letters) - 2], 40, 56)
    write_lif(tmp_path / "a.lif", {"one": (array, letters)}, 8 * array.itemsize)
    contents, _ = rewritten(tmp_path / "a.lif", tmp_path / "b.npy")
    assert contents.scale is None and "".join(letter for letter, _ in contents.series[0].axes) == letters[:-2]
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), change(array))


def test_color(tmp_path):
    array = values(np.uint8, 4, 40, 56, 3)
    write_lif(tmp_path / "a.lif", {"one": (array, "ZYXS")}, 8)
    contents, found = rewritten(tmp_path / "a.lif", tmp_path / "b.tif")
    assert (contents.images, contents.channels) == (4, 3)
    np.testing.assert_array_equal(np.stack([image.pixels for image in found]), array)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), change(array))


def test_images_of_several_sizes(tmp_path):
    images = {"one": (STACK[0, 0], "ZYX"), "two": (values(np.uint16, 30, 70), "YX")}
    write_lif(tmp_path / "a.lif", images, 12)
    contents, found = rewritten(tmp_path / "a.lif", tmp_path / "b.tif")
    assert contents.sizes == ((40, 56),) * 3 + ((30, 70),)
    np.testing.assert_array_equal(found[3].pixels[:, :, 0], images["two"][0])
    with pytest.raises(UserError, match="images of several sizes"):
        rewritten(tmp_path / "a.lif", tmp_path / "b.npy")


def test_images_of_several_kinds_are_refused_in_a_line(tmp_path):
    images = {"one": (STACK[0, 0], "ZYX"), "two": (values(np.uint8, 40, 56), "YX")}
    write_lif(tmp_path / "a.lif", images, 16)
    write_lif(tmp_path / "b.lif", {"line": (STACK[0, 0, 0, :, 0], "X")}, 16)
    for name, said in {"a": r"several kinds \(one: uint16, two: uint8\)", "b": "no image of rows and columns"}.items():
        with pytest.raises(UserError, match=rf"{name}\.lif holds .*{said}"):
            rewritten(tmp_path / f"{name}.lif", tmp_path / "c.tif")
