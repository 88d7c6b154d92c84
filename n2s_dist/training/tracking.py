"""Where curves, pictures and tables of a run go: metrics.jsonl always, wandb when wanted.

Only rank 0 has a tracker that does anything; the others hold a null object.
"""

import contextlib
import json
import math
import netrc
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult, urlparse

import numpy as np

from n2s_dist.config.schema import Config, to_dict
from n2s_dist.utils.files import atomic_write

_INIT_TIMEOUT_SEC = 60
_CONNECT_TIMEOUT_SEC = 5
_FINISH_TIMEOUT_SEC = 20  # for what was not uploaded along the way; torchrun kills 30 s after a signal
Metrics = Mapping[str, float | list[float]]  # a list holds one value a rank


class NullTracker:
    """Takes everything and keeps nothing."""

    def log(self, samples_seen: int, metrics: Metrics) -> None: ...

    def picture(self, samples_seen: int, name: str, image: np.ndarray) -> None: ...

    def close(self) -> None: ...


class Tracker(NullTracker):
    """Writes RUN_DIR/metrics.jsonl, one JSON object a line, and mirrors it to a wandb run if there is one."""

    def __init__(self, run_dir: Path, samples_seen: int, wandb_run: Any = None) -> None:
        path = run_dir / "metrics.jsonl"
        forget_after(path, samples_seen)
        self._stream = path.open("a")
        self._wandb = wandb_run

    def log(self, samples_seen: int, metrics: Metrics) -> None:
        row = {"samples_seen": samples_seen, **metrics}
        self._stream.write(json.dumps({key: _finite(value) for key, value in row.items()}) + "\n")
        self._stream.flush()
        self._mirror(one_value_a_key(row))

    def picture(self, samples_seen: int, name: str, image: np.ndarray) -> None:
        """image: uint8 [H, W, C]."""
        if self._wandb:
            import wandb

            self._mirror({"samples_seen": samples_seen, name: wandb.Image(image)})

    def close(self) -> None:
        self._stream.close()
        if self._wandb:
            with self._going_on_without_wandb():
                self._wandb.finish()

    def _mirror(self, row: dict[str, Any]) -> None:
        if self._wandb:
            with self._going_on_without_wandb():
                self._wandb.log(row)

    @contextlib.contextmanager
    def _going_on_without_wandb(self) -> Iterator[None]:
        """wandb's own process, or its server, may be gone at any time, in ways that it raises many errors for."""
        try:
            yield
        except Exception as error:
            self._wandb = None
            print(f"wandb failed ({type(error).__name__}: {error}); curves go on in metrics.jsonl")


def _finite(value: float | list[float]) -> Any:
    """The value with null for what is not finite: JSON knows no NaN."""
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value if math.isfinite(value) else None


def one_value_a_key(row: Metrics) -> dict[str, float]:
    """A list's values under keys of their own, as step_ms_by_rank/3: wandb draws no curves of lists."""
    out: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, list):
            out |= {f"{key}/{index}": each for index, each in enumerate(value)}
        else:
            out[key] = value
    return out


def forget_after(path: Path, samples_seen: int) -> None:
    """Drop lines past samples_seen: a killed run logged them, and its continuation will log them again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill cut short
            continue
        if row["samples_seen"] <= samples_seen:
            kept.append(line)
    with atomic_write(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in kept))


def open_tracker(config: Config, run_dir: Path, samples_seen: int, is_main: bool, job: str = "train") -> NullTracker:
    """The tracker of this rank. Never asks a question and never waits longer than a minute."""
    if not is_main:
        return NullTracker()
    return Tracker(run_dir, samples_seen, open_wandb(config, run_dir, job) if config.tracking.wandb else None)


def _wandb_mode() -> str:
    """What the environment says; else online when there is a key and the server answers, else offline."""
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    if not has_key():
        return "offline"
    server = _server()
    try:
        port = server.port or (443 if server.scheme == "https" else 80)
        socket.create_connection((server.hostname or "", port), _CONNECT_TIMEOUT_SEC).close()
    except OSError:
        return "offline"
    return "online"


def has_key() -> bool:
    """Whether there is a key for wandb's server, in the environment or stored by `wandb login`."""
    return bool(os.environ.get("WANDB_API_KEY")) or _has_netrc_entry(_server().hostname or "")


def _server() -> ParseResult:
    import wandb

    return urlparse(wandb.setup().settings.base_url)


def _has_netrc_entry(host: str) -> bool:
    """Whether `wandb login` has stored a key for this host."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def open_wandb(config: Config, run_dir: Path, job: str) -> Any:
    """The wandb run of a run directory, begun or gone on with; None where wandb can't, which it says."""
    import wandb

    id_file = run_dir / "wandb_id"
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
    mode = _wandb_mode()
    for attempt in (mode, "offline"):
        try:
            run = wandb.init(
                project=config.tracking.project,
                name=config.tracking.name or run_dir.resolve().name,
                id=id_file.read_text().strip(),
                dir=str(run_dir),
                config=to_dict(config),
                job_type=job,
                mode=attempt,  # type: ignore[arg-type]
                resume="allow" if attempt == "online" else None,  # offline runs can't resume; syncing joins them by id
                settings=wandb.Settings(
                    init_timeout=_INIT_TIMEOUT_SEC, finish_timeout=_FINISH_TIMEOUT_SEC, silent=True, console="off"
                ),
            )
        except Exception as error:
            print(f"wandb {attempt}: {error}")
            wandb.teardown()  # its process would hold on to the id of the run that it could not begin
            continue
        # Each value has its own clock, so nothing is dropped for coming late.
        run.define_metric("samples_seen")
        run.define_metric("*", step_metric="samples_seen")
        if attempt != "online":
            print(f"wandb is {attempt}; `wandb sync {run_dir}/wandb/offline-run-*` uploads it later")
        return run
    return None
