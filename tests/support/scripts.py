"""Programs that belong to no package, imported by their path."""

import importlib.util
from pathlib import Path
from types import ModuleType


def import_script(path: Path) -> ModuleType:
    """A new module each time, named after the file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
