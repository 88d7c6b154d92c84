"""Users' own image files, denoised at the depth they have."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from n2s_dist.images.decoded import Contents, DecodedImage
from n2s_dist.images.files import ImageFile, image_at, is_image_folder, list_images
from n2s_dist.images.formats.base import check_written, format_of, written_as
from n2s_dist.images.scale import Scale
from n2s_dist.images.user_files import check_memory, open_file, write_file
from n2s_dist.inference.arrays import BYTES_PER_VALUE
from n2s_dist.inference.denoiser import Denoiser, Info
from n2s_dist.inference.network_choice import ShippedDenoiser
from n2s_dist.inference.posterior_samples import STEPS
from n2s_dist.inference.uncertainty import std_picture
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.specification import field_title, format_noise, format_training_noise
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import LONGEST_NAME, is_too_long

_BAR_DELAY_SEC = 2
_MOST_REMARKS = 3
_IN_MEMORY = 2**20  # bytes of deviations that need no temporary folder


def list_work(source: Path, out: Path, axes: str | None = None) -> list[tuple[ImageFile, Path]]:
    """Each image and where its denoised version goes. axes: of arrays. Raises UserError for names that can't be."""
    if (source.is_file() and format_of(source.name)) or is_image_folder(source):
        target = _writable(out / source.name) if out.is_dir() and not is_image_folder(out) else out
        check_written(target)
        work = [(replace(image_at(source), axes=axes), target)]
    else:
        images = [replace(image, axes=axes) for image in list_images(source)]
        if out.is_file():
            raise UserError(f"{out} is a file: {source} holds several images, so OUT is a folder")
        work = [(image, _target(image, out)) for image in images]
        if len({target for _, target in work}) < len(work):
            raise UserError(f"{source} holds images that differ only in their suffix: rename one of them")
    for _, target in work:
        if is_too_long(target.name):
            raise UserError(f"{target} has a name of more than {LONGEST_NAME} bytes: give a shorter one")
    return work


def _target(image: ImageFile, out: Path) -> Path:
    """Denoised images of a folder are written losslessly: in their own format, or as PNG where that may lose."""
    own = format_of(image.name)
    target = out / image.name
    return _writable(target) if own and own.is_lossless else target.with_suffix(".png")


def _writable(target: Path) -> Path:
    """A file's place, with another suffix where its format is only read."""
    other = written_as(target.name)
    return target.with_suffix(other) if other else target


def renamed(work: list[tuple[ImageFile, Path]]) -> list[str]:
    """What to know of formats that are only read, before anything is denoised."""
    changes = {(image.path.suffix.lower(), written_as(image.name)) for image, _ in work if written_as(image.name)}
    return [
        f"{suffix} files are only read here: denoised ones end in {other}"
        for suffix, other in sorted(changes)
        if any(target.name.endswith(str(other)) for _, target in work)
    ]


def spare_sources(work: list[tuple[ImageFile, Path]]) -> None:
    """UserError where a noisy image would be overwritten."""
    sources = {image.path.resolve() for image, _ in work}
    for image, target in work:
        if target.resolve() in sources:
            raise UserError(f"{image.path} would be overwritten by its denoised version: choose another OUT")
        if image.path.is_dir() and image.path.resolve() in target.resolve().parents:
            raise UserError(f"{target} lies in {image.path}: choose another OUT")


def _words(noise: NoiseModel) -> str:
    """A noise as a person reads it: of a curve, which has many points, between what it lies."""
    if not noise.text_form:
        return format_noise(noise)
    stds = [255 * float(noise.std(float(x))) for x in np.linspace(0, 1, 65)]
    reach = f", correlated over {noise.width:.1f} pixels" if noise.width else ""
    reach += field_title(noise.field.pattern)
    return f"noise of {min(stds):.1f} to {max(stds):.1f} levels of 255 by brightness{reach}"


def remark(info: Info) -> str:
    """What to know of the noise that was estimated or named; empty where there is nothing."""
    assert not isinstance(info.noise, list)  # one image at a time
    words, trained = _words(info.noise), info.network.model.noise
    known = format_training_noise(trained)
    if info.estimated and trained.is_end(info.noise):
        return f"{words} (estimated), an end of what the network knows ({known}): it may be other noise, so try --noise"
    if not trained.is_single and not info.estimated and not trained.holds(info.noise):
        return f"{words} is none of what the network was trained on ({known})"
    return f"{words} (estimated)" if info.estimated else ""


def remark_plane(info: Info) -> str:
    """What to know of gray images stored as color; empty where a network for gray ones took them."""
    if not info.one_plane or info.network.channels == 1:
        return ""
    return f"its channels hold one gray image, so take a gray network or none instead of {info.network.called}"


def std_path(target: Path, several: bool = False) -> Path:
    """Where the standard deviations of a denoised image go. several: whether the file holds several images."""
    return target.with_name(f"{target.stem}-std.{'tif' if several else 'png'}")


