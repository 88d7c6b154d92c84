"""Packages that some formats take, which an installation may lack."""

import importlib
from pathlib import Path
from typing import Any

from n2s_dist.utils.errors import UserError


def needed(module: str, path: Path, extra: str = "science") -> Any:
    """A module of a package of an extra. Raises UserError that names the extra where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(f"{path} takes the package {package}: pip install n2s_dist[{extra}]") from None
