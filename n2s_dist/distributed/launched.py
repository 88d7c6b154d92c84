"""How this process was started, by its environment: alone, or as one of several ranks.

A launcher (accelerate launch, torchrun) gives each rank six variables. They count together or not at all: what another
job or MPI has left over in the environment is named and has no effect. The configuration decides all that accelerate
would read from ACCELERATE_*. This module imports nothing that takes time.
"""

import os
import re
from collections.abc import MutableMapping
from dataclasses import dataclass

from n2s_dist.utils.errors import UserError

_MEETING_POINT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # enough for PyTorch
_ON_THE_NODE = ("LOCAL_RANK", "LOCAL_WORLD_SIZE")
_PLACE = re.compile(r"(LOCAL_)?(RANK|WORLD_SIZE)")
_MPI = re.compile(r"PMI_(RANK|SIZE)|(OMPI|MV2)_COMM_WORLD_(LOCAL_)?(RANK|SIZE)|MPI_LOCAL(RANKID|NRANKS)")
_ALONE = {"RANK": "0", "RANKID": "0", "SIZE": "1", "NRANKS": "1"}  # values of one rank alone, by the ends of names
# Of accelerate's variables: those that choose a device's kind, bind cores or check more, and so don't change results.
_RESPECTED = ("ACCELERATE_USE_CPU", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE", "ACCELERATE_LOG_LEVEL")
_ONE_DEVICE = "ACCELERATE_TORCH_DEVICE"  # respected where there is one rank
_NO_CHANGE = ("", "0", "no", "none", "false", "default")
_MOST_NAMED = 6


@dataclass(frozen=True)
class Launch:
    """This process's place among those that were started together; by default there is no other one."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    address: str = ""  # where rank 0 is
    port: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.world_size == 1


def read_launch(environment: MutableMapping[str, str] | None = None) -> Launch:
    """What a launcher says. Raises UserError when it says only a part of it, or what can't be."""
    given = os.environ if environment is None else environment
    if any(name not in given for name in _MEETING_POINT):
        return Launch()
    if lacking := [name for name in _ON_THE_NODE if name not in given]:
        raise UserError(
            f"{' and '.join(lacking)} missing in the environment, which has {', '.join(_MEETING_POINT)}: start ranks "
            "by accelerate launch or torchrun, which set all of them, or set none"
        )
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    rank, local_rank, world_size, local_world_size = (_whole_number(given, name) for name in names)
    port = _whole_number(given, "MASTER_PORT")
    for name, place, of, count in (
        ("RANK", rank, "WORLD_SIZE", world_size),
        ("LOCAL_RANK", local_rank, "LOCAL_WORLD_SIZE", local_world_size),
        ("LOCAL_WORLD_SIZE", local_world_size - 1, "WORLD_SIZE", world_size),
    ):
        if place >= count:
            raise UserError(
                f"{name} is {given[name]} and {of} is {count} in the environment, which can't be: unset them"
            )
    return Launch(rank, local_rank, world_size, local_world_size, given["MASTER_ADDR"], port)


def _whole_number(given: MutableMapping[str, str], name: str) -> int:
    if not given[name].isdecimal():
        raise UserError(f"{name} is {given[name]!r} in the environment: a launcher gives a whole number, or unset it")
    return int(given[name])


def settle(environment: MutableMapping[str, str] | None = None) -> tuple[Launch, str]:
    """Read the launch, and remove from the environment what others would misread.

    Also returns the line that names what somebody may have meant to have an effect; "" when there is none.
    """
    given = os.environ if environment is None else environment
    launch = read_launch(given)
    complete = all(name in given for name in _MEETING_POINT)
    removed = {}
    for name in sorted(given):
        is_kept = name in _RESPECTED or (launch.is_alone and name == _ONE_DEVICE)
        accelerates = name.startswith("ACCELERATE_") and not is_kept
        if accelerates or _MPI.fullmatch(name) or (launch.is_alone and _PLACE.fullmatch(name)):
            removed[name] = given.pop(name)
    named = [
        f"{name}={value}"
        for name, value in removed.items()
        if (_changes(name, value) if name.startswith("ACCELERATE_") else not complete and _says_more_ranks(name, value))
    ]
    if not named:
        return launch, ""
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return launch, (
        f"without effect in the environment: {', '.join(named[:_MOST_NAMED])}{more} (ranks are started by accelerate "
        "launch or torchrun, which set RANK, WORLD_SIZE and all others; the configuration decides the rest)"
    )


def _says_more_ranks(name: str, value: str) -> bool:
    return next(alone for end, alone in _ALONE.items() if name.endswith(end)) != value


def _changes(name: str, value: str) -> bool:
    """Whether accelerate would have done anything else because of it."""
    return value.lower() not in _NO_CHANGE and not (name == "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" and value == "1")
