#!/usr/bin/env python3
"""Write down which code a training run starts with; prints the run directory.

tools/freeze_run.py --config configs/gaussian25.yaml --run_dir runs/a ...

Takes a training command's arguments. In RUN_DIR/code: starts.jsonl, a line for each start (time, command, git commit
and whether anything was changed since, Slurm's job and nodes); requirements.txt, the installed packages; changes.patch,
what was changed since the commit. Training itself writes RUN_DIR/config.yaml. Nothing of the environment but Slurm's
numbers is written, so secrets stay where they are.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import UserError, run_command, warn_once
from n2s_dist.utils.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]


def git(*arguments: str) -> str | None:
    """What git says of this project; None where it says nothing, as in a copy without its history."""
    try:
        # A checkout of another user, as in a container, is one of this project all the same.
        command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return None
    if done.returncode and (ROOT / ".git").exists():
        reason = (done.stderr.strip() or "no reason given").splitlines()[0]
        warn_once("git", f"git does not say which commit this is ({reason}): none is written down")
    return done.stdout if done.returncode == 0 else None


def freeze(run_dir: Path, arguments: list[str]) -> None:
    """Add this start to RUN_DIR/code."""
    folder = run_dir / "code"
    folder.mkdir(parents=True, exist_ok=True)
    commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain")
    numbers = [f"SLURM_{name}" for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT", "JOB_NODELIST")]
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": arguments,
        "commit": commit.strip() if commit else None,
        "dirty": bool(changed) if commit else None,
        "python": sys.version.split()[0],
        **{name.lower(): os.environ[name] for name in numbers if name in os.environ},
    }
    packages = sorted({f"{found.metadata['Name']}=={found.version}" for found in distributions()}, key=str.lower)
    replace(folder / "requirements.txt", "\n".join(packages) + "\n")
    replace(folder / "changes.patch", git("diff", "HEAD") or "")
    with (folder / "starts.jsonl").open("a") as stream:
        stream.write(json.dumps(start) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file that is whole or not there."""
    with atomic_write(path) as partial:
        partial.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    _, arguments = parser.parse_known_args()
    config = read_config(arguments)
    if not config.run_dir:
        raise UserError("--run-dir is missing: name a folder for checkpoints and metrics")
    freeze(Path(config.run_dir), arguments)
    print(config.run_dir)


if __name__ == "__main__":
    run_command(main)