def sample_path(target: Path, number: int) -> Path:
    """Where a sample that belongs to a denoised image goes, counted from 1."""
    return target.with_name(f"{target.stem}-sample{number}{target.suffix}")


def companions(target: Path, uncertainty: bool, samples: int) -> set[Path]:
    """The files that are written beside a denoised image, or may be."""
    deviations = {std_path(target, several) for several in (False, True)} if uncertainty else set()
    return deviations | {sample_path(target, number) for number in range(1, samples + 1)}


def what_is_known(contents: Contents, scale: Scale | None, white: float | None, black: float | None) -> dict[str, Any]:
    """What a denoiser is told of a file's images besides their values.

    scale: of all of them together, OpenFile.find_scale. white, black: as the user named them.
    """
    # What the values of one image say, those of another may not.
    is_named = contents.images > 1 or contents.scale or white is not None or black is not None
    named = scale if is_named else None
    return {
        "white": named and named.white,
        "black": named and named.black,
        "chroma_subsampled": contents.chroma_subsampled,
    }


def denoise_file(
    image: ImageFile,
    target: Path,
    denoise: Denoiser | ShippedDenoiser,
    white: float | None = None,
    black: float | None = None,
    samples: int = 0,
    **wanted: Any,
) -> list[str]:
    """Denoise all images of a file into another like it; returns what to know of it.

    white, black: the values that are 1 and 0 on the 0-1 scale, where neither the file says so nor its values fill their
    type. samples: how many to draw of each image, to files beside it. wanted: what else a denoiser takes. Raises
    UserError that names the file, with nothing written.
    """
    remarks: list[str] = []
    repaired: list[int] = []  # of each image, where they are to be
    with open_file(image) as file, ExitStack() as open_files:
        spools = (open_files.enter_context(SpooledTemporaryFile(_IN_MEMORY)) for _ in range(1 + samples))
        deviations, *drawn = map(_Spool, spools)
        contents = file.contents
        check_memory(image.path, contents, 2 * contents.dtype.itemsize + BYTES_PER_VALUE)
        scale = file.find_scale(white, black)
        several, known = contents.images > 1, what_is_known(contents, scale, white, black)
        total = contents.images * math.prod(contents.size) * (1 + samples * STEPS)
        with tqdm(total=total, unit="px", unit_scale=True, leave=False, delay=_BAR_DELAY_SEC) as bar:

            def denoised() -> Iterator[DecodedImage]:
                for number, picture in enumerate(file.images(), 1):
                    place = f"image {number} of {contents.images}: " if several else ""
                    try:
                        x_hat, info = denoise(
                            file.there(picture.pixels),
                            progress=bar.update,
                            samples=samples,
                            **known,
                            **wanted,
                        )
                    except UserError as error:
                        raise UserError(f"{image.path}: {place}{error}") from None
                    remarks.extend(place + said for said in (remark(info), remark_plane(info)) if said)
                    if info.repaired is not None:
                        repaired.append(info.repaired)
                    if info.std is not None:
                        deviations.add(DecodedImage(std_picture(info.std)))
                    for spool, sample in zip(drawn, info.samples if samples else [], strict=True):
                        spool.add(DecodedImage(np.ma.getdata(sample), picture.alpha, picture.palette))
                    yield DecodedImage(np.ma.getdata(x_hat), picture.alpha, picture.palette)

            write_file(target, denoised(), replace(contents, scale=scale))
        if deviations.count:
            write_file(std_path(target, several), deviations.images(), deviations.contents())
        for number, spool in enumerate(drawn, 1):
            write_file(sample_path(target, number), spool.images(), replace(contents, scale=scale))
    more = len(remarks) - _MOST_REMARKS
    pixels = f"repaired {sum(repaired):,} hot or dead pixels of {len(repaired) * math.prod(contents.size):,}"
    return [
        *contents.notes,
        *([pixels] if repaired else []),
        *remarks[:_MOST_REMARKS],
        *([f"and so on, {more} more times"] if more > 0 else []),
    ]


class _Spool:
    """Images that belong to those of a file, kept in another file until those are written."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.count, self._stream = 0, stream
        self._shape: tuple[int, ...] = ()

    def add(self, image: DecodedImage) -> None:
        self._shape = self._shape or image.pixels.shape
        self.count += 1
        for part in image:
            np.save(self._stream, np.empty(0) if part is None else part, allow_pickle=False)

    def images(self) -> Iterator[DecodedImage]:
        self._stream.seek(0)
        for _ in range(self.count):
            parts = (np.load(self._stream, allow_pickle=False) for _ in DecodedImage._fields)
            pixels, *rest = parts
            yield DecodedImage(pixels, *(part if part.size else None for part in rest))

    def contents(self) -> Contents:
        """For a file of their own, of 16 bits."""
        height, width, channels = self._shape
        return Contents("", "array", (height, width), channels, np.dtype(np.uint16), self.count)
