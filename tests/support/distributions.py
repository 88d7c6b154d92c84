"""Installed distributions: what they require, which modules and files they have."""

import importlib.metadata
from collections.abc import Iterable
from importlib.metadata import Distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What denoising takes, and no more.
INFERENCE = ("torch", "numpy", "scipy", "safetensors", "pillow", "tifffile", "pyyaml", "tqdm")


def closure(names: Iterable[str]) -> dict[str, Distribution]:
    """Distributions of these names and all that they require here, extras aside, by their canonical names."""
    found: dict[str, Distribution] = {}
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            requirements = map(Requirement, found[name].requires or [])
            left += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def modules_of_others(names: Iterable[str]) -> list[str]:
    """Top-level modules that no distribution of this closure has; this package's own are left out."""
    kept = set(closure(names)) | {"n2s-dist"}
    return sorted(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not kept & set(map(canonicalize_name, owners))
    )
