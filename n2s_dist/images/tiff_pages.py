"""What the pages of a TIFF file are: their channels, how they are stored, and what their tags say."""

import contextlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from n2s_dist.images.decoded import Contents
from n2s_dist.images.ome import ome_description
from n2s_dist.images.tiff_codecs import has_codec, undecodable
from n2s_dist.images.tiff_directories import Directories
from n2s_dist.images.tiff_tags import (
    DESCRIPTION,
    NEGATIVE,
    PALETTE,
    RGB,
    about_tiff,
    below_of,
    nodata_of,
    orientation_of,
    plain_tags,
    raw,
    resolution_of,
    scale_of,
    tags_of,
)
from n2s_dist.utils.errors import UserError

_CFA, _LINEAR_RAW = 32803, 34892  # photometric interpretations
_OTHER_COLORS = {5: "CMYK", 8: "Lab", 9: "Lab", 10: "Lab"}
_DEFLATE = 8
_NO_LOSS = (1, 5, 8, 32946, 32773, 34925, 34926, 50000)  # compressions
_ALPHAS = (1, 2)  # kinds of extra samples
_FOREIGN = {
    "lsm": "a Zeiss LSM file", "stk": "a MetaMorph stack", "fluoview": "a FluoView file", "nih": "an NIH Image file",
    "mdgel": "an MD gel file", "eer": "an EER movie",
    **dict.fromkeys(("svs", "ndpi", "scn", "bif", "philips"), "a whole-slide image"),
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """One page.

    Args:
        groups: how many channels each of its images has: 3 for color, 1 for gray
        alpha: the channel that is opacity; None for none
        extra: what TIFF calls each channel beyond the first image's
        planes: how many images follow one another in it, without pages of their own
        is_planar: whether channels are stored one after the other
        is_negative: whether 0 is white
        orientation: how it is to be turned (TIFF's tag 274)
        palette: uint8 [N, 3], where there is one
        options: for TiffWriter.write
        tags: all others, as TiffWriter.write takes them
        below: EXIF and GPS
        through_pillow: whether tifffile can't decode it. place: its place among the pages, then
        is_deep: whether it has 16 bits a channel
    """

    groups: tuple[int, ...]
    alpha: int | None = None
    extra: list[int] = field(default_factory=list)
    planes: int = 1
    is_planar: bool = False
    is_negative: bool = False
    orientation: int = 1
    palette: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)
    tags: list[tuple] = field(default_factory=list)
    below: Directories = field(default_factory=dict)
    through_pillow: bool = False
    place: int | None = 0
    is_deep: bool = False


@dataclass(frozen=True)
class Form:
    """How a file is stored."""

    pages: list[Page]
    byteorder: Any = None
    is_big: bool = False

    def tags_for(self, page: Page, path: Path) -> list[tuple]:
        """A page's tags, in a file of another name, which OME wants to know."""
        name = f'FileName="{path.name}"'.encode("utf-8", "surrogateescape")
        return [
            (*tag[:3], re.sub(rb'FileName="[^"]*"', lambda _: name, tag[3]), True)
            if tag[0] == DESCRIPTION and b"<OME" in tag[3]
            else tag
            for tag in page.tags
        ]


# --- a whole file -------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """A page as tifffile has it. place: among the file's pages; None where it lies below one of them."""

    page: Any
    place: int | None


def main_pages(file: tifffile.TiffFile) -> tuple[list[Stored], int]:
    """The pages, and those below them, that are no smaller copies of others; and how many are."""
    every: list[Stored] = []
    mains: list[Stored] = []
    page: Any
    for place, page in enumerate(file.pages):
        every.append(Stored(page, place))
        mains += [] if page.is_reduced else [every[-1]]
        for below in page.pages if page.subifds else []:
            every.append(Stored(below, None))
            is_copy = below.is_reduced or (not page.is_reduced and below.imagewidth < page.imagewidth)
            mains += [] if is_copy else [every[-1]]
    mains = mains or [each for each in every if each.place is not None]
    return mains, len(every) - len(mains)


