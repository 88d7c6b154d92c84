"""DICOM, written by pydicom: pixels and words come back, in an image that says what it derives from."""

from pathlib import Path

import numpy as np
import pytest
from support.arrays import change, rewritten
from support.tiff_layouts import values

from n2s_dist.images.files import image_at
from n2s_dist.images.scale import Scale
from n2s_dist.images.user_files import open_file
from n2s_dist.utils.errors import UserError

pydicom = pytest.importorskip("pydicom")
uid = pytest.importorskip("pydicom.uid")

SYNTAXES = ("ExplicitVRLittleEndian", "ImplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian")


def write(
    path: Path, array: np.ndarray, syntax: str = SYNTAXES[0], frames: int = 1, series: str = "1.2", **said
) -> Path:
    """A CT image: [H, W], [H, W, 3], or either behind each other."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = getattr(uid, syntax)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    data.SeriesInstanceUID, data.StudyInstanceUID = series, "1.3"
    data.PatientName, data.ImageType, data.RescaleIntercept = "A^B", ["ORIGINAL", "PRIMARY", "AXIAL"], -1024
    data.SmallestImagePixelValue = 3
    shape = array.shape[1:] if frames > 1 else array.shape
    data.Rows, data.Columns, data.SamplesPerPixel = *shape[:2], shape[2] if len(shape) == 3 else 1
    data.PhotometricInterpretation = "RGB" if data.SamplesPerPixel == 3 else "MONOCHROME2"
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * array.itemsize
    data.PixelRepresentation = int(array.dtype.kind == "i")
    if frames > 1:
        data.NumberOfFrames = frames
    for name, value in said.items():
        setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    order = ">" if syntax == "ExplicitVRBigEndian" else "<"
    raw = array.astype(array.dtype.newbyteorder(order)).tobytes()
    data.add_new("PixelData", "OW" if array.itemsize > 1 else "OB", raw + bytes(len(raw) % 2))
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    "array, frames",
    [(values("u2", 24, 37), 1), (values("i2", 24, 37), 1), (values("u1", 23, 37), 1), (values("u1", 24, 37, 3), 1),
     (values("u2", 5, 24, 37), 5), (values("u1", 3, 24, 37, 3), 3), (values("u4", 24, 37), 1)],
)  # fmt: skip
def test_pixels_and_words_come_back(tmp_path, syntax, array, frames):
    source = write(tmp_path / "a.dcm", array, syntax, frames)
    contents, _ = rewritten(source, tmp_path / "b.dcm")
    assert (contents.images, contents.dtype) == (frames, array.dtype)
    before, after = pydicom.dcmread(source), pydicom.dcmread(tmp_path / "b.dcm")
    assert after.pixel_array.dtype == array.dtype
    np.testing.assert_array_equal(after.pixel_array, change(array))
    differing = {each.keyword for each in after if each.tag not in before or before[each.tag] != each}
    derived = {"SOPInstanceUID", "SeriesInstanceUID", "ImageType", "SourceImageSequence", "DerivationDescription"}
    assert differing - {"PixelData"} == derived
    assert [each.keyword for each in before if each.tag not in after] == ["SmallestImagePixelValue"]
    assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID != before.SOPInstanceUID
    assert after.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert list(after.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
    kept = syntax if syntax in SYNTAXES[:2] else SYNTAXES[0]
    assert after.file_meta.TransferSyntaxUID == getattr(uid, kept)


def test_slices_of_one_series_stay_one(tmp_path):
    series = []
    for number in range(4):
        write(tmp_path / "a.dcm", values("u2", 24, 37), series=f"1.2.{number // 2}")
        rewritten(tmp_path / "a.dcm", tmp_path / "b.dcm")
        series.append(pydicom.dcmread(tmp_path / "b.dcm").SeriesInstanceUID)
    assert series[0] == series[1] != series[2] == series[3] and "1.2.0" not in series


@pytest.mark.parametrize(
    "dtype, bits, scale",
    [("u2", 12, Scale(0, 4095)), ("i2", 12, Scale(-2048, 2047)), ("u2", 16, None), ("i2", 16, None), ("u1", 8, None)],
)
def test_bits_that_are_stored_say_what_white_is(tmp_path, dtype, bits, scale):
    array = (values(dtype, 24, 37) // 2 ** (16 - bits)) if bits < 16 and dtype != "u1" else values(dtype, 24, 37)
    write(tmp_path / "a.dcm", array, BitsStored=bits, PixelPaddingValue=0)
    with open_file(image_at(tmp_path / "a.dcm")) as file:
        assert file.contents.scale == scale and file.contents.nodata == 0


def test_compressed_pixels_are_decoded_where_there_is_a_decoder(tmp_path):
    array = values("u2", 24, 37)
    write(tmp_path / "a.dcm", array)
    packed = pydicom.dcmread(tmp_path / "a.dcm")
    packed.compress(uid.RLELossless)
    packed.save_as(tmp_path / "a.dcm")
    contents, _ = rewritten(tmp_path / "a.dcm", tmp_path / "b.dcm")
    assert contents.notes == ("its compression (RLE Lossless) becomes none",)
    np.testing.assert_array_equal(pydicom.dcmread(tmp_path / "b.dcm").pixel_array, change(array))
    packed.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    packed.save_as(tmp_path / "c.dcm")
    with pytest.raises(UserError, match=r"c\.dcm is compressed \(MPEG2.*\), for which no decoder"):
        rewritten(tmp_path / "c.dcm", tmp_path / "d.dcm")


@pytest.mark.parametrize(
    "said, words",
    [({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"), ({"BitsAllocated": 64}, "64 bits")],
)
def test_what_can_not_be_read_is_refused_in_a_line(tmp_path, said, words):
    write(tmp_path / "a.dcm", values("u2", 24, 37), **said)
    with pytest.raises(UserError, match=rf"a\.dcm has pixels of a kind that is not read here .*{words}"):
        rewritten(tmp_path / "a.dcm", tmp_path / "b.dcm")


def test_only_a_dicom_becomes_one(tmp_path):
    np.save(tmp_path / "a.npy", values("u2", 24, 37))
    with pytest.raises(UserError, match=r"b\.dcm would lack what a DICOM says of its patient"):
        rewritten(tmp_path / "a.npy", tmp_path / "b.dcm")
    write(tmp_path / "a.dcm", values("u2", 24, 37))
    rewritten(tmp_path / "a.dcm", tmp_path / "c.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dcm", "a.npy", "c.tif"]
