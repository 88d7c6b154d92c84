"""What black and white are among an image's values: 0 and 1 of the 0-1 scale.

A type's whole range counts where the values fill it. Where they fill a part, as those of a camera of 12 bits do in
files of 16, only the file or the user can say what white is: noise would seem weaker than it is.
"""

from typing import NamedTuple

import numpy as np

from n2s_dist.utils.errors import UserError

_LOW, _HIGH = 0.001, 0.999  # quantiles: hot and dead pixels are fewer
_SAMPLES = 2**20  # values that quantiles are taken of
_LEAST_SHARE = 0.25  # of a type's range that values fill
_UNIT, _FAR_FROM_UNIT = 2.0, 100.0  # the highest that values on the 0-1 scale are, and spans that are none of theirs
# Noise of every level that can be named stays far below these; images of 0 to 255 that are not all but black do not.
_HIGHEST, _HIGHEST_MEAN, _LOWEST_MEAN = 30, 2, -0.25
_SAY = (
    "say what white is, such as --white 4095 for 12 bits, and what black is, such as --black 100, if it is not 0 (in "
    "Python: white=, black=)"
)


class AlreadyOnUnitScale(UserError):
    """White and black are named for floats that are on the 0-1 scale."""


class Scale(NamedTuple):
    """The values that become 0 and 1."""

    black: float
    white: float

    @property
    def span(self) -> float:
        return self.white - self.black

    @staticmethod
    def of_bits(significant: int, stored: int) -> "Scale | None":
        """By the bits of a value that count, of those that it has; None where all of them do, or nothing is said."""
        return Scale(0, 2**significant - 1) if 1 < significant < stored else None

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """Values of any type on the 0-1 scale, which they may exceed: float64; floats stay of their type."""
        # As integers, values below black would wrap around.
        numbers = values if values.dtype.kind == "f" else values.astype(np.float64)
        return (numbers - self.black) / self.span


def value_range(values: np.ndarray) -> tuple[float, float]:
    """Nearly the lowest and nearly the highest of an image's values; masked and infinite ones and NaN do not count."""
    flat = values.reshape(-1)
    step = flat.size // _SAMPLES + 1
    sample = flat[:: step + (step % 3 == 0)]  # a step that meets all of three channels
    sample = sample.compressed() if isinstance(sample, np.ma.MaskedArray) else sample
    sample = sample[np.isfinite(sample)] if sample.dtype.kind == "f" else sample
    if not sample.size:
        return 0.0, 0.0
    low, high = np.quantile(sample, (_LOW, _HIGH), method="nearest")
    return float(low), float(high)


def find_scale(
    values: np.ndarray, white: float | None = None, black: float | None = None, word: Scale | None = None
) -> Scale | None:
    """The scale of values of any type; None for floats on the 0-1 scale.

    white, black: what the user says. word: what the file says. Raises UserError where neither does and the values tell
    nothing, and for what can't be.
    """
    dtype = values.dtype.newbyteorder("=")
    if dtype.kind not in "uif":
        raise UserError(f"values of type {dtype} have no known range: give integers, or floats on the 0-1 scale")
    if white is None and black is None and word is None and dtype.kind == "f":
        return None
    if white is not None:
        lowest = -128.0 if dtype == np.int8 else 0.0
        scale = Scale((word.black if word else lowest) if black is None else black, white)
    else:
        scale = word or _of_type(values, dtype, black or 0.0)
        scale = scale if black is None else Scale(black, scale.white)
    if white is not None or black is not None:
        _check_named(values, dtype, scale)
    return scale


def _of_type(values: np.ndarray, dtype: np.dtype, black: float) -> Scale:
    """The type's own range, where values fill it."""
    if dtype.kind == "f":
        return Scale(0, 1)
    lowest, highest = (int(end) for end in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    if dtype.itemsize == 1:
        return Scale(lowest, highest)
    if dtype not in (np.uint16, np.int16, np.uint32):
        raise UserError(f"values of type {dtype} have no known range: {_SAY}")
    low, high = value_range(values)
    if low < 0:
        if low < lowest * _LEAST_SHARE and high > highest * _LEAST_SHARE:
            return Scale(lowest, highest)
        raise UserError(f"values lie between {low:g} and {high:g}, but those of {dtype} from {lowest} on: {_SAY}")
    if high - black <= (highest - black) * _LEAST_SHARE and high > low:
        raise UserError(f"values lie between {low:g} and {high:g}, but those of {dtype} go up to {highest}: {_SAY}")
    return Scale(0, highest)


def _check_named(values: np.ndarray, dtype: np.dtype, scale: Scale) -> None:
    """UserError for a black or white that can't be, or can't be these values'."""
    black, white = scale
    if not np.isfinite(scale).all() or not black < white:
        raise UserError(f"--black is {black:g} and --white {white:g}: give two numbers, white being the higher one")
    if dtype.kind != "f":
        lowest, highest = (int(end) for end in (np.iinfo(dtype).min, np.iinfo(dtype).max))
        for name, value in (("--white", white), ("--black", black)):
            if not lowest <= value <= highest:
                raise UserError(f"{name} is {value:g}, but values lie between {lowest} and {highest}: give one of them")
    _, high = value_range(values)
    if high > black + 2 * scale.span:
        raise UserError(f"values go up to {high:g}, more than twice --white {white:g}: give a higher one")
    if dtype.kind == "f" and high <= _UNIT < _FAR_FROM_UNIT <= scale.span:
        raise AlreadyOnUnitScale(
            f"values go up to {high:.3g}, as on the 0-1 scale, but --black is {black:g} and --white {white:g}: leave "
            "both out"
        )
    if high < black:
        raise UserError(f"values go up to {high:g}, which is below --black {black:g}: give a lower one")


def check_on_unit_scale(pixels: np.ndarray, missing: np.ndarray) -> None:
    """UserError for values that are not finite and not missing, for images with none at all, and for other scales.

    pixels: floats [N, H, W, C]. missing: bool that broadcasts to them.
    """
    strange = int(np.count_nonzero(~(np.isfinite(pixels) | missing)))
    if strange:
        raise UserError(f"{strange} of {pixels.size} values are not finite: replace them first")
    if missing.any():
        there = np.broadcast_to(~missing, pixels.shape)
        if not there.any(axis=(1, 2, 3)).all():
            size = pixels[0].size
            raise UserError(f"{size} of {size} values are not finite or masked: there is no image in them")
        high, mean = float(pixels.max(where=there, initial=-np.inf)), float(pixels.mean(dtype=np.float64, where=there))
    else:
        high, mean = float(pixels.max()), float(pixels.mean(dtype=np.float64))
    if high > _HIGHEST or mean > _HIGHEST_MEAN:
        largest = 255 if high < 1_000 else 65535
        raise UserError(
            f"floats are on the 0-1 scale, but these go up to {high:.6g}: divide them by {largest}, or say --white "
            f"{largest} (in Python white={largest})"
        )
    if mean < _LOWEST_MEAN:
        raise UserError(
            f"floats are on the 0-1 scale, but the mean of these is {mean:.3g}: bring them there, or say what black "
            "and white are (--black, --white; in Python black=, white=)"
        )