def survey(file: tifffile.TiffFile, stream: BinaryIO, path: Path) -> Contents:
    """What a file holds. Raises UserError for what can't be denoised or written again."""
    if kind := next((_FOREIGN[flag] for flag in _FOREIGN if flag in file.flags), None):
        raise UserError(f"{path} is {kind}, whose own data would be lost: save it as OME or ImageJ TIFF")
    stored, copies = main_pages(file)
    first = stored[0].page
    planes = _planes(file, first, path)
    pages = [_page(file, each, planes, stream, path) for each in stored]
    both = list(zip(stored, pages, strict=True))
    if len({(_dtype(each.page, page), page.groups[0], page.alpha is None) for each, page in both}) > 1:
        raise UserError(f"{path} has pages of different kinds, such as gray and color: save each as a file of its own")
    sizes = [_upright_size(each.page) for each, page in both for _ in range(len(page.groups) * page.planes)]
    count = len(sizes)
    origin = "ImageJ " if file.is_imagej else "OME " if file.is_ome else ""
    notes: tuple[str, ...] = (f"{copies} smaller copies of its pages are left out",) if copies else ()
    notes += (f"its {other} colors become RGB",) if (other := _OTHER_COLORS.get(int(first.photometric))) else ()
    notes += ("Micro-Manager's own index is left out",) if "micromanager" in file.flags else ()
    return Contents(
        format="tiff",
        kind=f"{origin}TIFF stack" if count > 1 else f"{origin}TIFF",
        size=tuple(np.max(sizes, axis=0).tolist()),
        channels=3 if int(first.photometric) == PALETTE else pages[0].groups[0],
        dtype=_dtype(first, pages[0]),
        images=count,
        has_alpha=pages[0].alpha is not None,
        scale=scale_of(first),
        nodata=nodata_of(first),
        is_lossy=int(first.compression) not in _NO_LOSS,
        chroma_subsampled=first.is_subsampled,
        about=about_tiff(file, first, pages[0].tags, pages[0].below),
        form=Form(pages, file.byteorder, file.is_bigtiff),
        notes=notes,
        sizes=tuple(sizes) if len(set(sizes)) > 1 else (),
    )


def plain_form(contents: Contents) -> Form:
    """For images from a file of another format, or of none: a page each."""
    tags, below, options = plain_tags(contents.about)
    alpha = contents.channels if contents.has_alpha else None
    page = Page((contents.channels,), alpha, options=options, tags=tags, below=below)
    pages = [page] * contents.images
    if words := ome_description(contents):
        pages[0] = replace(page, tags=[*tags, (DESCRIPTION, 2, 0, words, True)])
    return Form(pages)


def _planes(file: tifffile.TiffFile, page: Any, path: Path) -> int:
    """How many images follow one another behind a file's only page; 1 where each has its page."""
    said = 1
    if file.is_imagej:
        said = int((file.imagej_metadata or {}).get("images", 1))
    elif file.is_shaped and (shaped := file.shaped_metadata) and shaped[0].get("truncated"):
        said = int(np.prod(shaped[0]["shape"])) // int(np.prod(page.shape))
    there = len(file.pages)
    if said <= there or said == 1:
        return 1
    end = page.dataoffsets[0] + said * page.nbytes
    if there > 1 or not page.is_contiguous or end > file.filehandle.size:
        raise UserError(f"{path} is said to hold {said} images, but has {there}: it was cut short, so save it again")
    return said


# --- one page -----------------------------------------------------------------------------------------------


