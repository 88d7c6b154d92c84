"""FITS, written by astropy: values, scaling, headers and all other units come back, to the byte where pixels do not."""

import numpy as np
import pytest
from support.arrays import change, rewritten
from support.tiff_layouts import values

from n2s_dist.images.files import image_at
from n2s_dist.images.user_files import open_file
from n2s_dist.utils.errors import UserError

fits = pytest.importorskip("astropy.io.fits")


def units(array: np.ndarray) -> "fits.HDUList":
    """An image with words, a second one, and a table."""
    first = fits.PrimaryHDU(array)
    first.header["OBJECT"] = ("M 31", "as observed")
    first.header["EXPTIME"] = 30.5
    first.header.add_history("taken at night")
    second = fits.ImageHDU(np.ones((4, 5), np.int16), name="ERR")
    table = fits.BinTableHDU.from_columns([fits.Column("q", "E", array=np.arange(3.0))])
    return fits.HDUList([first, second, table])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(24, 37), (5, 24, 37), (2, 5, 24, 37)])
def test_every_type_and_all_units_come_back(tmp_path, dtype, shape):
    array = values(dtype, *shape)
    units(array).writeto(tmp_path / "a.fits")
    contents, found = rewritten(tmp_path / "a.fits", tmp_path / "b.fits")
    assert contents.images == np.prod(shape[:-2]) and contents.dtype == np.dtype(dtype)
    assert contents.notes == ("its other 1 image(s) are kept as they are",)
    np.testing.assert_array_equal(np.stack([each.pixels[:, :, 0] for each in found]), array.reshape(-1, 24, 37))
    with fits.open(tmp_path / "a.fits") as before, fits.open(tmp_path / "b.fits") as after:
        after.verify("exception")
        assert [unit.header.tostring() for unit in before] == [unit.header.tostring() for unit in after]
        np.testing.assert_array_equal(after[0].data, change(array))
        assert after[0].data.dtype.newbyteorder("=") == np.dtype(dtype)
        np.testing.assert_array_equal(before[1].data, after[1].data)
        np.testing.assert_array_equal(before[2].data, after[2].data)


def test_an_extension_holds_the_image_where_the_first_unit_has_none(tmp_path):
    array = values(np.float32, 24, 37)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(array, name="SCI")]).writeto(tmp_path / "a.fits")
    rewritten(tmp_path / "a.fits", tmp_path / "b.fits")
    np.testing.assert_array_equal(fits.getdata(tmp_path / "b.fits", "SCI"), change(array))


def test_scaled_integers_stand_for_floats(tmp_path):
    raw = values(np.int16, 24, 37)
    raw[3, 4] = -32768
    unit = fits.PrimaryHDU(raw)
    unit.header["BSCALE"], unit.header["BZERO"], unit.header["BLANK"] = 1e-5, 0.0625, -32768
    unit.writeto(tmp_path / "a.fits")
    contents, (found,) = rewritten(tmp_path / "a.fits", tmp_path / "b.fits")
    wanted = fits.getdata(tmp_path / "a.fits")
    assert contents.dtype == np.float32 and np.isnan(wanted[3, 4])
    np.testing.assert_allclose(found.pixels[:, :, 0], wanted, rtol=0, atol=1e-7)
    again = fits.getdata(tmp_path / "b.fits")
    np.testing.assert_allclose(again, wanted / 2, atol=0.51e-5, rtol=0)
    assert np.isnan(again[3, 4]) and fits.getheader(tmp_path / "b.fits")["BSCALE"] == 1e-5


def test_blank_integers_hold_nothing(tmp_path):
    unit = fits.PrimaryHDU(values(np.int16, 24, 37))
    unit.header["BLANK"] = -1
    unit.writeto(tmp_path / "a.fits")
    with open_file(image_at(tmp_path / "a.fits")) as file:
        assert file.contents.nodata == -1


def test_checksums_that_would_be_wrong_are_left_out(tmp_path):
    fits.PrimaryHDU(values(np.uint8, 24, 37)).writeto(tmp_path / "a.fits", checksum=True)
    rewritten(tmp_path / "a.fits", tmp_path / "b.fits")
    header = fits.getheader(tmp_path / "b.fits")
    assert "CHECKSUM" in fits.getheader(tmp_path / "a.fits") and "CHECKSUM" not in header and "DATASUM" not in header


def test_three_planes_are_a_color_where_the_header_or_the_user_says_so(tmp_path):
    array = values(np.uint8, 3, 24, 37)
    fits.PrimaryHDU(array).writeto(tmp_path / "a.fits")
    with pytest.raises(UserError, match="--axes"), open_file(image_at(tmp_path / "a.fits")):
        pass
    assert rewritten(tmp_path / "a.fits", tmp_path / "b.fits", "SYX")[0].channels == 3
    for kind, images in {"RGB": 1, "WAVE": 3}.items():
        unit = fits.PrimaryHDU(array)
        unit.header["CTYPE3"] = kind
        unit.writeto(tmp_path / f"{kind}.fits")
        assert rewritten(tmp_path / f"{kind}.fits", tmp_path / "c.fits")[0].images == images
        np.testing.assert_array_equal(fits.getdata(tmp_path / "c.fits"), change(array))


@pytest.mark.parametrize("axes", ["YTX", "XYT"])
def test_other_orders_of_axes(tmp_path, axes):
    array = values(np.uint16, 20, 24, 37)
    fits.PrimaryHDU(array).writeto(tmp_path / "a.fits")
    rewritten(tmp_path / "a.fits", tmp_path / "b.fits", axes)
    np.testing.assert_array_equal(fits.getdata(tmp_path / "b.fits"), change(array))


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
@pytest.mark.parametrize("shape", [(24, 37), (5, 24, 37), (24, 37, 3)])
def test_images_of_other_formats_become_fits(tmp_path, dtype, shape):
    array = values(dtype, *shape)
    np.save(tmp_path / "a.npy", array)
    rewritten(tmp_path / "a.npy", tmp_path / "b.fits")
    found = fits.getdata(tmp_path / "b.fits")
    assert found.dtype.newbyteorder("=") == array.dtype
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1) if shape[-1] == 3 else found, change(array))
    rewritten(tmp_path / "b.fits", tmp_path / "c.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), change(change(array)))


def test_what_can_not_be_read_is_refused_in_a_line(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), units(np.ones((2, 2)))[2]]).writeto(tmp_path / "table.fits")
    packed = fits.CompImageHDU(values(np.int16, 24, 37))
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "packed.fits")
    fits.PrimaryHDU(np.zeros((24, 37), np.int64)).writeto(tmp_path / "long.fits")
    whole = tmp_path / "cut.fits"
    fits.PrimaryHDU(values(np.int16, 240, 370)).writeto(whole)
    whole.write_bytes(whole.read_bytes()[:-50000])
    words = {
        "table": "holds no image",
        "packed": "tile-compressed",
        "long": "type int64",
        "cut": "before its values do",
    }
    for name, said in words.items():
        with pytest.raises(UserError, match=rf"{name}\.fits .*{said}"):
            rewritten(tmp_path / f"{name}.fits", tmp_path / "b.fits")
    assert not (tmp_path / "b.fits").exists()
