"""requirements.lock: it has all that setup.cfg requires, by checksum, in versions that constraints.txt agrees with."""

import configparser
import importlib.metadata
import re
from collections.abc import Iterator

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.distributions import closure
from support.paths import ROOT

LOCK = (ROOT / "requirements.lock").read_text()
ENTRY = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>.+?))?(?P<hashes>(?: \\\n    --hash=sha256:\w{64})+)\n", re.M
)
# A platform of each kind: versions may differ between them.
PLATFORMS = [
    {"python_version": version, "python_full_version": f"{version}.9", "sys_platform": system.lower(),
     "platform_system": system, "platform_machine": machine}
    for version in ("3.11", "3.12", "3.13")
    for system, machine in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"))
]  # fmt: skip


def locked(platform: dict[str, str]) -> dict[str, str]:
    """Versions by canonical names, on a platform."""
    found = {}
    for entry in ENTRY.finditer(LOCK):
        if entry["marker"] is None or Requirement(f"x; {entry['marker']}").marker.evaluate(platform):
            name = canonicalize_name(entry["name"])
            assert name not in found, f"{name} has two versions"
            found[name] = entry["version"]
    return found


def required() -> Iterator[Requirement]:
    """What setup.cfg requires, with the extras dev and docs and those that they name."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *(config["options.extras_require"][e] for e in ("dev", "docs"))]
    while lists:
        for line in filter(None, lists.pop().splitlines()):
            requirement = Requirement(line)
            if requirement.name == "n2s-dist":
                lists += [config["options.extras_require"][extra] for extra in requirement.extras]
            else:
                yield requirement


def test_each_entry_is_one_version_and_its_checksums():
    rest = ENTRY.sub("", "".join(line for line in LOCK.splitlines(keepends=True) if not line.startswith("#")))
    assert rest == "" and len(ENTRY.findall(LOCK)) > 100
    assert "://" not in LOCK  # whatever registry it was made with


def test_it_has_what_setup_cfg_requires():
    requirements = list(required())
    assert {"torch", "pytest", "mkdocs", "moto", "bm3d"} <= {requirement.name for requirement in requirements}
    for platform in PLATFORMS:
        versions = locked(default_environment() | platform)
        lacking = [
            str(each)
            for each in requirements
            if each.name != "torch"
            and (each.marker is None or each.marker.evaluate(platform))
            and not each.specifier.contains(versions.get(canonicalize_name(each.name), "0"), prereleases=True)
        ]
        assert lacking == [], platform


def test_it_has_what_those_require_in_turn():
    """As far as they are installed here. What PyTorch alone requires of its build is named for what it is."""
    installed = {canonicalize_name(each.name) for each in importlib.metadata.distributions()}
    names = {canonicalize_name(each.name) for each in required()} & installed
    lacking = closure(names).keys() - locked(default_environment()).keys() - {"torch"}
    assert [name for name in lacking if not re.match("nvidia-|cuda-|triton", name)] == []


def test_constraints_agree_with_it():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = locked(default_environment())
    differing = {n: v for n, v in pins.items() if versions.get(canonicalize_name(n), v) != v}
    assert differing == {} and len(pins.keys() & versions.keys()) > 30


def test_what_only_torch_requires_of_its_build_is_left_out(load_tool):
    entries = {
        "accelerate": "n2s-dist", "cuda-toolkit": "torch", "nvidia-cublas": "cuda-toolkit, torch",
        "nvidia-dali": "n2s-dist", "nvidia-nvjpeg": "nvidia-dali", "nvidia-shared": "nvidia-dali, torch",
        "sympy": "torch", "torch": "accelerate, n2s-dist", "triton": "torch",
    }  # fmt: skip
    resolved = "".join(
        f"{name}==1.0 ; sys_platform == 'linux' \\\n    --hash=sha256:{'0' * 64}\n    # via {via}\n"
        for name, via in entries.items()
    )
    kept = load_tool("lock").without_builds(resolved)
    assert re.findall(r"^[\w-]+", kept, re.M) == [
        "accelerate", "nvidia-dali", "nvidia-nvjpeg", "nvidia-shared", "sympy"
    ]  # fmt: skip
    assert len(ENTRY.findall(kept)) == 5 and "via" not in kept