def _page(file: tifffile.TiffFile, main: Stored, planes: int, stream: BinaryIO, path: Path) -> Page:
    stored = main.page
    photometric, samples = int(stored.photometric), stored.samplesperpixel
    if photometric in (_CFA, _LINEAR_RAW):
        raise UserError(f"{path} holds a sensor's raw colors: develop it, or save its channels as gray images, first")
    if stored.imagedepth > 1:
        raise UserError(f"{path} holds a volume in one page: save its slices as pages")
    text = raw(file, stored.tags.get(DESCRIPTION))
    if len(parts := set(re.findall(rb'FileName="([^"]*)"', text))) > 1 and b"<OME" in text:
        raise UserError(f"{path} is one of {len(parts)} files of an OME set: save it as a file of its own")
    reason = undecodable(stored)
    common: dict[str, Any] = {
        "orientation": orientation_of(stored),
        "tags": tags_of(file, stored, is_one_of_many=planes > 1),
        "below": below_of(stored, stream),
        "options": _storage(stored),
        "is_deep": stored.bitspersample == 16,
        "place": main.place,
    }
    if reason:
        return _pillow_page(main, reason, common, stream, path)
    base = 3 if photometric == RGB else 1
    if samples < base:
        raise UserError(f"{path} has color of {samples} channels: save it as gray or RGB")
    extra = [int(each) for each in stored.extrasamples]
    extra += [0] * (samples - base - len(extra))
    alpha = next((base + place for place, kind in enumerate(extra) if kind in _ALPHAS), None)
    palette = None
    if photometric == PALETTE and stored.colormap is not None:
        palette = (np.asarray(stored.colormap).T >> 8).astype(np.uint8)
        common["options"]["colormap"] = np.asarray(stored.colormap)
    return Page(
        groups=(base, *[1] * (samples - base - (alpha is not None))),
        alpha=alpha,
        extra=extra,
        planes=planes,
        is_planar=samples > 1 and int(stored.planarconfig) == 2,
        is_negative=photometric == NEGATIVE,
        palette=palette,
        **common,
    )


def _pillow_page(main: Stored, reason: str, common: dict[str, Any], stream: BinaryIO, path: Path) -> Page:
    """A page that Pillow decodes, which turns it itself. Raises UserError where it can't, or would drop channels."""
    stream.seek(0)
    stored, mode = main.page, ""
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        opened = Image.open(stream, formats=("TIFF",))
        if main.place is not None:
            opened.seek(main.place)
            mode = opened.mode
    samples = {"L": 1, "1": 1, "P": 1, "I": 1, "F": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3, "LAB": 3}
    whole = samples.get(mode, 1 if mode.startswith("I;16") else 0) == stored.samplesperpixel
    format_number = int(np.max(stored.sampleformat)) if stored.sampleformat else 1
    if not whole or (format_number != 1 and mode not in ("F", "I")) or (format_number == 1 and mode == "I"):
        raise UserError(f"{path} {reason}, which takes the imagecodecs package: install it, or save the file otherwise")
    gray = mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;16")
    alpha = mode in ("LA", "RGBA")
    return Page(
        groups=(1 if gray else 3,),
        alpha=(1 if gray else 3) if alpha else None,
        is_negative=int(stored.photometric) == NEGATIVE and mode.startswith("I;16"),
        through_pillow=True,
        **{**common, "orientation": 1},
    )


def _upright_size(stored: Any) -> tuple[int, int]:
    size = stored.imagelength, stored.imagewidth
    return size[::-1] if orientation_of(stored) in (5, 6, 7, 8) else size


def _dtype(stored: Any, page: Page) -> np.dtype:
    """Of a page's values, once decoded."""
    if page.through_pillow and stored.bitspersample <= 16:
        return np.dtype(np.uint8 if stored.bitspersample <= 8 else np.uint16)
    kind = np.dtype(stored.dtype)
    return np.dtype(np.uint8) if kind.kind == "b" else kind.newbyteorder("=")


def _storage(stored: Any) -> dict[str, Any]:
    """How a page's pixels are to be stored: as they are, where that loses nothing and tifffile can."""
    options: dict[str, Any] = {}
    compression = int(stored.compression)
    if compression != 1:
        same = compression in _NO_LOSS and has_codec(tifffile.TIFF.COMPRESSORS, compression)
        options["compression"] = compression if same else _DEFLATE
        whole = stored.dtype is not None and np.dtype(stored.dtype).kind in "iu" and stored.bitspersample >= 8
        if int(stored.predictor) == 2 and whole:
            options["predictor"] = 2
    if stored.is_tiled:
        options["tile"] = (stored.tilelength, stored.tilewidth)
    elif stored.rowsperstrip:
        options["rowsperstrip"] = min(stored.rowsperstrip, stored.imagelength)
    if stored.subfiletype:
        options["subfiletype"] = int(stored.subfiletype) & 2
    return options | resolution_of(stored)
