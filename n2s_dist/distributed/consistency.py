"""Whether all ranks run the same program on the same data, and hold the same weights to the last bit.

Before any work ranks compare what they were given (meeting.py), where a node may have another copy of it.

Each rank starts from one seed or one checkpoint and applies the same gradients, so nothing makes them
differ but a fault: of memory, of a network, of a rank that read another checkpoint. Unseen, it would
train on and save one rank's view. Every tensor is reduced to 64 bits where it lies; ranks compare those.
"""

import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from n2s_dist.distributed.meeting import Meeting, source_digest
from n2s_dist.distributed.ranks import Ranks
from n2s_dist.utils import plugins
from n2s_dist.utils.errors import RunFailed, of_all

_WIDTH = 2**14  # factors of a row; they stay in a processor's cache
_ROWS = 2**10  # rows at a time, which bounds memory
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@cache
def _factors(device: torch.device) -> Tensor:
    """Odd numbers, drawn once and for all: int64 [_WIDTH]. Odd factors let no single change of a value vanish."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(-(2**62), 2**62, (_WIDTH,), generator=generator) * 2 + 1).to(device)


def fingerprint(tensor: Tensor) -> Tensor:
    """A number of 64 bits, int64 [], that differs for tensors that differ in any bit (but for one case in 2^64).

    Sums of products modulo 2^64, so the same on any device and in any order of summation.
    """
    bits = tensor.detach().contiguous().view(-1).view(_BITS[tensor.element_size()])
    while True:
        sums = []
        for part in bits.split(_WIDTH * _ROWS):
            rows, rest = part[: len(part) // _WIDTH * _WIDTH], part[len(part) // _WIDTH * _WIDTH :]
            factors = _factors(bits.device)
            if len(rows):
                sums.append((rows.view(-1, _WIDTH).long() * factors).sum(1))
            if len(rest):
                sums.append((rest.long() * factors[: len(rest)]).sum()[None])
        if not sums:
            return torch.zeros((), dtype=torch.int64, device=tensor.device)
        bits = torch.cat(sums)
        if len(bits) == 1:
            return bits[0]


def tensors_of(state: dict[str, Any], names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a run's state with a name that a person finds it by; `names` of the optimizer's parameters."""
    for name, tensor in state["weights"].items():
        yield name, tensor
    for name, tensor in state["average"].items():
        yield f"average of {name}", tensor
    for index, moments in state["optimizer"]["state"].items():
        for moment, tensor in moments.items():
            if isinstance(tensor, Tensor):
                yield f"{moment} of {names[index]}", tensor


def compare_program(meeting: Meeting, settings: dict[str, Any], versions: dict[str, str]) -> None:
    """UserError on all ranks when one has other code or other settings than the others."""
    named = os.environ.get(plugins.VARIABLE, "")
    meeting.compare(
        "versions",
        lambda: {**versions, "source": source_digest(), plugins.VARIABLE: named},
        "install and set the same on all nodes",
    )
    meeting.compare("settings", lambda: settings, "start all ranks by the same command")


def check(ranks: Ranks, samples_seen: int, state: dict[str, Any], names: list[str]) -> None:
    """RunFailed, on all ranks, when one holds another state than the others; it names the tensor and the ranks."""
    if ranks.world_size == 1:
        return
    labelled = dict(tensors_of(state, names))
    prints = torch.stack([fingerprint(tensor).cpu() for tensor in labelled.values()]).tolist()
    everywhere = ranks.gather([{"samples_seen": samples_seen} | dict(zip(labelled, prints, strict=True))])
    everyone = {key: None for held in everywhere for key in held}
    different = [name for name in everyone if len({held.get(name) for held in everywhere}) > 1]
    if not different:
        return
    held = [row.get(different[0]) for row in everywhere]
    odd = [rank for rank, value in enumerate(held) if held.count(value) < len(held) / 2]
    who = f"differing: rank(s) {', '.join(map(str, odd))}" if odd else f"{len(held)} ranks, {len(set(held))} versions"
    more = f" and of {len(different) - 1} more" if len(different) > 1 else ""
    raise of_all(
        RunFailed(
            f"ranks do not hold the same values of {different[0]}{more} at {samples_seen} samples ({who}). None of it "
            "was saved: run the same command again, and look at that rank's memory and network when it comes back"
        )
    )
