"""What n2s COMMAND --help prints for every command, by one process: the imports that they share take seconds."""

import json
import subprocess
from pathlib import Path

from support.patience import HANG_SEC

_PROGRAM = """
import contextlib, io, json, sys
from n2s_dist.cli import COMMANDS, main

found = {}
for command in COMMANDS:
    sys.argv = ["n2s", command, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as end:
            assert not end.code, command
    found[command] = out.getvalue()
print(json.dumps(found))
"""


def ask_all(python: str | Path, folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """By commands, with the package that a Python has in a folder."""
    command = [python, "-c", _PROGRAM]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG_SEC, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
