"""DICOM: gray or color, one frame or several, of 8 to 32 bits. What is written is a derived image, not compressed.

It has identifiers of its own and names the image that it comes from; all else that the file says stays. Values are
those that are stored, before any rescaling; white is what BitsStored allows. Compressed pixels are read where pydicom
has a decoder for them.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from n2s_dist import __version__
from n2s_dist.images.decoded import Contents, DecodedImage
from n2s_dist.images.optional import needed
from n2s_dist.images.scale import Scale
from n2s_dist.utils.errors import UserError

suffixes = (".dcm",)
is_lossless = True
precedence = 1

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # what is wrong with a file is said in one line, by others

_PREAMBLE = 128
_NO_LONGER_TRUE = ("SmallestImagePixelValue", "LargestImagePixelValue", "DataSetTrailingPadding")


def probe(stream: BinaryIO, path: Path) -> Contents | None:
    stream.seek(_PREAMBLE)
    if stream.read(4) != b"DICM":
        return None
    dicom = needed("pydicom", path)
    stream.seek(0)
    with warnings.catch_warnings(action="ignore"):
        said = dicom.dcmread(stream, stop_before_pixels=True)
    samples, colors = said.get("SamplesPerPixel", 1), said.get("PhotometricInterpretation", "")
    if "Rows" not in said or "PixelRepresentation" not in said:
        raise UserError(f"{path} holds no pixels, or floating-point ones, which are not read here")
    if colors == "PALETTE COLOR" or samples not in (1, 3) or said.BitsAllocated not in (8, 16, 32):
        raise UserError(f"{path} has pixels of a kind that is not read here ({colors}, {said.BitsAllocated} bits)")
    syntax = said.file_meta.TransferSyntaxUID
    _check_decoder(syntax, path)
    dtype = np.dtype(f"{'i' if said.PixelRepresentation else 'u'}{said.BitsAllocated // 8}")
    frames = int(said.get("NumberOfFrames") or 1)
    return Contents(
        format="dicom",
        kind="DICOM of several frames" if frames > 1 else "DICOM",
        size=(said.Rows, said.Columns),
        channels=samples,
        dtype=dtype,
        images=frames,
        scale=_scale(said, dtype),
        nodata=said.get("PixelPaddingValue"),
        is_lossy=said.get("LossyImageCompression") == "01",
        chroma_subsampled="422" in colors or "420" in colors,
        form=said,
        notes=(f"its compression ({syntax.name}) becomes none",) if syntax.is_compressed else (),
    )


def _check_decoder(syntax: Any, path: Path) -> None:
    pixels = needed("pydicom.pixels", path)
    try:
        is_there = pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        is_there = False
    if not is_there:
        raise UserError(f"{path} is compressed ({syntax.name}), for which no decoder is installed: install pylibjpeg "
                        "with its plugins, or decompress the file first")  # fmt: skip


def _scale(said: Any, dtype: np.dtype) -> Scale | None:
    """Where fewer bits are stored than a value has."""
    bits = said.get("BitsStored", said.BitsAllocated)
    if bits >= said.BitsAllocated:
        return None
    return Scale(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype.kind == "i" else Scale(0, 2**bits - 1)


def reader(stream: BinaryIO, path: Path, contents: Contents) -> Callable[[int], DecodedImage]:
    pixels = needed("pydicom.pixels", path)

    source = stream
    if contents.form.file_meta.TransferSyntaxUID.is_deflated:  # all of it, as it is inflated from its beginning on
        stream.seek(0)
        source = needed("pydicom", path).dcmread(stream)

    def image(number: int) -> DecodedImage:
        stream.seek(0)
        found = pixels.pixel_array(source, index=number).astype(contents.dtype, copy=False)
        return DecodedImage(found if found.ndim == 3 else found[:, :, None])

    return image


def write(path: Path, images: Iterable[DecodedImage], contents: Contents) -> None:
    if contents.format != "dicom":
        raise UserError(f"{path} would lack what a DICOM says of its patient: only a DICOM becomes one, end it in .tif")
    dicom = needed("pydicom", path)
    said = _derived(contents.form)
    low, high = contents.scale or (np.iinfo(contents.dtype).min, np.iinfo(contents.dtype).max)
    with tempfile.TemporaryFile(dir=path.parent) as frames:  # of which the file is then made, without holding them
        for image in images:
            values = np.clip(image.pixels, int(low), int(high)).astype(contents.dtype.newbyteorder("<"))
            frames.write(np.ascontiguousarray(values).data)
        frames.write(bytes(frames.tell() % 2))
        frames.seek(0)
        is_bytes = said.BitsAllocated == 8 and not said.file_meta.TransferSyntaxUID.is_implicit_VR
        said.add_new("PixelData", "OB" if is_bytes else "OW", frames)
        dicom.dcmwrite(path, said, enforce_file_format=True)
        del said.PixelData


def _derived(original: Any) -> Any:
    """The data set of an image that comes from another, still without pixels."""
    uid = needed("pydicom.uid", Path())
    dataset = needed("pydicom.dataset", Path())
    said = copy.deepcopy(original)
    for name in _NO_LONGER_TRUE:
        if name in said:
            delattr(said, name)
    source = dataset.Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = original.SOPClassUID, original.SOPInstanceUID
    said.SourceImageSequence = [source]
    said.ImageType = ["DERIVED", *(list(original.get("ImageType") or [])[1:] or ["PRIMARY"])]
    said.DerivationDescription = f"Denoised by n2s_dist {__version__}"
    said.SOPInstanceUID = said.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    if "SeriesInstanceUID" in original:
        said.SeriesInstanceUID = _new_series(str(original.SeriesInstanceUID))
    syntax = original.file_meta.TransferSyntaxUID
    if syntax not in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
        said.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    if original.get("SamplesPerPixel", 1) == 3:
        said.PhotometricInterpretation, said.PlanarConfiguration = "RGB", 0
    return said


@cache
def _new_series(series: str) -> str:
    """One for all images of a series that a program denoises."""
    return str(needed("pydicom.uid", Path()).generate_uid())
