"""Extensions from outside the package: modules that register their noise families, networks, losses, metrics, formats.

    N2S_PLUGINS=my_noise,my_lab.networks n2s train ...

The variable names modules on the Python path, separated by commas. Each process of a program imports them once, workers
included, when a registry is first asked; a module registers what it defines as it is imported.
"""

import importlib
import os

from n2s_dist.utils.errors import UserError

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
