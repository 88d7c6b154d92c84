"""A training run's settings from a YAML file and dotted options: typed, strict, and read before a device is touched.

python -m n2s_dist.train --config configs/gaussian25.yaml --run_dir runs/a --data.shards shards/bsd400 --seed 1
"""

import dataclasses
import json
import sys
from argparse import HelpFormatter
from pathlib import Path

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

from n2s_dist.config.schema import Config, from_dict
from n2s_dist.noise.specification import with_files_read
from n2s_dist.utils.errors import UserError, nearest
from n2s_dist.utils.programs import hyphenated, program_name, underscored
from n2s_dist.utils.shared_files import shared_folder


def config_keys() -> list[str]:
    """Every valid dotted key."""
    keys = []
    for outer in dataclasses.fields(Config):
        inner = outer.default_factory() if callable(outer.default_factory) else None
        if dataclasses.is_dataclass(inner):
            keys += [f"{outer.name}.{f.name}" for f in dataclasses.fields(inner)]
        else:
            keys.append(outer.name)
    return keys


def _reject_unknown(keys: list[str], where: str) -> None:
    valid = config_keys()
    for key in keys:
        if key not in valid:
            raise UserError(f"unknown key '{key}' {where}{nearest(key, valid) or ': see --help for all keys'}")


def _file_keys(path: Path) -> list[str]:
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: --config takes a YAML file, or a name such as gaussian25") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no settings: it should map keys such as 'noise' and 'data' to values")
    sections = {key.split(".")[0] for key in config_keys() if "." in key}
    keys = []
    for key, value in data.items():
        if key in sections and isinstance(value, dict):
            keys += [f"{key}.{inner}" for inner in value]
        else:
            keys.append(str(key))
    return keys


class _Parser(ArgumentParser):
    """Shows options with hyphens."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        return hyphenated(super().format_help(formatter))


def _check_file(text: str) -> Path:
    """The YAML file that --config names: a path, or the name of a configuration that comes with the package."""
    path = Path(text)
    if path.name == text and not path.suffix and not path.exists():
        named = shared_folder("configs") / f"{text}.yaml"
        path = named if named.is_file() else path
    _reject_unknown(_file_keys(path), f"in {path}")
    return path


def parser() -> ArgumentParser:
    out = _Parser(
        prog=program_name("python -m n2s_dist.train"),
        description="Train a score network on noisy images alone, by the AR-DAE loss, or a baseline to compare with.",
        exit_on_error=False,
        default_env=False,
    )
    out.add_argument("--config", action=ActionConfigFile, help="YAML file; later options override it")
    out.add_class_arguments(Config)
    return out


def read_config(arguments: list[str] | None = None) -> Config:
    """Parse a command line. Raises UserError that names the key and, where one is near, the valid one."""
    arguments = [underscored(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    options = [word[2:].split("=")[0] for word in arguments if word.startswith("--")]
    _reject_unknown([key for key in options if key not in ("config", "help", "print_config")], "on the command line")
    for number, word in enumerate(arguments):
        if word == "--config" and number + 1 < len(arguments):
            arguments[number + 1] = str(_check_file(arguments[number + 1]))
        elif word.startswith("--config="):
            arguments[number] = f"--config={_check_file(word.partition('=')[2])}"
    try:
        parsed = parser().parse_args(arguments)
    except ArgumentError as error:
        raise UserError(_first_sentence(str(error))) from None
    settings = json.loads(parser().dump(parsed, format="json"))
    return from_dict({**settings, "noise": with_files_read(settings["noise"])}, "the command line")


def _first_sentence(message: str) -> str:
    """jsonargparse explains over many lines; keep what names the key and the value."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    return ": ".join(line.rstrip(":") for line in lines[:2])
