"""A user's own images of one instrument, to train on: those held out, parts to estimate noise from, and crops.

folder ──► headers ──► frames to train on, and one in ten that is held out
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from n2s_dist.images.files import KINDS, ImageFile, list_images
from n2s_dist.images.user_files import check_measured, keep_open, open_file
from n2s_dist.inference.noise_estimation import SMALLEST_SIDE
from n2s_dist.inference.pieces import Pieces, choose_pieces
from n2s_dist.shards.build.sources import page_ending
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import as_utf8

CROP = 96  # side of crops, in pixels
_EVERY = 10  # one in so many images is held out
_FEWEST = 2
_MOST_READ = 6  # images that the noise is estimated from
_HELD_CROPS = 64
_SEED = 0
_MOST_CLIPPED = 0.02  # of an image's values


class Frame(NamedTuple):
    """One image of a file, counted from 0, and what shards call it."""

    file: ImageFile
    number: int
    name: str


class Images(NamedTuple):
    """A user's images: those to train on, those held out; 1 or 3 channels; the smallest side of all in pixels."""

    training: list[Frame]
    held_out: list[Frame]
    channels: int
    smallest: int


def choose_images(folder: Path, axes: str | None = None) -> Images:
    """Read all headers. Raises UserError for too few images, too small ones, and a mixture of gray and color."""
    channels, sides, frames = {}, [], []
    for listed in sorted(list_images(folder), key=lambda image: image.name):
        image = replace(listed, axes=axes)
        with open_file(image) as file:
            channels[file.contents.channels] = image
            for number in range(file.contents.images):
                ending = page_ending(number) if file.contents.images > 1 else ""
                frames.append(Frame(image, number, as_utf8(image.name) + ending))
                sides.append(min(file.contents.size_of(number)))
    if len(frames) < _FEWEST:
        raise UserError(f"{folder} holds {len(frames)} image: give {_FEWEST} or more, for one of them is held out")
    if len(channels) > 1:
        what = ", ".join(f"{image.path} is {KINDS[count]}" for count, image in channels.items())
        raise UserError(f"{folder} must hold gray images or color ones, not both: {what}")
    if min(sides) < SMALLEST_SIDE:
        raise UserError(f"{folder} holds an image with a side of {min(sides)} pixels: {SMALLEST_SIDE} are the fewest")
    held = frames[_EVERY // 2 :: _EVERY] or frames[-1:]
    names = {frame.name for frame in held}
    first = keep_open(frames[0].file).image(frames[0].number).measured()  # gray images may be stored as color
    return Images([frame for frame in frames if frame.name not in names], held, first.shape[2], min(sides))


def read_unit(frame: Frame, channels: int, white: float | None, black: float | None) -> np.ndarray:
    """An image's pixels, float32 [H, W, C] on the 0-1 scale. Raises UserError by name, also for other channels."""
    file, path = keep_open(frame.file), frame.file.path
    picture = file.image(frame.number)
    scale = file.scale_of(picture, white, black)
    check_measured(picture, file.contents.nodata, scale, path)
    pixels = picture.measured() if channels == 1 else picture.pixels
    if pixels.shape[2] != channels:
        place = f": image {frame.number + 1} of it" if file.contents.images > 1 else ""
        raise UserError(f"{path}{place} is {KINDS[pixels.shape[2]]}, unlike the first image: leave it out")
    return np.asarray(scale.to_unit(pixels), np.float32)


def choose_unclipped(images: Images, white: float | None, black: float | None) -> list[Pieces]:
    """Parts of some of the training images, to estimate noise from. Raises UserError for clipped images."""
    step = max(1, len(images.training) // _MOST_READ)
    parts = []
    for frame in images.training[::step][:_MOST_READ]:
        pixels = read_unit(frame, images.channels, white, black)
        check_clipping(frame, pixels)
        parts.append(choose_pieces(pixels))
    return parts


def check_clipping(frame: Frame, pixels: np.ndarray) -> None:
    """UserError for an image whose noise is cut off at black or at white in many pixels.

    There it is not what the loss takes it for: a network that learned it was 6 dB worse, at a better loss.
    """
    for name, end in (("lowest", pixels.min()), ("highest", pixels.max())):
        share = float(np.mean(pixels == end))
        if share > _MOST_CLIPPED:
            raise UserError(
                f"{frame.file.path}: {100 * share:.1f} % of the values are the {name} one. Noise is cut off there "
                "and a network would learn that: give images that are not clipped, such as a camera's raw values"
            )


def held_out_crops(images: Images, white: float | None, black: float | None) -> np.ndarray:
    """Squares of held-out images, evenly spread, float32 [N, S, S, C] on the 0-1 scale."""
    side = min(CROP, images.smallest)
    each = max(1, _HELD_CROPS // len(images.held_out))
    crops = []
    for image in images.held_out[:_HELD_CROPS]:
        pixels = read_unit(image, images.channels, white, black)
        rows, columns = (length - side for length in pixels.shape[:2])
        places = np.random.default_rng(_SEED).random((each, 2)) * (rows + 1, columns + 1)
        crops += [pixels[row : row + side, column : column + side] for row, column in places.astype(int)]
    return np.stack(crops)
