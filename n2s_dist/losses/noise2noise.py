"""Noise2Noise (Lehtinen et al. 2018), which sees a second noisy version of each image: there to compare with."""

from typing import ClassVar

from n2s_dist.config.schema import ExtraView
from n2s_dist.losses.regression import RegressionLoss


class Noise2Noise(RegressionLoss):
    """(x_hat(y) - y_2)^2 / sigma^2."""

    name = "noise2noise"
    extra_view: ClassVar[ExtraView | None] = "noisy"
