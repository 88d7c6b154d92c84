"""Every option that the documentation shows is one of the command that it stands with."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from n2s_dist import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLES = {"denoising.md": "denoise", "shards.md": "build-shards", "evaluation.md": "evaluate"}  # pages of one command
_COMMAND = re.compile(r"(?:\bn2s |-m n2s_dist\.)([a-z-]+)((?: [^`|\n]*)?)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
_TOYS = {"--network.depth"}  # of networks that extending.md shows


def documented() -> dict[str, set[str]]:
    """Options by subcommand: of command lines, and of the first columns of tables of options."""
    found = defaultdict(set)
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for command, rest in _COMMAND.findall(text):
            found[command].update(_OPTION.findall(rest))
        if page.name in TABLES:
            for cell in re.findall(r"^\| (`--[^|]*)\|", text, re.M):
                found[TABLES[page.name]].update(_OPTION.findall(cell))
    return found


def test_the_documentation_shows_every_command_and_no_other():
    assert set(documented()) == set(cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_documented_options_are_options_of_their_command(helps, command):
    assert documented()[command] - _TOYS <= set(_OPTION.findall(helps[command]))
