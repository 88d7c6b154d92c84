"""Supervised training, which sees clean pixels: there to compare with."""

from typing import ClassVar

from n2s_dist.config.schema import ExtraView
from n2s_dist.losses.regression import RegressionLoss


class Supervised(RegressionLoss):
    """(x_hat(y) - x)^2 / sigma^2."""

    name = "supervised"
    extra_view: ClassVar[ExtraView | None] = "clean"
