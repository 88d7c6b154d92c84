"""Measure a camera's noise from its own frames, by photon transfer, and write it to a file.

    n2s calibrate --dark dark/ --flat flat1/ flat2/ flat3/ --out camera.yaml
    n2s calibrate --dark dark.tif --stack cells.tif --out camera.yaml
    n2s denoise --noise camera:camera.yaml noisy.tif denoised.tif

Each argument is a folder of frames, or a TIFF of several pages. Two frames of an exposure are enough; more are better.
Frames are raw: as the camera gave them, not averaged, sharpened or compressed with loss.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from n2s_dist.images.axes import AXES_HELP, check_axes
from n2s_dist.images.decoded import Contents
from n2s_dist.images.files import list_images
from n2s_dist.images.user_files import open_file
from n2s_dist.noise.calibration import Calibration
from n2s_dist.noise.correlation import LAGS, Correlation, Covariance, fit_width
from n2s_dist.noise.photon_transfer import (
    Exposure,
    FrameStatistics,
    Transfer,
    dark_pixels,
    fit_line,
    flat_exposure,
    is_below,
    scene_exposures,
    steady_pixels,
)
from n2s_dist.noise.specification import format_noise
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import path_option

_BITS = (8, 10, 12, 14, 16)
_CLIPPED = 0.02  # the share of values at 0 from which dark frames count as clipped
_APART = 0.1  # pixels by which widths along rows and columns may differ and count as one
_MAX_POINTS = 64  # of a curve
_PAIRS = ("red and green", "red and blue", "green and blue")


@dataclass
class Measured:
    """What frames said so far.

    dark: the exposure without light. flats: those with, the covariances of their noise and its correlations between
    channels. good: bool [H, W, C], pixels that are not hot. highest, is_saturated: the highest value of all, and
    whether frames end in a spike of it.
    steps: of values, an entry an exposure. word: what files say white is. dtype: of values.
    axes: of arrays, as the user names them.
    """

    dark: Exposure | None = None
    dark_noise: list[Covariance] = field(default_factory=list)
    flats: list[tuple[Exposure, list[Covariance], list[list[float]]]] = field(default_factory=list)
    scene: FrameStatistics | None = None
    good: np.ndarray | None = None
    highest: float = -math.inf
    is_saturated: bool = False
    steps: list[int] = field(default_factory=list)
    word: float | None = None
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))
    axes: str | None = None

    def frames(self, path: Path) -> Iterator[np.ndarray]:
        """The frames of a folder, an archive or a file of several images, [H, W, C]. Raises UserError by name."""
        for file in list_images(path):
            with open_file(replace(file, axes=self.axes)) as opened:
                contents = opened.contents
                if contents.has_alpha or contents.is_lossy:
                    fault = "is compressed with loss" if contents.is_lossy else "has transparency"
                    raise UserError(f"{file.path} {fault}: give frames as the camera took them")
                self.word = contents.scale.white if contents.scale else self.word
                self.dtype = contents.dtype
                images = (image.pixels for image in opened.images())
                yield from [_joined([*images])] if _is_one_frame(contents) else images

    def statistics(self, path: Path, black: float | None) -> FrameStatistics:
        """All frames of an exposure. Raises UserError for one frame alone, and for frames of another size."""
        found = FrameStatistics(str(path), black)
        for frame in self.frames(path):
            if self.good is not None and frame.shape != self.good.shape:
                (height, width, _), (tall, wide, _) = frame.shape, self.good.shape
                raise UserError(
                    f"{path} holds frames of different sizes: {width} x {height} in {path}, {wide} x {tall} before"
                    if frame.shape[:2] != self.good.shape[:2]
                    else f"{path} holds frames of {frame.shape[2]} channels, those before {self.good.shape[2]}"
                )
            found.add(frame)
        if found.count < 2:
            raise UserError(f"{path} holds one frame: give two or more of each exposure")
        if self.good is None:
            self.good = np.ones(found.variance.shape, bool)
        self.steps.append(found.step)
        if found.highest >= self.highest:
            self.highest, self.is_saturated = found.highest, found.is_spike
        return found

    def read_dark(self, path: Path) -> None:
        """Raises UserError for dark frames that are cut off at 0."""
        dark = self.statistics(path, None)
        if dark.lowest == 0 and dark.low_share > _CLIPPED and self.dtype.kind == "u":
            raise UserError(
                f"{path}: {100 * dark.low_share:.0f} % of its values are cut off at 0: raise the camera's offset, or "
                "leave --dark out"
            )
        self.good = dark_pixels(dark)
        self.dark = flat_exposure(dark, self.good)
        self.dark_noise = dark.covariances(self.good)

    def read_flat(self, path: Path, black: float) -> None:
        flat = self.statistics(path, black)
        steady = steady_pixels(flat, self.good)
        self.flats.append((flat_exposure(flat, steady), flat.covariances(steady), flat.channel_correlations(steady)))

    def white(self, said: float | None) -> tuple[float, str]:
        """What white is, and how that is known. Raises UserError where it is not."""
        if said is not None:
            return said, "named"
        if self.is_saturated:
            return self.highest, "where frames saturate"
        if self.word:
            return self.word, "the files' own word"
        bits = next((bits for bits in _BITS if self.highest <= 2**bits - 1), None)
        if self.dtype.kind != "u" or bits is None:
            raise UserError("--white is missing: no frame is saturated, so say what white is in these files")
        return float(2**bits - 1), f"of {bits} bits, which the values need"

    @property
    def step(self) -> int:
        """From one value to the next; 0 for values that are not whole."""
        return math.gcd(*self.steps) if all(self.steps) else 0


def _is_one_frame(contents: Contents) -> bool:
    """Whether a file's images are the channels of one frame, such as the colors of a raw photograph."""
    return [[name for name, _ in series.axes] for series in contents.series] == [["C"]]


