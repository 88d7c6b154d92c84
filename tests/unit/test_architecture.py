"""The folder listing is the architecture: what may import what."""

from collections.abc import Iterator

import pytest
from support.imports import PACKAGE, folder_of, imports_of, modules, public_classes
from support.paths import ROOT

# From top to bottom: a folder imports those further down alone. "" holds the programs.
FOLDERS = (
    "", "commands", "reporting", "evaluation", "training", "inference", "losses", "models", "distributed", "loading",
    "shards", "datasets", "images", "metrics", "config", "noise", "utils",
)  # fmt: skip
APART = {"training", "inference"}  # neither knows the other
# Each package, and the modules (by what their names begin with) that alone may import it.
GUARDED = {
    "accelerate": ("distributed.ranks",),
    "wandb": ("training.tracking", "reporting."),
    "nvidia": ("loading.",),
}


def wrong_ways() -> Iterator[str]:
    for module in modules():
        for found in imports_of(module):
            if not found.name.startswith(f"{PACKAGE}.") or found.name == f"{PACKAGE}.__version__":
                continue
            own, other = folder_of(module), folder_of(found.name.removeprefix(f"{PACKAGE}."))
            if FOLDERS.index(other) < FOLDERS.index(own) or {own, other} == APART:
                yield f"{module} imports {found}"


def test_imports_go_down_from_folder_to_folder():
    assert {folder_of(module) for module in modules()} == set(FOLDERS)
    assert list(wrong_ways()) == []


@pytest.mark.parametrize("package", GUARDED)
def test_a_guarded_package_is_imported_where_it_belongs_alone(package):
    users = [(m, found) for m in modules() for found in imports_of(m) if f"{found.name}.".startswith(f"{package}.")]
    assert users and [f"{m} imports {found}" for m, found in users if not m.startswith(GUARDED[package])] == []


def test_init_files_are_empty_but_for_the_packages_own():
    full = [path.parent.name for path in (ROOT / PACKAGE).rglob("__init__.py") if path.read_text()]
    assert full == [PACKAGE]


def test_no_two_public_classes_share_a_name():
    named: dict[str, list[str]] = {}
    for module, name in public_classes():
        named.setdefault(name, []).append(module)
    assert {name: where for name, where in named.items() if len(where) > 1} == {}
