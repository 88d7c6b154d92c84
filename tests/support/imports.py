"""What the package's modules import, by their source alone.

python -m support.imports      from tests/: each folder's floor, and the folders it stands on
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from support.paths import ROOT

PACKAGE = "n2s_dist"


class Import(NamedTuple):
    """A module, or a name of one, that is imported, and the line."""

    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.name} (line {self.line})"


@cache
def _trees() -> dict[str, ast.Module]:
    """The source of each module, by its name below the package; a folder goes by the name of its __init__."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
        if path.name != "__init__.py" or path.read_text():
            found[name] = ast.parse(path.read_text())
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node, without the expressions in them, which hold no import."""
    for part in ("body", "orelse", "handlers", "finalbody", "cases"):
        for below in getattr(node, part, ()):
            yield below
            yield from _statements(below)


def modules() -> list[str]:
    """Such as "noise.gaussian"."""
    return list(_trees())


@cache
def folder_of(name: str) -> str:
    """The folder of a module or of a name in it; "" for what lies in none."""
    first = name.split(".")[0]
    return first if (ROOT / PACKAGE / first / "__init__.py").is_file() else ""


@cache
def imports_of(module: str) -> list[Import]:
    """All imports, those within functions and for type checkers as well, by full names."""
    found = []
    for node in _statements(_trees()[module]):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def public_classes() -> Iterator[tuple[str, str]]:
    """Modules and names of the classes at their top level that do not begin with an underscore."""
    for module, tree in _trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield module, node.name


def floors() -> dict[str, int]:
    """How high each folder stands: one above the highest of those it imports."""
    stands_on: dict[str, set[str]] = defaultdict(set)
    for module in modules():
        for found in imports_of(module):
            if found.name.startswith(f"{PACKAGE}."):
                stands_on[folder_of(module)].add(folder_of(found.name.removeprefix(f"{PACKAGE}.")))
    heights: dict[str, int] = {}

    def height(folder: str) -> int:
        if folder not in heights:
            below = stands_on[folder] - {folder, ""}
            heights[folder] = 1 + max(map(height, below), default=-1)
        return heights[folder]

    for folder in list(stands_on):
        height(folder)
    return heights


if __name__ == "__main__":
    for name, floor in sorted(floors().items(), key=lambda item: (-item[1], item[0])):
        below = {folder_of(i.name.removeprefix(f"{PACKAGE}.")) for m in modules() if folder_of(m) == name
                 for i in imports_of(m) if i.name.startswith(f"{PACKAGE}.")} - {name, ""}  # fmt: skip
        print(f"{floor:>2}  {name or 'programs':<12} {' '.join(sorted(below))}")
