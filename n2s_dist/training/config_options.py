"""Every key that a run's configuration takes, with the options of all networks and the names of all methods.

config/schema.py knows neither networks nor methods. Here they are put together for the command line and its help.
"""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from dataclasses import field
from functools import cache
from typing import Any, Literal

from n2s_dist.config.schema import Config, NetworkConfig
from n2s_dist.losses.base import losses
from n2s_dist.models.base import networks, option_types
from n2s_dist.models.network import Network


def _network_class(known: Mapping[str, type[Network]]) -> type[Any]:
    """NetworkConfig with the options of all networks in place of `options`, for the parser and its help.

    What each option is by default is up to the network; the help shows the default of the first one that has it.
    """
    titles: list[str] = []
    fields: dict[str, tuple[str, Any, Any]] = {}
    told: dict[str, list[str]] = {}
    for name, network in known.items():
        titles.append(f"{name} ({_first_sentence(network)})")
        docs = _argument_docs(network.options)
        for own in dataclasses.fields(network.options):
            told.setdefault(own.name, []).append(f"{name}: {docs.get(own.name, 'see its documentation')}")
            fields.setdefault(own.name, (own.name, option_types(network)[own.name], _default_of(own)))
    docs = _argument_docs(NetworkConfig)
    lines = [f"name: {' or '.join(titles)}", *(f"{key}: of {'; '.join(words)}" for key, words in told.items())]
    lines.append(f"condition: {docs['condition']}")
    by_name = {own.name: own for own in dataclasses.fields(NetworkConfig)}
    kind = dataclasses.make_dataclass(
        "NetworkConfig",
        [
            ("name", Literal[tuple(known)], _default_of(by_name["name"])),
            *fields.values(),
            ("condition", by_name["condition"].type, _default_of(by_name["condition"])),
        ],
        frozen=True,
    )
    indented = "\n".join(f"        {line}" for line in lines)
    kind.__doc__ = f"{_first_sentence(NetworkConfig)}.\n\n    Args:\n{indented}\n    "
    return kind


def config_class() -> type[Any]:
    """Config as the command line knows it: with every network's options, and with the methods that there are."""
    return _config_class_of(tuple(networks().items()), tuple(losses()))


@cache
def _config_class_of(known: tuple[tuple[str, type[Network]], ...], methods: tuple[str, ...]) -> type[Any]:
    network = _network_class(dict(known))
    changed = {"method": Literal[methods], "network": network}
    fields = [
        (own.name, changed.get(own.name, own.type), field(default_factory=network) if own.name == "network"
         else _default_of(own))
        for own in dataclasses.fields(Config)
    ]  # fmt: skip
    kind = dataclasses.make_dataclass("Config", fields, frozen=True)
    kind.__doc__ = Config.__doc__
    return kind


def _default_of(own: Any) -> Any:
    """The default of a dataclass's field, as a field of another one takes it."""
    if own.default is dataclasses.MISSING:
        return field(default_factory=own.default_factory)
    return field(default=own.default)


def _first_sentence(kind: type[Any]) -> str:
    """Of a class's docstring, without its full stop."""
    paragraph = " ".join(inspect.cleandoc(kind.__doc__ or kind.__name__).split("\n\n")[0].split())
    return re.split(r"\.\s+(?=[A-Z])", paragraph)[0].rstrip(".")


def _argument_docs(kind: type[Any]) -> dict[str, str]:
    """What the docstring of a dataclass says of each field, in one line."""
    _, _, text = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, words = line.strip().partition(": ")
        if colon and line.startswith("    ") and not line.startswith("     "):
            found[name] = words
        elif line.strip() and found:
            found[[*found][-1]] += " " + line.strip()
    return found


def config_types() -> dict[str, Any]:
    """Every valid dotted key and its type."""
    types: dict[str, Any] = {}
    for outer in dataclasses.fields(config_class()):
        inner = outer.default_factory() if callable(outer.default_factory) else None
        if dataclasses.is_dataclass(inner):
            types |= {f"{outer.name}.{f.name}": f.type for f in dataclasses.fields(inner)}
        else:
            types[outer.name] = outer.type
    return types


def config_keys() -> list[str]:
    """Every valid dotted key."""
    return list(config_types())