def _joined(channels: list[np.ndarray]) -> np.ndarray:
    """Channels [H, W, 1] as one frame [H, W, C]; those of a mosaic may differ by a row or a column."""
    height, width = np.min([channel.shape[:2] for channel in channels], axis=0)
    return np.concatenate([channel[:height, :width] for channel in channels], axis=-1)


def read_frames(args: argparse.Namespace) -> Measured:
    """Read all that a command line names, dark frames first: they say which pixels are hot."""
    measured = Measured(axes=check_axes(args.axes))
    if args.dark:
        measured.read_dark(args.dark)
    black = args.black if args.black is not None else measured.dark.level if measured.dark else 0.0
    for path in args.flat:
        measured.read_flat(path, black)
    if args.stack:
        measured.scene = measured.statistics(args.stack, black)
    return measured


@dataclass(frozen=True)
class Result:
    """A camera, and how it is known. exposures: that the line goes through. left_out: names of those too bright."""

    camera: Calibration
    transfer: Transfer
    correlation: Correlation
    exposures: list[Exposure]
    left_out: list[str]
    white_reason: str


def calibrate(args: argparse.Namespace) -> Result:
    """From the frames that a command line names to a camera. Raises UserError for what can't be calibrated by."""
    measured = read_frames(args)
    white, reason = measured.white(args.white)
    bright = [exposure.name for exposure, *_ in measured.flats if not is_below(exposure, white)]
    flats = [flat for flat in measured.flats if is_below(flat[0], white)]
    exposures, lit_noise = [exposure for exposure, *_ in flats], [each for _, noise, _ in flats for each in noise]
    channels = [each for *_, correlations in flats for each in correlations]
    good = measured.good
    assert good is not None
    if measured.scene:
        exposures += scene_exposures(measured.scene, good, white)
    rounding = measured.step**2 / 12
    transfer = fit_line(exposures, measured.dark, args.black, rounding)
    if measured.scene:
        below, std = good & (measured.scene.most < white), transfer.std(measured.scene.mean)
        lit_noise += measured.scene.covariances(below, std)
        channels += measured.scene.channel_correlations(below, std)
    rows = measured.dark_noise or lit_noise
    row, column = (float(np.mean([getattr(each, name) for each in rows])) for name in ("row", "column"))
    row, column = (0.0, 0.0) if measured.scene and not measured.dark and not flats else (row, column)
    dark = measured.dark.variance if measured.dark else transfer.dark_variance
    correlation = fit_width(lit_noise or measured.dark_noise)
    camera = Calibration(
        kind="calibration",
        black_level=_rounded(transfer.black),
        white_level=white,
        gain=_rounded(transfer.gain),
        read_noise=_rounded(math.sqrt(max(dark - row - column - rounding, 0.0))),
        row_noise=_rounded(math.sqrt(row)),
        column_noise=_rounded(math.sqrt(column)),
        step=measured.step,
        correlation_width=correlation.width,
        channel_correlations=_mean(channels) if np.any(channels) else None,
    )
    camera = replace(camera, **two_widths(correlation), **curve(exposures, measured.dark, transfer))
    return Result(camera, transfer, correlation, exposures, bright, reason)


