"""A ~ in any path option of any command is the home folder, also in --out=~/x, which no shell replaces."""

import argparse
import importlib
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

from n2s_dist.cli import COMMANDS
from n2s_dist.utils.files import path_option, path_text

PROGRAMS = [f"n2s_dist.{module}" for name, (module, _) in COMMANDS.items() if name != "train"]  # by jsonargparse
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py") if "parse_args(" in path.read_text())
PATHS = (
    "IMAGE",
    "FRAMES",
    "CLEAN",
    "FILE.yaml",
    "DIR",
    "RUN",
    "RUN_DIR",
    "PATH",
    "FILE",
    "FILE.png",
    "FILE.onnx",
    "IN",
    "OUT",
    "SOURCE",
)


class Caught(Exception):
    pass


def actions(main, monkeypatch) -> list[argparse.Action]:
    """The options of a program, caught where it reads its command line."""
    found: list[argparse.Action] = []

    def catch(parser, *_):
        found.extend(parser._actions)
        raise Caught

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", catch)
    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(Caught):
        main()
    return found


def check(options: list[argparse.Action]) -> None:
    of_paths = [each for each in options if each.metavar in PATHS or each.dest in ("config", "folder", "scratch")]
    for option in of_paths:
        assert option.type in (path_option, path_text), option.dest
    assert all(option.type is not Path for option in options)


@pytest.mark.parametrize("module", PROGRAMS)
def test_commands(module, monkeypatch):
    if module == "n2s_dist.evaluate":
        options = importlib.import_module("n2s_dist.evaluation.command_line").parser()._actions
    else:
        options = actions(importlib.import_module(module).main, monkeypatch)
    assert any(option.type in (path_option, path_text) for option in options)
    check(options)


@pytest.mark.parametrize("name", TOOLS)
def test_tools(name, load_tool, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")  # where they import each other from
    check(actions(load_tool(name).main, monkeypatch))


def test_home_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert path_option("~/a") == tmp_path / "a" and path_text("~") == str(tmp_path)
    assert path_text("name") == "name" and path_text("a/~/b") == "a/~/b"
    (tmp_path / "~file.png").touch()
    assert path_option("~file.png") == Path("~file.png")  # a name like any other
    with pytest.raises(argparse.ArgumentTypeError, match="no home folder is known for ~nobody-of-this-name"):
        path_option("~nobody-of-this-name/a")
