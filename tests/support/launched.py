"""Ranks that are started as torchrun starts them."""

import subprocess
import sys

from support.forked_ranks import free_port
from support.patience import HANG_SEC

TIMEOUT_SEC = HANG_SEC


class Launched:
    """Ranks of one program, started with the variables that torchrun sets."""

    def __init__(self, count: int, arguments: list[str], environment: dict[str, str]) -> None:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "1"}
        self.ranks = []
        for rank in range(count):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, **shared}
            variables = environment | {key: str(value) for key, value in own.items()}
            command, pipe = [sys.executable, "-m", *arguments], subprocess.PIPE
            self.ranks.append(
                subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
            )

    def wait(self) -> tuple[list[int], str, str]:
        """Exit codes, and all that the ranks wrote."""
        try:
            written = [rank.communicate(timeout=TIMEOUT_SEC) for rank in self.ranks]
        finally:
            self.kill()
        return (
            [rank.returncode for rank in self.ranks],
            "".join(out for out, _ in written),
            "".join(e for _, e in written),
        )

    def kill(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.wait()
