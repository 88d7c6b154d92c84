"""Gaussian, Poisson, Gamma and mixed noise: how clean becomes noisy, and how a score becomes a denoised image.

Images are on the 0-1 scale; nothing is clipped or quantised after corruption. Each family has two
working coordinates w in which a network can learn the score d/dw log p(w):

    natural   the paper's: y itself (Gaussian, Gamma), photon counts n = y / zeta (Poisson)
    stable    z = T(y), in which the noise has unit standard deviation everywhere

A level may be one number, or a tensor [B, 1, 1, 1] with one a sample where images are tensors.

For each there is the posterior mean by Tweedie's formula, E[eta | y] = d/dy log p(y) - d/dy log h(y) for
p(y | eta) = h(y) exp(eta y - A(eta)) (Kim & Ye 2021, Section 3 and Table 1).
"""

from typing import Literal

from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian

Coordinates = Literal["image", "stable"]
PureNoise = Gaussian | Poisson | Gamma  # of one level each: what networks are trained on
NoiseModel = PureNoise | PoissonGaussian
FAMILIES = (Gaussian, Poisson, Gamma)
UNKNOWN = "unknown"  # where noise is named: it is to be estimated
