"""What a program is called, and how its options may be spelled."""

import re
import sys


def program_name(otherwise: str) -> str:
    """The program as the user called it: "n2s train", or else the given name."""
    return sys.argv[0] if sys.argv[0].startswith("n2s ") else otherwise


def underscored(word: str) -> str:
    """A word of a command line, the hyphens in an option's name made underscores: --run-dir=a-b to --run_dir=a-b."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def dashed(word: str) -> str:
    """The same with underscores made hyphens, for options that were once spelled so."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def hyphenated(text: str) -> str:
    """A help text with the underscores in options' names made hyphens."""
    return re.sub(r"--[a-z][\w.]*", lambda option: option[0].replace("_", "-"), text)
