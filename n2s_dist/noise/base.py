"""The registry of noise families. A family of this package is one file and one line here.

A family from elsewhere calls `register` in a module that N2S_PLUGINS names.
"""

from typing import Literal

from n2s_dist.noise.calibration import CAMERA
from n2s_dist.noise.curve import Curve
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.plugins import load_plugins

Coordinates = Literal["image", "stable"]
UNKNOWN = "unknown"  # where noise is named: it is to be estimated

_FAMILIES: dict[str, type[NoiseModel]] = {
    "gaussian": Gaussian,
    "poisson": Poisson,
    "gamma": Gamma,
    "poisson-gaussian": PoissonGaussian,
    "curve": Curve,
}


def register(family: type[NoiseModel]) -> type[NoiseModel]:
    """Add a family to those that can be named. Raises UserError for a name that is taken or can't be written."""
    name = family.family
    if not name.replace("-", "").isalnum() or not name[0].isalpha():
        raise UserError(f"noise family '{name}': a name has letters, digits and hyphens and begins with a letter")
    if name in (UNKNOWN, CAMERA) or _FAMILIES.setdefault(name, family) is not family:
        raise UserError(f"noise family '{name}' is there already: give yours another name")
    return family


def families() -> dict[str, type[NoiseModel]]:
    """All families by name, those of plugins included."""
    load_plugins()
    return dict(_FAMILIES)
