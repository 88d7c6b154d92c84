"""Extensions from outside the package: modules that register their noise families, networks, losses, metrics, formats.

    N2S_PLUGINS=my_noise,my_lab.networks n2s train ...

The variable names modules on the Python path, separated by commas. Each process of a program imports them once, workers
included, when a registry is first asked; a module registers what it defines as it is imported.
"""

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import sha256_file

VARIABLE = "N2S_PLUGINS"
_imported: set[str] = set()


def load_plugins() -> None:
    """Import the modules that N2S_PLUGINS names, unless that was done. Raises UserError for one that can't be."""
    for name in filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))):
        if name in _imported:
            continue
        _imported.add(name)  # before the import, in which the module asks for the registry
        try:
            importlib.import_module(name)
        except UserError:
            _imported.discard(name)
            raise
        except Exception as error:
            _imported.discard(name)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{VARIABLE} names {name}, which can't be imported ({reason})") from None


def digests() -> dict[str, str]:
    """The shortened SHA-256 of each plugin's file, by the module's name, for ranks to compare."""
    load_plugins()
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(_imported)}
    return {f"plugin {name}": sha256_file(Path(file))[:12] for name, file in files.items() if file}


def add(registry: dict[str, Any], kind: str, name: str, added: Any) -> None:
    """Put something into a registry under its name. kind: what a message calls it, such as "network".

    Raises UserError for a name that is taken or can't be written in a configuration.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise UserError(
            f"{kind} '{name}': a name has letters, digits, hyphens and underscores, and begins with a letter"
        )
    if registry.setdefault(name, added) is not added:
        raise UserError(f"{kind} '{name}' is there already: give yours another name")
