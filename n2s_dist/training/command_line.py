"""A training run's settings from a YAML file and dotted options: typed, strict, and read before a device is touched.

n2s train --config gaussian25 --run-dir runs/a --data.shards shards/bsd400 --seed 1

A file's settings are read as if they stood on the command line in its place, so a word means the same in both.
"""

import json
import re
import sys
from argparse import HelpFormatter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

from n2s_dist.config.schema import Config, from_dict, to_dict
from n2s_dist.losses.base import check_method
from n2s_dist.models.base import network_of, option_types, resolved
from n2s_dist.noise.specification import with_files_read
from n2s_dist.training.config_options import config_class, config_keys, config_types
from n2s_dist.utils.errors import UserError, nearest
from n2s_dist.utils.files import expanded
from n2s_dist.utils.plugins import VARIABLE
from n2s_dist.utils.programs import hyphenated, program_name, underscored
from n2s_dist.utils.shared_files import shared_folder
from n2s_dist.utils.strict_yaml import read_yaml

_OWN_OPTIONS = ("config", "help", "print_config")
_PATHS = ("run_dir", "data.shards", "data.cache_dir", "train.start_from")
_NUMBERS = (int, float, list[int], list[float])
_NO_DECIMAL = re.compile(r"[-+]?0[0-9_xob].*|.*\d:\d.*")  # 010 is 8 to some programs, 1:30 is 90 to some
_TAKEN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list[int]: "a list of whole numbers, such as [32, 64]",
    list[float]: "a list of numbers, such as [0.9, 0.99]",
}


class Setting(NamedTuple):
    """One key and the word that was written for it. where: "in FILE" or "on the command line"."""

    key: str
    word: str
    where: str


class _Parser(ArgumentParser):
    """Shows options with hyphens."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        return hyphenated(super().format_help(formatter))


def parser() -> ArgumentParser:
    """Kept: it takes longer to make than to use."""
    kind: Any = config_class()  # a class can be a key, which type[Any] does not tell mypy
    return _parser_of(kind, program_name("python -m n2s_dist.train"))


@cache
def _parser_of(kind: Any, name: str) -> ArgumentParser:
    out = _Parser(
        prog=name,
        description="Train a score network on noisy images alone, by the AR-DAE loss, or a baseline to compare with.",
        exit_on_error=False,
        default_env=False,
    )
    out.add_argument("--config", action=ActionConfigFile, help="YAML file; later options override it")
    out.add_class_arguments(kind)
    return out


def read_config(arguments: list[str] | None = None) -> Config:
    """Parse a command line. Raises UserError that names the key and, where one is near, the valid one.

    All options of the chosen network are filled in, and what its method asks for is checked.
    """
    items = list(_settings(sys.argv[1:] if arguments is None else arguments))
    if "--print_config" in items:  # the parser would print the options of all networks
        config = _config_of([item for item in items if item != "--print_config"])
        print(yaml.safe_dump(to_dict(config), sort_keys=False), end="")
        sys.exit()
    return _config_of(items)


def _config_of(items: list[Setting | str]) -> Config:
    """The configuration of a command line's settings and other words."""
    words = [item if isinstance(item, str) else f"--{item.key}={_checked(item)}" for item in items]
    reader = parser()
    try:
        parsed = reader.parse_args(words)
    except ArgumentError as error:
        raise UserError(_refusal(str(error), [item for item in items if isinstance(item, Setting)])) from None
    settings = parsed.as_dict()
    settings["network"] = _network_section(settings["network"], [item for item in items if isinstance(item, Setting)])
    config = resolved(from_dict({**settings, "noise": with_files_read(settings["noise"])}, "the command line"))
    check_method(config)
    return config


