"""The registry of metrics. A metric of this package is one file and one line here.

A metric from elsewhere calls `register` in a module that N2S_PLUGINS names. Evaluations measure all of them.
"""

from n2s_dist.metrics.metric import Measure, Metric, PixelMetric
from n2s_dist.metrics.psnr import Psnr
from n2s_dist.metrics.ssim import Ssim
from n2s_dist.utils import plugins
from n2s_dist.utils.errors import UserError

_METRICS: dict[str, type[Metric]] = {"psnr": Psnr, "ssim": Ssim}
# What rows and cells of results.json hold besides figures.
_RESERVED = {
    "name", "height", "width", "estimated", "noise", "level", "method", "benchmark", "protocol", "paper_db",
    "difference_db", "num_images", "checkpoint", "samples_seen", "posterior", "fingerprint", "images", "missing",
}  # fmt: skip
BUILT_IN: tuple[Measure, ...] = tuple(measure for metric in (Psnr(), Ssim()) for measure in metric.measures)


def register(metric: type[Metric]) -> type[Metric]:
    """Add a metric to those that evaluations measure. Raises UserError for a name or a key that is taken."""
    taken = _RESERVED | {measure.key for other in _METRICS.values() for measure in other().measures}
    for measure in metric().measures:
        if measure.key in taken and _METRICS.get(metric.name) is not metric:
            raise UserError(f"metric '{metric.name}': results have another '{measure.key}': give yours another name")
    plugins.add(_METRICS, "metric", metric.name, metric)
    return metric


def metrics() -> list[Metric]:
    """All metrics, those of plugins included, in the order of their columns."""
    plugins.load_plugins()
    return [metric() for metric in _METRICS.values()]


def measures() -> list[Measure]:
    """All that is measured of an image, in the order of their columns."""
    return [measure for metric in metrics() for measure in metric.measures]


def reach() -> int | None:
    """How many pixels around a tile have to be there to measure it; None where metrics take images whole."""
    margins = [metric.margin if isinstance(metric, PixelMetric) else None for metric in metrics()]
    return None if None in margins else max(margin for margin in margins if margin is not None)
