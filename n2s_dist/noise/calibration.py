"""A camera's own noise, as n2s calibrate measures it and writes it to a file: "camera:FILE.yaml" where noise is named.

All figures of the file are in ADU, the numbers that the camera's files hold. On the 0-1 scale of some black and white
they are Poisson-Gaussian noise, or a curve where that is no fit, correlated as the file says. A network that has not
learned such a correlation takes the noise as `plainly`: of one width, and what lines have in common as read noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from n2s_dist.noise.correlated import WIDTH, Correlated
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.field import Field
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.poisson_gaussian import BLACK, PoissonGaussian
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write, expanded
from n2s_dist.utils.strict_yaml import read_record

CAMERA = "camera"  # where noise is named: a file of n2s calibrate
_PREFIX = f"{CAMERA}:"
_KIND = "calibration"
_LEAST_SIGMA = 1e-6  # on the 0-1 scale, of a sensor without noise of its own
_LEAST_SHARE = 1e-3  # of the variance, below which nobody sees stripes

Noise = TypeVar("Noise")


@dataclass(frozen=True)
class Calibration:
    """What a calibration file says.

    Args:
        kind: "calibration"
        black_level: ADU without light
        white_level: ADU, what is 1 on the 0-1 scale
        gain: ADU per electron
        read_noise: ADU, the standard deviation of each value without light
        row_noise, column_noise: ADU, of what the values of a row, or of a column, have in common
        step: ADU from one value to the next; 0 for floats
        correlation_width: pixels, of the noise's correlation between neighbors
        width_across, width_down: pixels, along rows and down columns, where these differ
        channel_correlations: of red with green, red with blue and green with blue, where there are any
        curve_values, curve_std: ADU, points of the noise level function, where it is no line
    """

    kind: str
    black_level: float
    white_level: float
    gain: float
    read_noise: float
    row_noise: float = 0.0
    column_noise: float = 0.0
    step: float = 1.0
    correlation_width: float = 0.0
    width_across: float | None = None
    width_down: float | None = None
    channel_correlations: list[float] | None = None
    curve_values: list[float] | None = None
    curve_std: list[float] | None = None

    def __post_init__(self) -> None:
        rules = {
            f"its kind is {self.kind}, not {_KIND}: n2s calibrate writes such a file": self.kind == _KIND,
            "white_level is above black_level": self.white_level > self.black_level,
            "gain is above 0, and below white": 0 < self.gain < self.white_level - self.black_level,
            f"correlation_width lies from 0 to {WIDTH.high:g}": 0 <= self.correlation_width <= WIDTH.high,
            f"width_across and width_down lie from 0 to {WIDTH.high:g}, or both are missing": self._are_widths_whole(),
            "channel_correlations are three": len(self.channel_correlations or (0, 0, 0)) == 3,
            "read_noise, row_noise, column_noise and step are 0 or more":
                min(self.read_noise, self.row_noise, self.column_noise, self.step) >= 0,
            "curve_values and curve_std are lists of one length, the values growing": self._is_curve_whole(),
        }  # fmt: skip
        for rule, holds in rules.items():
            if not holds:
                raise ValueError(rule)
        self.noise()  # which has rules of its own

    def _are_widths_whole(self) -> bool:
        across, down = self.width_across, self.width_down
        if across is None or down is None:
            return across is down
        return min(across, down) >= 0 and max(across, down) <= WIDTH.high

    def _is_curve_whole(self) -> bool:
        values, stds = self.curve_values, self.curve_std
        if values is None or stds is None:
            return values is stds
        return len(values) == len(stds) and all(low < high for low, high in pairwise(values))

    @property
    def dark_std(self) -> float:
        """ADU, of all noise without light: read noise, rows, columns, and rounding to steps."""
        return math.hypot(self.read_noise, self.row_noise, self.column_noise, self.step / math.sqrt(12))

    def noise(self, white: float | None = None, black: float | None = None, plainly: bool = False) -> NoiseModel:
        """Its noise on the 0-1 scale of these values in ADU; None for its own white and black.

        plainly: of one width, lines and channels left out. Raises UserError for a black above its own, and for a scale
        on which such noise can't be written.
        """
        white = self.white_level if white is None else white
        black = self.black_level if black is None else black
        if not black < white:
            raise UserError(f"--black is {black:g} and --white {white:g}: white has to be the higher one")
        span = white - black
        if self.curve_values is not None and self.curve_std is not None:
            points = zip(self.curve_values, self.curve_std, strict=True)
            found: NoiseModel = Curve(tuple(((value - black) / span, std / span) for value, std in points))
        else:
            offset = (self.black_level - black) / span
            if not -1e-9 <= offset <= BLACK.high / BLACK.scale:
                raise UserError(
                    f"--black is {black:g}, but the camera's black level is {self.black_level:g}: give that"
                )
            sigma = max(self.dark_std / span, _LEAST_SIGMA)
            found = PoissonGaussian(self.gain / span, sigma, max(offset, 0.0))
            if sigma > 1 or found.zeta > 1:
                raise UserError(f"--white is {white:g}, which is within the camera's noise: give its white level")
        field = Field((self.correlation_width,)) if plainly else self._field((float(found.std(0.5)) * span) ** 2)
        return found if field.is_white else Correlated(found, field)

    def _field(self, variance: float) -> Field:
        """How its noise is correlated where it has this variance, in ADU^2: lines are as strong at any brightness.

        Shares are those on middle gray: in a network that learned those of the dark, all that is bright would count as
        less noisy than it is.
        """
        across, down = self.width_across, self.width_down
        one = (self.correlation_width,) if self.correlation_width else ()
        shares = (line**2 / variance for line in (self.row_noise, self.column_noise))
        rows, columns = (float(f"{share:.6g}") if share >= _LEAST_SHARE else 0.0 for share in shares)
        widths = one if across is None or down is None else (across, down)
        return Field(widths, rows, columns, tuple(self.channel_correlations or ()))

    def write(self, path: Path, remarks: list[str]) -> None:
        """Write it as YAML that says its units, so that the file appears whole. remarks: lines of comment above."""
        units = {
            "black_level": "ADU without light", "white_level": "ADU, 1 on the 0-1 scale", "gain": "ADU per electron",
            "read_noise": "ADU, standard deviation without light",
            "row_noise": "ADU, of what the values of a row have in common", "column_noise": "ADU, of a column",
            "step": "ADU from one value to the next; 0 for floats",
            "correlation_width": "pixels, of the correlation between neighbors",
            "width_across": "pixels, along rows", "width_down": "pixels, down columns",
        }  # fmt: skip
        lines = [*("# " + " ".join(remark.splitlines()) for remark in remarks), f"kind: {self.kind}"]
        lines += [
            f"{name}: {_written(value)} # {unit}"
            for name, unit in units.items() if (value := getattr(self, name)) is not None
        ]  # fmt: skip
        if self.channel_correlations is not None:
            written = ", ".join(map(_written, self.channel_correlations))
            lines += [f"channel_correlations: [{written}] # red with green, red with blue, green with blue"]
        if self.curve_values is not None and self.curve_std is not None:
            lines += ["# ADU: the noise's standard deviation at some values, which no line fits"]
            lines += [f"curve_values: [{', '.join(map(_written, self.curve_values))}]"]
            lines += [f"curve_std: [{', '.join(map(_written, self.curve_std))}]"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


def _written(value: float) -> str:
    return f"{value:.10g}"


def read_calibration(path: Path) -> Calibration:
    """The camera of a file. Raises UserError that names the file and what is wrong in it."""
    return read_record(path, Calibration, _KIND)


def calibration_of(noise: object) -> Calibration | None:
    """The camera that "camera:FILE.yaml" names; None for everything else. Raises UserError for a file that is none."""
    if not isinstance(noise, str) or not noise.startswith(_PREFIX):
        return None
    return read_calibration(Path(expanded("the noise's file", noise.removeprefix(_PREFIX))))


def on_scale_of(
    noise: Noise,
    white: float | None,
    black: float | None,
    serves: Callable[[NoiseModel], bool] = lambda _: True,
) -> tuple[Noise | NoiseModel, float | None, float | None]:
    """The noise that "camera:FILE.yaml" is on the 0-1 scale of white and black, which are the file's where not given.

    serves: whether a network does; where none does, the noise is the camera's plainly. Returns noise, white and black.
    All else comes back as it is. Raises UserError as Calibration.noise does.
    """
    camera = calibration_of(noise)
    if camera is None:
        return noise, white, black
    white = camera.white_level if white is None else white
    black = camera.black_level if black is None else black
    found = camera.noise(white, black)
    return found if serves(found) else camera.noise(white, black, plainly=True), white, black
