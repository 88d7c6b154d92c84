#!/usr/bin/env python3
"""Write requirements.lock: what the tests and the documentation are run with, to the last byte.

Each package that setup.cfg requires, with its extras dev and docs, in the version that constraints.txt or uv's
resolution says, for every platform and Python from 3.11.5 on, with the SHA-256 of each file of that release.

PyTorch is left out: one version has builds for CPUs and for each CUDA, with other checksums and other libraries of
NVIDIA's, and every machine needs its own. The Makefile installs it by its version alone, after all else. So its own
requirements are here, but for those libraries.

    make lock
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("dev", "docs")
HEAD = """\
# Written by tools/lock.py (make lock). Checksums of all files of each release, for pip's --require-hashes.
# PyTorch, and the libraries of NVIDIA's that it alone requires, come by version: their files differ by machine.
"""
_OF_A_BUILD = re.compile(r"torch|triton|cuda-.*|nvidia-.*")
_ENTRY = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)


def resolve() -> str:
    """uv's resolution: entries "NAME==VERSION ; MARKER" with their checksums and a comment of who requires them."""
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "setup.cfg", *extras, "-c", "constraints.txt"]
    options = [
        "--universal",
        "--python-version",
        "3.11.5",
        "--generate-hashes",
        "--no-header",
        "--annotation-style=line",
    ]
    quiet = ["--no-emit-index-url", "--no-emit-find-links", "--no-config"]
    return subprocess.run([*command, *options, *quiet], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def without_builds(resolved: str) -> str:
    """The same without comments, without PyTorch and without what it alone requires of its build."""
    entries: dict[str, str] = {}
    requirers: dict[str, set[str]] = {}
    for entry in _ENTRY.split(resolved):
        if entry.strip():
            name = entry.partition("==")[0]
            lines = [line for line in entry.splitlines() if not line.lstrip().startswith("#")]
            entries[name] = entries.get(name, "") + "\n".join(lines).rstrip(" \\\n") + "\n"
            found = re.search(r"# via (.*)", entry)
            requirers[name] = set(found[1].split(", ")) if found else set()
    left_out = {"torch"}
    while more := {n for n in entries if _OF_A_BUILD.fullmatch(n) and requirers[n] <= left_out} - left_out:
        left_out |= more
    return "".join(entry for name, entry in entries.items() if name not in left_out)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    (ROOT / "requirements.lock").write_text(HEAD + without_builds(resolve()))


if __name__ == "__main__":
    main()
