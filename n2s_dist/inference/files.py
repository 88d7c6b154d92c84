"""Users' own image files, denoised at the depth they have."""

from pathlib import Path
from typing import Any

import numpy as np

from n2s_dist.images.files import SUFFIXES, ImageFile, list_images
from n2s_dist.images.user_files import DecodedImage, read_picture, write_picture
from n2s_dist.inference.denoiser import Denoiser, Info
from n2s_dist.inference.network_choice import ShippedDenoiser
from n2s_dist.inference.uncertainty import std_picture
from n2s_dist.noise.specification import format_noise, format_training_noise
from n2s_dist.utils.errors import UserError


def list_work(source: Path, out: Path) -> list[tuple[ImageFile, Path]]:
    """Each image and where its denoised version goes. Raises UserError for names that can't be."""
    if source.is_file() and source.suffix.lower() in SUFFIXES:
        target = out / source.name if out.is_dir() else out
        if target.suffix.lower() not in SUFFIXES:
            raise UserError(f"{target} has no image suffix: end it in one of {', '.join(SUFFIXES)}")
        return [(ImageFile(source.parent, source.name, source.stat().st_size), target)]
    images = list_images(source)
    if out.is_file():
        raise UserError(f"{out} is a file: {source} holds several images, so OUT is a folder")
    # Denoised images are written losslessly, whatever the noisy ones were.
    work = [(image, (out / image.name).with_suffix(".png")) for image in images]
    if len({target for _, target in work}) < len(work):
        raise UserError(f"{source} holds images that differ only in their suffix: rename one of them")
    return work


def spare_sources(work: list[tuple[ImageFile, Path]]) -> None:
    """UserError where a noisy image would be overwritten."""
    sources = {image.path.resolve() for image, _ in work}
    for image, target in work:
        if target.resolve() in sources:
            raise UserError(f"{image.path} would be overwritten by its denoised version: choose another OUT")


def remark(info: Info) -> str:
    """What to know of the noise that was estimated or named; empty where there is nothing."""
    assert not isinstance(info.noise, list)  # one image at a time
    words, trained = format_noise(info.noise), info.network.model.noise
    known = format_training_noise(trained)
    if info.estimated and trained.is_end(info.noise):
        return f"{words} (estimated), an end of what the network knows ({known}): it may be other noise, so try --noise"
    if not trained.is_single and not info.estimated and not trained.holds(info.noise):
        return f"{words} is none of what the network was trained on ({known})"
    return f"{words} (estimated)" if info.estimated else ""


def remark_white(picture: DecodedImage) -> str:
    """Advice for files of 16 bits that look as if they held fewer; empty for others."""
    if picture.pixels.dtype != np.uint16:
        return ""
    brightest = int(picture.pixels.max())
    for bits in (8, 10, 12, 14):
        white = 2**bits - 1
        if brightest <= white:
            return f"its values end at {brightest} of 65535; where white is {white} ({bits} bits), say --white {white}"
    return ""


def std_path(target: Path) -> Path:
    """Where the standard deviations of a denoised image go."""
    return target.with_name(f"{target.stem}-std.png")


def denoise_file(
    image: ImageFile, target: Path, denoise: Denoiser | ShippedDenoiser, white: int | None, **wanted: Any
) -> list[str]:
    """Denoise one file into another, at its own depth; returns what to know of it.

    white: the value that is 1 on the 0-1 scale, or None for the highest. wanted: what a denoiser takes.
    Raises UserError that names the file.
    """
    picture = read_picture(image)
    scale = np.float32(picture.white(white, image.path))
    try:
        x_hat, info = denoise(picture.pixels if white is None else picture.pixels / scale, **wanted)
    except UserError as error:
        raise UserError(f"{image.path}: {error}") from None
    if white is not None:
        highest = max(scale, picture.pixels.max())
        x_hat = np.rint(np.clip(x_hat * scale, 0, highest)).astype(picture.pixels.dtype)
    write_picture(target, DecodedImage(x_hat, picture.alpha))
    if info.std is not None:
        write_picture(std_path(target), DecodedImage(std_picture(info.std), None))
    remarks = remark(info), remark_white(picture) if white is None else ""
    return [said for said in remarks if said]
