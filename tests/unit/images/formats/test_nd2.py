"""ND2, byte by byte: channels of frames, axes, bits and lengths come out, of recordings that were stopped as well."""

import numpy as np
import pytest
import tifffile
from support.arrays import change, rewritten
from support.microscope_files import write_nd2
from support.tiff_layouts import values

from n2s_dist.images.files import image_at
from n2s_dist.images.scale import Scale
from n2s_dist.images.user_files import open_file
from n2s_dist.utils.errors import UserError

pytest.importorskip("nd2")


@pytest.mark.parametrize("axes", ["", "C", "T", "TC", "Z", "TZC", "TPZC", "PC"])
def test_a_stack_keeps_its_axes(tmp_path, axes):
    stack = values(np.uint16, *(2, 3, 2, 2)[: len(axes)], 40, 56) // 16
    write_nd2(tmp_path / "a.nd2", stack, axes, 12)
    contents, found = rewritten(tmp_path / "a.nd2", tmp_path / "b.npy")
    assert (contents.images, contents.scale) == (int(np.prod(stack.shape[:-2])), Scale(0, 4095))
    np.testing.assert_array_equal(np.stack([image.pixels[:, :, 0] for image in found]), stack.reshape(-1, 40, 56))
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), change(stack))


def test_positions_are_images_of_an_ome_tiff(tmp_path):
    stack = values(np.uint16, 2, 3, 2, 2, 40, 56)
    write_nd2(tmp_path / "a.nd2", stack, "TPZC", 16)
    assert rewritten(tmp_path / "a.nd2", tmp_path / "b.ome.tif")[0].scale is None
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as file:
        assert len(file.series) == 3 and file.ome_metadata.count('PhysicalSizeX="0.25"') == 3
        assert 'Name="DAPI"' in file.ome_metadata and 'PhysicalSizeZ="0.5"' in file.ome_metadata
        for place, series in enumerate(file.series):
            assert series.axes == "TZCYX"
            np.testing.assert_array_equal(series.asarray(), change(stack[:, place]))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_color(tmp_path, dtype):
    stack = values(dtype, 3, 40, 56, 3)
    write_nd2(tmp_path / "a.nd2", stack, "Z", 8 * stack.itemsize, color=True)
    contents, found = rewritten(tmp_path / "a.nd2", tmp_path / "b.tif")
    assert (contents.channels, contents.images) == (3, 3)
    np.testing.assert_array_equal(np.stack([image.pixels for image in found]), stack)


def test_floats(tmp_path):
    stack = values(np.float32, 2, 40, 56)
    write_nd2(tmp_path / "a.nd2", stack, "T", 32)
    contents, _ = rewritten(tmp_path / "a.nd2", tmp_path / "b.npy")
    assert contents.scale is None
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), change(stack))


def test_times_that_were_not_recorded_are_left_out(tmp_path):
    stack = values(np.uint16, 4, 3, 40, 56)
    write_nd2(tmp_path / "a.nd2", stack, "TZ", 16, recorded=7)
    contents, _ = rewritten(tmp_path / "a.nd2", tmp_path / "b.npy")
    assert contents.notes == ("the last 2 of its 4 times lack frames, and are left out",)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), change(stack[:2]))
    write_nd2(tmp_path / "c.nd2", stack, "ZT", 16, recorded=7)
    with pytest.raises(UserError, match=r"c\.nd2 has 7 frames of 12: save it whole"):
        rewritten(tmp_path / "c.nd2", tmp_path / "d.npy")


def test_a_frame_that_is_not_there_is_named(tmp_path):
    stack = values(np.uint16, 4, 40, 56)
    stack[2] = 0
    write_nd2(tmp_path / "a.nd2", stack, "T", 16)
    with open_file(image_at(tmp_path / "a.nd2")) as file:
        file.image(1)
        with pytest.raises(UserError, match=r"a\.nd2 can't be decoded at image 3 of 4 \(it holds nothing"):
            file.image(2)


def test_old_files_are_refused_in_a_line(tmp_path):
    (tmp_path / "a.nd2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100))
    with pytest.raises(UserError, match=r"a\.nd2 is an ND2 of the old kind"), open_file(image_at(tmp_path / "a.nd2")):
        pass
