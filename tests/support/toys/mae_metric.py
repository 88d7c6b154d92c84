"""The mean absolute error."""

import numpy as np

from n2s_dist.metrics.base import register
from n2s_dist.metrics.metric import PixelMetric


@register
class MeanAbsoluteError(PixelMetric):
    """|estimate - clean|, in levels of 8 bits."""

    name = "mae"
    title = "MAE"
    digits = 3
    unit = "levels"
    higher_is_better = False

    def of_pixels(self, clean, estimate):
        return 255 * np.abs(estimate - clean)
