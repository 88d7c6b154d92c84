"""Ranks meet before any of them works: all are there, all were given the same, and what rank 0 chose is what all take.

    rank k ──► digest of what it was given ──► rank 0 compares ──► the same for all ranks: go on, or one line and an end

They talk through the store of PyTorch's rendezvous, which rank 0 or the launcher hosts: small texts, no device, no
process group. So waiting is interruptible, a rank that never comes can be named, and a mistake that one rank alone
meets ends all of them with that rank's line. Alone, a process has nobody to wait for.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from torch import distributed

import n2s_dist
from n2s_dist.distributed import stop_signals
from n2s_dist.distributed.launched import settle
from n2s_dist.distributed.rank_messages import difference_between, named_ranks, outcome_of
from n2s_dist.utils.errors import (
    Ended,
    RunFailed,
    UserError,
    is_told,
    mark_told,
    of_all,
    speak_as,
    tell,
)

T = TypeVar("T")

PATIENCE_SEC = 300.0  # for a rank to come, or to do what it does between two exchanges
SAY_SEC = 10.0  # after which whoever waits says for whom
_HEARD_SEC = 10.0  # for rank 0 to print another rank's line
_LOOK_SEC = (0.005, 0.1)  # between two looks at the store, at first and in the end
_MOST_FACTS = 2_000  # of one rank, when they are compared one by one
_meetings = count()  # of this process, so that no two of them share what ranks wrote


class Meeting:
    """What ranks do together until all are ready to work. As a context, it ends all of them when one fails.

    Every method but the properties is called by all ranks, in the same order.
    """

    def __init__(self) -> None:
        self.launch, unused = settle()
        speak_as(self.launch.rank)
        if unused and self.launch.is_main:
            print(f"note: {unused}", file=sys.stderr)
        self._name = f"meeting-{next(_meetings)}"
        self._store: distributed.Store | None = None
        self._number = 0  # of exchanges that have ended
        self._expected = {*range(self.launch.world_size)} - {self.launch.rank}  # ranks that are there or may still come
        self._is_over = self.launch.is_alone

    # --- what ranks do together -----------------------------------------------------------------------------

    def compare(self, what: str, facts: Callable[[], Mapping[str, object]], advice: str) -> None:
        """Raises UserError on all ranks when one has other facts than the others; it names the rank and a fact.

        what: "settings", say. facts: give texts and figures by name. advice: how ranks come to have the same.
        """
        if self._is_over:
            return
        mine = {name: str(value) for name, value in facts().items()}
        digest = hashlib.sha256(json.dumps(sorted(mine.items())).encode()).hexdigest()
        if self._exchange(digest, lambda digests: len(set(digests)) == 1):
            return
        shown = dict(list(mine.items())[:_MOST_FACTS])
        mine_and_host = json.dumps([socket.gethostname(), shown])
        difference = self._exchange(
            mine_and_host, lambda rows: difference_between(what, [json.loads(row) for row in rows])
        )
        raise of_all(UserError(f"{difference}: {advice}"))

    def from_main(self, choose: Callable[[], T]) -> T:
        """What rank 0 chooses, on all ranks: anything that JSON keeps."""
        if self._is_over:
            return choose()
        return self._exchange("", lambda _: choose())

    def ready(self) -> None:
        """Returns once all ranks have come here. None of them failed before."""
        if not self._is_over:
            self._exchange("", lambda _: True)

    def close(self) -> None:
        """From here on ranks talk by other means."""
        self._is_over = True

    def store(self, name: str) -> distributed.Store:
        """A part of the store for others' use."""
        return distributed.PrefixStore(name, self._connected())

    # --- how an exchange goes -------------------------------------------------------------------------------

    def _exchange(self, text: str, decide: Callable[[list[str]], T]) -> T:
        """What rank 0 decides upon the texts of all ranks, on all ranks."""
        store = self._connected()
        if self.launch.is_main:
            decided = decide([text, *self._collect(store)])
            self._post({"decided": decided, "world_size": self.launch.world_size})
        else:
            store.set(f"{self._number}/{self.launch.rank}", text)
            key = f"{self._number}/decided"
            self._wait(lambda: [] if store.check([key]) else [0], 1.5 * PATIENCE_SEC)  # rank 0 knows who is missing
            answer = json.loads(store.get(key))
            if "failed" in answer:
                raise self._failed_elsewhere(answer["failed"])
            if answer["world_size"] != self.launch.world_size:
                raise UserError(
                    f"WORLD_SIZE is {self.launch.world_size} here and {answer['world_size']} on rank 0: "
                    "let one launcher start all ranks"
                )
            decided = answer["decided"]
        self._number += 1
        return decided

    def _collect(self, store: distributed.Store) -> list[str]:
        """On rank 0: the texts of all others, in their order. Raises what another rank failed with."""
        keys = [f"{self._number}/{rank}" for rank in range(1, self.launch.world_size)]

        def missing() -> list[int]:
            if store.check(["failed"]):
                raise self._failed_elsewhere(json.loads(store.get("failed")))
            if store.check(keys):
                return []
            return [rank for rank, key in enumerate(keys, 1) if not store.check([key])]

        self._wait(missing)
        return [store.get(key).decode() for key in keys]

    def _post(self, answer: dict[str, Any]) -> None:
        self._connected().set(f"{self._number}/decided", json.dumps(answer))

    def _wait(self, missing: Callable[[], list[int]], patience_sec: float | None = None) -> None:
        """Until no rank is missing. Raises RunFailed, which names those that are, when patience ends."""
        patience = PATIENCE_SEC if patience_sec is None else patience_sec
        begin, pause, said = time.monotonic(), _LOOK_SEC[0], False
        while True:
            try:
                absent = missing()
            except distributed.DistError:
                self._expected.discard(0)
                if stop_signals.told_to_end():
                    raise Ended(f"ended by {signal.SIGTERM.name}, and so is rank 0") from None
                raise RunFailed("rank 0 has ended, and its own message says why, unless it was killed") from None
            if not absent:
                return
            waited = time.monotonic() - begin
            if waited > patience:
                self._expected -= {*absent}
                late = f"{named_ranks(absent)} of {self.launch.world_size} did not come within {patience:g} s"
                raise RunFailed(f"{late}{self._where}: run the same command again")
            if waited > SAY_SEC and not said and self.launch.local_rank == 0:
                print(
                    f"rank {self.launch.rank} waits for {named_ranks(absent)}{self._where}", file=sys.stderr, flush=True
                )
                said = True
            if stop_signals.told_to_end():
                raise Ended(f"ended by {signal.SIGTERM.name} while it waited for {named_ranks(absent)}")
            time.sleep(pause)
            pause = min(2 * pause, _LOOK_SEC[1])

    @property
    def _where(self) -> str:
        return "" if self.launch.is_main else f" ({self.launch.address}, port {self.launch.port})"

    def _connected(self, patience_sec: float | None = None) -> distributed.Store:
        if self._store is None:
            self._store = self._connect(patience_sec)
            # Twice the same rank: a variable of another start, or two launchers at one place.
            if self._store.add(f"here/{self.launch.rank}", 1) > 1:
                raise UserError(
                    f"another process is rank {self.launch.rank} as well at {self.launch.address}, port "
                    f"{self.launch.port}: let one launcher start all ranks, or give another port"
                )
        return self._store

    def _connect(self, patience_sec: float | None) -> distributed.Store:
        launch = self.launch
        hosts = launch.is_main and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        if not hosts:
            self._wait(lambda: [] if _answers(launch.address, launch.port) else [0], patience_sec)
        try:
            store = distributed.TCPStore(
                launch.address, launch.port, is_master=hosts, timeout=timedelta(seconds=PATIENCE_SEC),
                wait_for_workers=False, multi_tenant=hosts,
            )  # fmt: skip
        except distributed.DistNetworkError as error:
            raise UserError(
                f"ranks can't meet at {launch.address}, port {launch.port} ({str(error).splitlines()[0]}): "
                "give another port, such as --main_process_port of accelerate launch"
            ) from None
        # A launcher that starts ranks again keeps its store.
        return distributed.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{self._name}", store)

    # --- how it ends when a rank fails ----------------------------------------------------------------------

    def __enter__(self) -> "Meeting":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_ended, self._is_over = self._is_over, True
        has_nobody = not self._expected if self.launch.is_main else 0 not in self._expected
        if error is None or is_ended or has_nobody or (isinstance(error, SystemExit) and not error.code):
            return
        is_hasty = isinstance(error, KeyboardInterrupt | Ended)
        with contextlib.suppress(distributed.DistError, RunFailed, UserError, KeyboardInterrupt):
            if is_hasty and self._store is None:
                return
            if self.launch.is_main:
                self._tell_all(error, is_hasty)
            else:
                self._tell_main(error)

    def _tell_all(self, error: BaseException, is_hasty: bool) -> None:
        """On rank 0: print the line, and stay until all others know, also those that are still starting."""
        code, message, known = outcome_of(error)
        if known:
            tell(error, message)
        store = self._connected()
        store.set("told", "")
        self._post({"failed": {"rank": 0, "code": code, "message": message, "is_told": True}})
        keys = [f"knows/{rank}" for rank in self._expected]
        deadline = time.monotonic() + (2.0 if is_hasty else PATIENCE_SEC / 10)
        while not store.check(keys) and time.monotonic() < deadline and (is_hasty or not stop_signals.told_to_end()):
            time.sleep(_LOOK_SEC[1])

    def _tell_main(self, error: BaseException) -> None:
        """On another rank: have rank 0 print the line and end all others; print it here when rank 0 does not."""
        code, message, known = outcome_of(error)
        is_told_by_main = is_told(error)
        try:
            store = self._connected(_HEARD_SEC)
        except RunFailed:  # rank 0 may still be starting
            if known:
                tell(error, message)
            self._expected.add(0)
            store = self._connected()
        if not is_told_by_main:
            failure = {"rank": self.launch.rank, "code": code, "message": message, "is_told": is_told(error)}
            store.compare_set("failed", "", json.dumps(failure))
            deadline = time.monotonic() + _HEARD_SEC
            while not store.check(["told"]) and time.monotonic() < deadline:
                time.sleep(_LOOK_SEC[1])
            if known and store.check(["told"]):
                of_all(error)
        store.set(f"knows/{self.launch.rank}", "")

    def _failed_elsewhere(self, failure: dict[str, Any]) -> BaseException:
        """What another rank failed with, as an error of this one. Rank 0 prints it, unless that rank has done so."""
        kind = {2: UserError, Ended.exit_code: Ended}.get(failure["code"], RunFailed)
        where = f"rank {failure['rank']}: " if failure["rank"] else ""
        error = of_all(kind(where + failure["message"]))
        return mark_told(error) if failure["is_told"] else error


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def source_digest() -> str:
    """SHA-256 of the package's source as it is installed here, shortened."""
    total, root = hashlib.sha256(), Path(n2s_dist.__file__).parent
    for path in sorted(root.rglob("*.py")):
        total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()[:12]
