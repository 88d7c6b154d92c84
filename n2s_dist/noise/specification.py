"""The text that names noise: one family and level, or several families with ranges of levels.

    "gaussian:25", "poisson_gaussian:0.01:5"                  a noise model
    "gaussian:5-55,poisson:0.005-0.1,gamma:20-200"            what a network trains on

Nothing here imports torch: programs that never compute read such texts as well.
"""

import re

from n2s_dist.noise.base import FAMILIES, UNKNOWN, NoiseModel, PureNoise
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.mixtures import Mixture, TrainingNoise
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.utils.errors import UserError


def parse_noise(text: str) -> NoiseModel:
    """Read "gaussian:25" (sigma in 8-bit levels), "poisson:0.01" (zeta), "gamma:100" (k) or "poisson_gaussian:0.01:5".

    Raises UserError for another family or a level out of range.
    """
    family, *level_texts = text.split(":")
    try:
        levels = [float(level) for level in level_texts]
    except ValueError:
        levels = []
    match family, levels:
        case "gaussian", [level] if 0 < level <= 255:
            return Gaussian(level / 255)
        case "poisson", [level] if 0.0025 <= level <= 1:
            return Poisson(level)
        case "gamma", [level] if 10 <= level <= 10_000:
            return Gamma(level)
        case "poisson_gaussian", [zeta, sigma] if 0.0025 <= zeta <= 1 and 0 < sigma <= 255:
            return PoissonGaussian(zeta, sigma / 255)
    raise UserError(
        f"noise '{text}' is not understood: write gaussian:SIGMA with SIGMA in (0, 255], "
        "poisson:ZETA with ZETA in [0.0025, 1], gamma:K with K in [10, 10000], or poisson_gaussian:ZETA:SIGMA"
    )


def format_noise(noise: NoiseModel) -> str:
    """The text that parse_noise reads, with the level as people write it: "gaussian:25"."""
    match noise:
        case Gaussian(sigma):
            return f"gaussian:{sigma * 255:.6g}"
        case Poisson(zeta):
            return f"poisson:{zeta:.6g}"
        case Gamma(k):
            return f"gamma:{k:.6g}"
        case PoissonGaussian(zeta, sigma):
            return f"poisson_gaussian:{zeta:.6g}:{sigma * 255:.6g}"


_RANGE = re.compile(r"(\w+):([0-9.]+)-([0-9.]+)")


def parse_training_noise(text: str) -> TrainingNoise:
    """Read what parse_noise reads, or ranges of levels: "gaussian:5-55,gamma:20-200".

    Raises UserError for another family, a level out of range, or a range that is none, and for mixed noise.
    """
    if "," not in text and not _RANGE.fullmatch(text):
        return _pure(text)
    ranges = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if not found:
            raise UserError(f"noise '{text}' is not understood: write each part as FAMILY:LOWEST-HIGHEST")
        family, low, high = found.groups()
        ends = _pure(f"{family}:{low}"), _pure(f"{family}:{high}")
        if not ends[0].level < ends[1].level:
            raise UserError(f"noise '{text}' has a range whose ends are not in order: {part.strip()}")
        ranges.append(ends)
    families = [type(low) for low, _ in ranges]
    if len(set(families)) < len(families):
        raise UserError(f"noise '{text}' names a family twice: give each one range")
    return Mixture(tuple(ranges))


def _pure(text: str) -> PureNoise:
    noise = parse_noise(text)
    if isinstance(noise, PoissonGaussian):
        raise UserError(f"noise '{text}' can't be trained on: a network trained on Poisson noise denoises it")
    return noise


def format_training_noise(noise: TrainingNoise) -> str:
    """The text that parse_training_noise reads."""
    if not isinstance(noise, Mixture):
        return format_noise(noise)
    return ",".join(f"{format_noise(low)}-{format_noise(high).split(':')[1]}" for low, high in noise.ranges)


def parse_cell_noise(text: str) -> str:
    """ "gaussian:25.0" as results write it; the name of a family alone stays, and "unknown".

    Raises UserError for anything else.
    """
    return text if text in {UNKNOWN, *(each.family for each in FAMILIES)} else format_noise(parse_noise(text))