def two_widths(correlation: Correlation) -> dict[str, Any]:
    """Those along rows and down columns, where they differ; else nothing."""
    across, down = correlation.width_across, correlation.width_down
    return {"width_across": across, "width_down": down} if abs(across - down) > _APART else {}


def curve(exposures: list[Exposure], dark: Exposure | None, transfer: Transfer) -> dict[str, Any]:
    """Points of the noise level function, where no line fits it; else nothing."""
    if not transfer.bend:
        return {}
    points = sorted([*([dark] if dark else []), *exposures], key=lambda each: each.level)
    kept = [points[0]]
    for point in points[1:]:
        if point.level > kept[-1].level + 1e-4 * points[-1].level:
            kept.append(point)
    kept = [kept[place] for place in np.unique(np.linspace(0, len(kept) - 1, _MAX_POINTS).astype(int))]
    stds = [_rounded(each.variance**0.5) for each in kept]
    return {"curve_values": [_rounded(each.level) for each in kept], "curve_std": stds}


def _mean(triples: list[list[float]]) -> list[float]:
    return [round(float(each), 4) for each in np.mean(triples, axis=0)]


def _rounded(value: float) -> float:
    """As far as frames tell: six digits."""
    return float(f"{value:.6g}")


def described(result: Result, out: Path) -> list[str]:
    """What was found, in lines for people."""
    camera, transfer, correlation = result.camera, result.transfer, result.correlation
    unknown = "" if transfer.black_is_known else " (not known without --dark or --black; the noise is what it is)"
    read = f"{camera.read_noise:.3g} ADU, {camera.read_noise / camera.gain:.3g} electrons"
    read = read if transfer.black_is_known else "not known without --dark or --black"
    left_out = f", saturated and left out: {', '.join(result.left_out)}" if result.left_out else ""
    bent = f"; up to {100 * transfer.bend:.0f} % off a line, so written as a curve" if transfer.bend else ""
    lines = {"row": camera.row_noise, "column": camera.column_noise}
    common = "".join(f", {name} noise {value:.3g} ADU" for name, value in lines.items() if value)
    lags = ", ".join(f"{share:.3f} at {lag} px" for lag, share in zip(LAGS, correlation.lags, strict=True))
    across, down = camera.width_across, camera.width_down
    uneven = "" if down is None else f" ({across:.2f} along rows, {down:.2f} down columns)"
    pairs = zip(camera.channel_correlations or (), _PAIRS, strict=False)
    mixed = "".join(f", {each:.3f} between {names}" for each, names in pairs)
    return [
        f"black level   {camera.black_level:.2f} ADU{unknown}",
        f"gain          {camera.gain:.4g} ADU per electron, {1 / camera.gain:.4g} electrons per ADU "
        f"(exposures: {len(result.exposures)}{left_out}{bent})",
        f"read noise    {read}{common}",
        f"correlation   width {camera.correlation_width:.2f} px{uneven}: {lags}{mixed}",
        f"white level   {camera.white_level:g} ADU ({result.white_reason}); on the 0-1 scale: "
        f"{format_noise(camera.noise())}",
        f"wrote {out}: name it as --noise camera:{out}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dark", type=path_option, metavar="FRAMES", help="frames without light: a folder, or a TIFF of several pages")
    add(
        "--flat", type=path_option, nargs="+", default=[], metavar="FRAMES", help="even light: one argument an exposure"
    )
    add("--stack", type=path_option, metavar="FRAMES", help="frames of one scene that stays as it is")
    add("--black", type=float, metavar="ADU", help="the black level (that of the dark frames)")
    add("--white", type=float, metavar="ADU", help="the white level (where frames saturate, or the files' word)")
    add("--axes", metavar="LETTERS", help=AXES_HELP)
    add(
        "--out",
        type=path_option,
        default=Path("camera.yaml"),
        metavar="FILE.yaml",
        help="what is written (%(default)s)",
    )
    args = parser.parse_args()
    if not args.flat and not args.stack:
        raise UserError("--flat or --stack is missing: give flat fields at several exposures, or frames of one scene")
    if args.out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out is {args.out}: it should end with .yaml")
    if args.white is not None and not args.white > (args.black or 0):
        raise UserError(f"--white is {args.white:g}: give a value above black")

    result = calibrate(args)
    lines = described(result, args.out)
    result.camera.write(args.out, ["The noise of one camera, by n2s calibrate.", *lines[:-1]])
    print("\n".join(lines))
