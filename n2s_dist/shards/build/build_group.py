"""Several nodes that build one set of shards together, by nothing but files in the folder that they share.

Each node does its share of a phase, writes down what came of it, and waits until all others have done so:

    PLACE/SESSION.PHASE.0-of-2.json, PLACE/SESSION.PHASE.1-of-2.json

A session is one try at a build: what nodes wrote in a try that was killed is never read. While a node lives it says so
every few seconds, so that nobody waits for one that is gone.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from n2s_dist.utils.errors import RunFailed, UserError
from n2s_dist.utils.files import atomic_write

T = TypeVar("T")

_HEARTBEAT_SEC = 5.0
_POLL_INTERVAL_SEC = 0.1


@dataclass(frozen=True)
class BuildGroup:
    """One node of those that build together; by itself unless told otherwise.

    node: counted from 0. session: a word that all nodes share and no earlier try had, such as a job's number.
    patience_sec: how long a silent node is waited for. place: the folder where they meet.
    """

    node: int = 0
    nodes: int = 1
    session: str = ""
    patience_sec: float = 300.0
    place: Path = Path()

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise UserError(f"--nodes is {self.nodes}: give how many nodes build together, at least 1")
        if not 0 <= self.node < self.nodes:
            raise UserError(f"--node is {self.node}: give a number from 0 to {self.nodes - 1}, one for each node")
        if self.nodes > 1 and not self.session.replace("-", "").replace("_", "").isalnum():
            raise UserError(
                f"--session is '{self.session}': give all nodes one word of letters and digits, a new one for each try"
            )

    @property
    def alone(self) -> bool:
        return self.nodes == 1

    @property
    def is_leader(self) -> bool:
        """Whether this is the node that tidies up and publishes."""
        return self.node == 0

    def share(self, work: list[T]) -> list[T]:
        """This node's part of a list that all nodes have."""
        return work[self.node :: self.nodes]

    def file(self, phase: str, node: int) -> Path:
        return self.place / f"{self.session}.{phase}.{node}-of-{self.nodes}.json"

    def exchange(self, phase: str, mine: Any) -> list[Any]:
        """What every node brings to a phase, in their order; waits for all. `mine` is anything that JSON holds.

        Raises RunFailed when a node has been silent for longer than patience_sec.
        """
        if self.alone:
            return [mine]
        self.bring(phase, mine)
        return [self.wait_for(node, partial(_read, self.file(phase, node)), phase) for node in range(self.nodes)]

    def bring(self, phase: str, mine: Any) -> None:
        """Write down this node's part of a phase, and go on."""
        with atomic_write(self.file(phase, self.node), durable=True) as partial_file:
            partial_file.write_text(json.dumps(mine))

    def wait_for(self, node: int, look: Callable[[], T | None], what: str) -> T:
        """What `look` returns once it is something; RunFailed when the node that it depends on is silent for long."""
        last_sign, since = self._sign_of_life(node), time.monotonic()
        while (found := look()) is None:
            if (sign := self._sign_of_life(node)) != last_sign:
                last_sign, since = sign, time.monotonic()
            elif time.monotonic() - since > self.patience_sec:
                raise RunFailed(
                    f"node {node} of {self.nodes} gave no sign of life for {self.patience_sec:g} s ({what}): "
                    "run the same command again on all nodes, in a new session"
                )
            time.sleep(_POLL_INTERVAL_SEC)
        return found

    def _sign_of_life(self, node: int) -> int:
        """Changes as long as the node lives. Clocks differ between nodes, so its value says nothing."""
        try:
            return self.file("alive", node).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Within, the other nodes see that this one lives."""
        if self.alone:
            yield
            return
        path, over = self.file("alive", self.node), threading.Event()
        path.touch()

        def beat() -> None:
            while not over.wait(_HEARTBEAT_SEC):
                with contextlib.suppress(OSError):  # the leader removes it once the set is published
                    os.utime(path)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


ALONE = BuildGroup()


def _read(path: Path) -> Any:
    """A file's content, or None before it is there."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