def _network_section(parsed: dict[str, Any], items: list[Setting]) -> dict[str, Any]:
    """The name, the condition and those options that were given.

    Options that a file gives to another network go when a later word names this one; any other is refused where
    networks are (models/base.py).
    """
    named = [place for place, item in enumerate(items) if item.key == "network.name"]
    section = {"name": parsed["name"]}
    own = option_types(network_of(parsed["name"]))
    for place, (key, _, where) in enumerate(items):
        kind, _, option = key.partition(".")
        if kind != "network" or option in ("name", "condition"):
            continue
        replaced = named and place < named[-1] and where != items[named[-1]].where
        if option in own or not replaced:
            section[option] = parsed[option]
    return section | {"condition": parsed["condition"]}


def _settings(arguments: list[str]) -> Iterator[Setting | str]:
    """The settings of a command line and of the files that it names, in order; other words are left as they are."""
    left = [underscored(word) for word in arguments]
    while left:
        word = left.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name in ("help", "print_config"):
            yield word
            continue
        if not equals:
            if name not in _OWN_OPTIONS:
                _reject_unknown(name, "on the command line")
            if not left or left[0].startswith("--"):
                yield word  # without a value, which the parser misses
                continue
            value = left.pop(0)
        if name == "config":
            yield from _file_settings(_file_of(value))
        else:
            yield Setting(name, value, "on the command line")


def _file_of(text: str) -> Path:
    """The YAML file that --config names: a path, or the name of a configuration that comes with the package."""
    path = Path(expanded("--config", text))
    named = shared_folder("configs") / f"{text}.yaml"
    return named if path.name == text and not path.exists() and named.is_file() else path


def _file_settings(path: Path) -> Iterator[Setting]:
    """What a file says, without keys that it leaves empty."""
    if not path.exists():
        raise UserError(f"{path} does not exist: --config takes a YAML file, or a name such as gaussian25")
    data, where = read_yaml(path, as_text=True), f"in {path}"
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no settings: it should map keys such as 'noise' and 'data' to values")
    sections = {key.split(".")[0] for key in config_keys() if "." in key}
    for key, value in data.items():
        if key not in sections:
            yield from _of_key(str(key), value, where)
        elif isinstance(value, dict):
            for inner, inside in value.items():
                yield from _of_key(f"{key}.{inner}", inside, where)
        elif value is not None:
            first = next(each for each in config_keys() if each.startswith(f"{key}."))
            raise UserError(f"{key} is {_word(value)} {where}: it is a section of keys such as {first}")


def _of_key(key: str, value: Any, where: str) -> Iterator[Setting]:
    if value is None:
        _reject_unknown(key, where)
    else:
        yield Setting(key, _word(value), where)


def _word(value: Any) -> str:
    """What a file's value would be on the command line: scalars as they were written, lists in brackets."""
    if isinstance(value, list):
        return f"[{', '.join(map(_word, value))}]"
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)


def _reject_unknown(key: str, where: str) -> None:
    valid = config_keys()
    if key not in valid:
        hint = nearest(key, valid) or ": see --help for all keys"
        if key.startswith("network."):
            hint += f"; a network from elsewhere is named by {VARIABLE}"
        raise UserError(f"unknown key '{key}' {where}{hint}")


def _checked(setting: Setting) -> str:
    """A setting's word, a path in full. Raises UserError for what is unknown or can be read in two ways."""
    key, word, where = setting
    _reject_unknown(key, where)
    if key in _PATHS:
        return expanded(key, word)
    kind = config_types()[key]
    if kind in _NUMBERS:
        parts = [word] if kind in (int, float) else re.split(r"[\[\],\s]+", word)
        if any(map(_NO_DECIMAL.fullmatch, parts)):
            raise UserError(f"{key} is {word} {where}: write decimal numbers, without zeros before them")
    return word


def _refusal(message: str, settings: list[Setting]) -> str:
    """What jsonargparse refuses, in one line that says what the key takes."""
    found = re.match(r'Parser key "([\w.]+)"', message)
    for key, word, where in reversed(settings):
        if found and key == found[1]:
            kind = config_types()[key]
            return f"{key} is {word} {where}: it takes {_TAKEN.get(kind) or 'one of ' + ', '.join(get_args(kind))}"
    return " ".join(message.split())
