"""YAML that is read as it looks: a key that comes twice is a mistake, and only decimal digits make a number.

YAML 1.1, which PyYAML reads, takes 010 for 8, 1:30 for 90 and no for false, and the last of two equal keys. Here the
first two are text and the third is as well, as in YAML 1.2.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml

from n2s_dist.utils.errors import UserError, nearest

_TAG = "tag:yaml.org,2002:"


class _Plain(yaml.SafeLoader):
    """Mappings without equal keys; every scalar but null is the text that was written."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # PyYAML's own way

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = key.value, key.start_mark.line + 1
            if isinstance(name, str) and name in lines and key.tag != _TAG + "merge":
                raise UserError(f"the key '{name}' comes twice, in lines {lines[name]} and {line}: keep one of them")
            lines[str(name)] = line
        return super().construct_mapping(node, deep)


class _Typed(_Plain):
    """The same with YAML 1.2's numbers and truth values; 1_000 and 1e-3 are numbers as well."""


def _resolve(loader: type[_Plain], kind: str, pattern: str, first: str) -> None:
    """Scalars that are all of a pattern, whose first letter is one of these, are of this kind."""
    loader.add_implicit_resolver(_TAG + kind, re.compile(rf"(?:{pattern})\Z"), [*first] or [""])


_resolve(_Plain, "null", "", "")
_resolve(_Plain, "null", "~|null|Null|NULL", "~nN")
_resolve(_Plain, "merge", "<<", "<")
_resolve(_Typed, "bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve(_Typed, "int", "[-+]?(0|[1-9][0-9_]*)", "-+0123456789")
_resolve(
    _Typed,
    "float",
    r"[-+]?((0|[1-9][0-9_]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "-+.0123456789",
)


def read_yaml(path: Path, as_text: bool = False) -> Any:
    """What a YAML file holds. as_text: all but null and mappings and lists is the text that was written.

    Raises UserError that names the file for anything that is not one document of plain YAML.
    """
    try:
        return (_Plain if as_text else _Typed)(path.read_bytes()).get_single_data()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as YAML: {_one_line(error)}") from None


Record = TypeVar("Record")
_INT, _FLOAT = (int, "a whole number"), (int | float, "a number")
# By a field's annotation, which is text where its module postpones annotations.
_NUMBERS: dict[str, tuple[Any, str]] = {"int": _INT, str(int): _INT, "float": _FLOAT, str(float): _FLOAT}


def read_record(path: Path, kind: type[Record], what: str) -> Record:
    """A dataclass from a YAML file of its fields. what: such a file's name in errors, such as "camera".

    The class checks values when it is made, by ValueError. Raises UserError that names the file and the key.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no {what}: it should map keys to values")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise UserError(f"{path}: a {what} has no '{key}'{nearest(str(key), list(fields)) or _all_of(fields)}")
    missing = [
        name for name, field in fields.items()
        if name not in data and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise UserError(f"{path}: the {what} has no '{missing[0]}': give it")
    for key, value in data.items():
        numbers = _NUMBERS.get(str(fields[key].type))
        if numbers and (isinstance(value, bool) or not isinstance(value, numbers[0]) or not math.isfinite(value)):
            raise UserError(f"{path}: {key} is {value}: give {numbers[1]}")
    try:
        return kind(**data)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {_one_line(error)}") from None


def _all_of(fields: dict[str, Any]) -> str:
    return f": its keys are {', '.join(fields)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).replace('in "<byte string>", ', "in ").split())
