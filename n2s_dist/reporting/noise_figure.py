"""What n2s inspect-noise shows: an image's noise as a picture, and in words."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.correlation import LAGS, width_of
from n2s_dist.noise.inspection import REACH, NoiseView
from n2s_dist.noise.specification import format_noise

_COLORS = {1: ("black",), 3: ("tab:red", "tab:green", "tab:blue")}
_NAMES = {1: ("",), 3: ("red ", "green ", "blue ")}
_STEADY = 1.35  # times the least standard deviation, up to which noise counts as the same everywhere
_FITS = 1.35  # times, up to which an estimate fits
_CLIPPED = 0.001  # the share of values at an end that is worth a word
_SHARED = 0.15  # correlation of channels that is worth a word
_CURVE_POINTS = 8


def draw_noise(image: np.ndarray, view: NoiseView, estimate: NoiseModel | None) -> Figure:
    """Four panels: image, strength by brightness, autocorrelation, spectrum. image: [H, W, C] on the 0-1 scale."""
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    (shown, curve), (correlation, spectrum) = figure.subplots(2, 2)
    shown.imshow(np.clip(image if image.shape[2] == 3 else image[:, :, 0], 0, 1), cmap="gray", vmin=0, vmax=1)
    shown.set_title("image", fontsize="medium")
    shown.axis("off")
    _draw_curve(curve, view, estimate)
    _draw_map(correlation, view.autocorrelation, (-REACH - 0.5, REACH + 0.5), "autocorrelation")
    correlation.set_xlabel("pixels along a row", fontsize="small")
    half = len(view.spectrum) / 2
    _draw_map(spectrum, view.spectrum, (-half - 0.5, half - 0.5), "power spectrum, mean 1")
    spectrum.set_xlabel(f"cycles in {len(view.spectrum)} pixels", fontsize="small")
    return figure


def _draw_curve(axes: Axes, view: NoiseView, estimate: NoiseModel | None) -> None:
    for color, levels, stds in zip(_COLORS[len(view.levels)], view.levels, view.stds, strict=True):
        axes.plot(levels, 255 * stds, "o-", color=color, markersize=4, linewidth=1)
    if estimate is not None:
        values = np.linspace(*_range(view), 100)
        axes.plot(values, 255 * _std(estimate, values), "--", color="gray", label=format_noise(estimate))
        axes.legend(fontsize="small")
    axes.set_ylim(bottom=0)
    axes.set_title("standard deviation by brightness", fontsize="medium")
    axes.set_xlabel("value, 0-1", fontsize="small")
    axes.set_ylabel("in 8-bit levels", fontsize="small")
    axes.grid(alpha=0.3)


def _draw_map(axes: Axes, values: np.ndarray, ends: tuple[float, float], title: str) -> None:
    drawn = axes.imshow(values, cmap="viridis", extent=(*ends, ends[1], ends[0]))
    axes.set_title(title, fontsize="medium")
    axes.figure.colorbar(drawn, ax=axes, shrink=0.8)


def _range(view: NoiseView) -> tuple[float, float]:
    levels = np.concatenate(view.levels)
    return float(levels.min()), float(levels.max())


def _std(noise: NoiseModel, values: np.ndarray) -> np.ndarray:
    """Of each value, the mean of channels where they differ."""
    flat = np.maximum(values, 0)
    return np.broadcast_to([float(noise.std(float(value))) for value in flat], flat.shape)


def blur_width(view: NoiseView) -> float:
    """Of the noise, in pixels; 0 where neighbors are as good as independent."""
    if view.is_white:
        return 0.0
    middle = view.autocorrelation[REACH], view.autocorrelation[:, REACH]
    return width_of(np.array([np.mean([line[REACH + lag] for line in middle]) for lag in LAGS]))


def curve_text(view: NoiseView) -> str:
    """What was seen as the text of a noise that can be named, a curve for each channel."""
    values = np.linspace(*_range(view), _CURVE_POINTS)
    stds = [np.interp(values, levels, stds) for levels, stds in zip(view.levels, view.stds, strict=True)]
    points = "_".join(
        f"{value:.4g}={':'.join(f'{std:.4g}' for std in at)}" for value, *at in zip(values, *stds, strict=True)
    )
    width = blur_width(view)
    return f"curve:{points}" + (f"+blur:{width:.2g}" if width else "")


def _strength(levels: np.ndarray, stds: np.ndarray) -> str:
    """How one channel's noise goes with brightness."""
    if stds.max() <= _STEADY * stds.min():
        return f"about the same at every brightness, {255 * np.median(stds):.3g} of 255"
    least, most = stds.argmin(), stds.argmax()
    course = "grows with light" if np.corrcoef(levels, stds)[0, 1] > 0.5 else "changes with light"
    return (
        f"{course}, from {255 * stds[least]:.3g} of 255 at {levels[least]:.2g} to {255 * stds[most]:.3g} at "
        f"{levels[most]:.2g}"
    )


def _fit(view: NoiseView, estimate: NoiseModel) -> str:
    """Whether an estimate is what was seen."""
    ratios = [stds / np.maximum(_std(estimate, at), 1e-9) for at, stds in zip(view.levels, view.stds, strict=True)]
    low, high = np.quantile(np.concatenate(ratios), (0.1, 0.9))
    is_as_blurred = (blur_width(view) > 0) == (estimate.width > 0)
    if high < _FITS and low > 1 / _FITS and is_as_blurred:
        return "fits"
    return f"does not fit: the noise is {low:.2g} to {high:.2g} times as strong" + (
        "" if is_as_blurred else ", and correlated"
    )


def describe_noise(view: NoiseView, estimate: NoiseModel | None) -> list[str]:
    """What was seen, a sentence a line."""
    channels = zip(_NAMES[len(view.levels)], view.levels, view.stds, strict=True)
    lines = [f"{name}strength: {_strength(levels, stds)}" for name, levels, stds in channels]
    across, down = view.neighbors
    width = blur_width(view)
    like = f"as white noise blurred by {width:.2f} px" if width else "as good as independent"
    lines.append(f"neighbors: correlated by {across:.2f} along rows and {down:.2f} along columns, {like}")
    if any(abs(each) > _SHARED for each in view.channel_correlation):
        shares = " and ".join(f"{each:.2f}" for each in view.channel_correlation)
        lines.append(f"channels: correlated by {shares}, red with green and green with blue")
    for share, end in zip(view.clipped, ("lowest", "highest"), strict=True):
        if share > _CLIPPED:
            lines.append(f"clipped: {100 * share:.1f} % of the values are the {end}")
    if estimate is not None:
        lines.append(f"model: {format_noise(estimate)}, as n2s denoise estimates it, {_fit(view, estimate)}")
    return [*lines, f"what was seen, as text: {curve_text(view)}"]
