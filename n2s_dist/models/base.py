"""The registry of networks, which `network.name` in a configuration names, and their options.

A network of this package is one file and one line here. A network from elsewhere calls `register` in a module that
N2S_PLUGINS names.
"""

import dataclasses
from typing import Any, Literal, get_origin, get_type_hints

from n2s_dist.config.schema import Config, NetworkConfig
from n2s_dist.models.network import Network
from n2s_dist.models.resunet import ResUNet
from n2s_dist.models.unet_n2n import UNetN2N
from n2s_dist.utils import plugins
from n2s_dist.utils.errors import UserError, nearest

_NETWORKS: dict[str, type[Network]] = {"resunet": ResUNet, "unet_n2n": UNetN2N}
_OPTION_TYPES = (int, float, bool, str, list[int], list[float])


def register(network: type[Network]) -> type[Network]:
    """Add a network to those that `network.name` can name.

    Raises UserError for a name that is taken or can't be written, and for options that a configuration can't hold.
    """
    _check_options(network)
    plugins.add(_NETWORKS, "network", network.name, network)
    return network


def networks() -> dict[str, type[Network]]:
    """All networks by name, those of plugins included."""
    plugins.load_plugins()
    return dict(_NETWORKS)


def network_of(name: str) -> type[Network]:
    """The network of a name. Raises UserError for a name that none has."""
    known = networks()
    if name not in known:
        hint = nearest(name, list(known)) or f": it takes one of {', '.join(known)}"
        raise UserError(f"network.name is {name}{hint}; one from elsewhere is named by {plugins.VARIABLE}")
    return known[name]


def option_types(network: type[Network]) -> dict[str, Any]:
    """The type of each of a network's options."""
    hints = get_type_hints(network.options)
    return {field.name: hints[field.name] for field in dataclasses.fields(network.options)}


def network_options(config: NetworkConfig, where: str = "") -> dict[str, Any]:
    """All options of the chosen network, with its defaults where the configuration is silent.

    Raises UserError for a network that is not known, and for an option that it does not have or that has a wrong value;
    it begins with `where`.
    """
    try:
        return _checked_options(config)
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None


def _checked_options(config: NetworkConfig) -> dict[str, Any]:
    network = network_of(config.name)
    own = option_types(network)
    for key, value in config.options.items():
        if key not in own and (key not in network.ignored or value is True):  # a switch that is on would be missed
            raise UserError(f"network.{key} is {value}, but {_refusal(key, config.name)}")
    chosen = {key: value for key, value in config.options.items() if key in own}
    return dataclasses.asdict(network.options(**chosen))


def resolved(config: Config) -> Config:
    """The configuration with all options of its network. Raises UserError as network_options does."""
    network = dataclasses.replace(config.network, options=network_options(config.network))
    return dataclasses.replace(config, network=network)


def build_network(config: NetworkConfig, in_channels: int, out_channels: int) -> Network:
    """The chosen network with freshly drawn weights. Raises UserError as network_options does."""
    return network_of(config.name)(in_channels, out_channels, **network_options(config))


def _refusal(key: str, name: str) -> str:
    """Why a network does not take an option, and whose it is."""
    owners = [other for other, network in networks().items() if key in option_types(network)]
    if owners:
        return f"network.name is {name}: this option is for {', '.join(owners)}"
    own = ", ".join(option_types(network_of(name))) or "none"
    return f"{name} has no such option: it has {own}"


def _check_options(network: type[Network]) -> None:
    """Raise UserError for options that can't stand in a configuration beside those of other networks."""
    if not dataclasses.is_dataclass(network.options):
        raise UserError(f"network '{network.name}': its options are no dataclass")
    taken = {key: (name, kind) for name, other in _NETWORKS.items() for key, kind in option_types(other).items()}
    reserved = {field.name for field in dataclasses.fields(NetworkConfig)}
    for key, kind in option_types(network).items():
        where = f"network '{network.name}': its option {key}"
        if key in reserved:
            raise UserError(f"{where} has the name of a setting of all networks: give it another name")
        if kind not in _OPTION_TYPES and get_origin(kind) is not Literal:
            raise UserError(f"{where} is {kind}: options are int, float, bool, str, list[int], list[float] or Literal")
        other, its_kind = taken.get(key, (network.name, kind))
        if its_kind != kind:
            raise UserError(f"{where} is {kind}, but that of '{other}' is {its_kind}: give it another name")
    for field in dataclasses.fields(network.options):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"network '{network.name}': its option {field.name} has no default")
