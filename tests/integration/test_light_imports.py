"""What imports without PyTorch and the other packages that take seconds."""

import json
import subprocess
import sys

from support.imports import PACKAGE, modules
from support.paths import ROOT

LIGHT = (
    "utils.*", "config.checks", "config.schema", "noise.specification", "noise.stored", "shards.build.*",
    "distributed.stop_signals", "images.*",
)  # fmt: skip
HEAVY = ("torch", "nvidia.dali", "accelerate", "wandb", "zarr", "astropy", "pydicom")

PROGRAM = """
import importlib, json, sys
import n2s_dist
groups, heavy = json.loads(sys.argv[1]), json.loads(sys.argv[2])
found = {"version": n2s_dist.__version__, "": [name for name in heavy if name in sys.modules]}
for group, names in groups.items():
    for name in names:
        importlib.import_module(name)
    found[group] = [name for name in heavy if name in sys.modules]
print(json.dumps(found))
"""


def test_what_should_be_light_imports_without_pytorch():
    """All in one process, one after another: what imports a heavy package is the first that is said to."""
    groups = {
        pattern: [
            f"{PACKAGE}.{m}" for m in modules() if m == pattern or (pattern[-1] == "*" and m.startswith(pattern[:-1]))
        ]
        for pattern in LIGHT
    }
    assert all(groups.values())
    command = [sys.executable, "-c", PROGRAM, json.dumps(groups), json.dumps(HEAVY)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.pop("version") and found == {group: [] for group in ("", *LIGHT)}
