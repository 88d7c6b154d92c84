"""Where curves, pictures and tables of a run go: metrics.jsonl always, wandb when wanted.

Only rank 0 has a tracker that does anything; the others hold a null object.
"""

import contextlib
import json
import math
import netrc
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult, urlparse

import numpy as np

from n2s_dist.config.schema import Config, to_dict
from n2s_dist.utils.errors import UserError, warn_once
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
    """Writes RUN_DIR/metrics.jsonl, one JSON object a line, and mirrors it to a wandb run if there is one.

    What a full disk does not take is kept for the next time.
    """

    def __init__(self, run_dir: Path, samples_seen: int, wandb_run: Any = None) -> None:
        self._path = run_dir / "metrics.jsonl"
        forget_after(self._path, samples_seen)
        self._stream = self._path.open("ab", buffering=0)
        self._unwritten = b""
        self._wandb = wandb_run

    def log(self, samples_seen: int, metrics: Metrics) -> None:
        row = {"samples_seen": samples_seen, **metrics}
        self._unwritten += (json.dumps({key: _finite(value) for key, value in row.items()}) + "\n").encode()
        self._write()
        self._mirror(one_value_a_key(row))

    def _write(self) -> None:
        """Append what is not written yet, all of it or nothing."""
        end = os.fstat(self._stream.fileno()).st_size
        try:
            left = memoryview(self._unwritten)
            while left:
                left = left[self._stream.write(left) :]
            self._unwritten = b""
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._stream.fileno(), end)
            warn_once("metrics", f"{self._path} can't be written ({error.strerror}): the run goes on, and tries again")

    def picture(self, samples_seen: int, name: str, image: np.ndarray) -> None:
        """image: uint8 [H, W, C]."""
        if self._wandb:
            with self._going_on_without_wandb():
                import wandb

                self._wandb.log({"samples_seen": samples_seen, name: wandb.Image(image)})

    def close(self) -> None:
        with contextlib.suppress(OSError):
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
            print(f"wandb failed ({one_line(error)}); curves go on in metrics.jsonl")


def one_line(error: Exception) -> str:
    """What wandb raised, in a line."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())[:200]


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
    """Drop lines past samples_seen: a killed run logged them, and its continuation will log them again.

    What is no row of metrics goes as well.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill cut short
            continue
        if isinstance(row, dict) and isinstance(seen := row.get("samples_seen"), int) and seen <= samples_seen:
            kept.append(line)
    with atomic_write(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in kept))


def open_tracker(config: Config, run_dir: Path, samples_seen: int, is_main: bool, job: str = "train") -> NullTracker:
    """The tracker of this rank. Never asks a question and never waits longer than a minute."""
    if not is_main:
        return NullTracker()
    return Tracker(
        run_dir, samples_seen, open_wandb(config, run_dir, job, samples_seen) if config.tracking.wandb else None
    )


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
    """Where wandb's server is. Raises UserError for an address that is none."""
    import wandb

    try:
        url = urlparse(wandb.setup().settings.base_url)
        url.port  # noqa: B018  # which is read only now
    except Exception as error:
        address = os.environ.get("WANDB_BASE_URL")
        named = f" with WANDB_BASE_URL {address}" if address else ""
        raise UserError(f"wandb can't be set up{named} ({one_line(error)})") from None
    return url


def _has_netrc_entry(host: str) -> bool:
    """Whether `wandb login` has stored a key for this host."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def open_wandb(config: Config, run_dir: Path, job: str, samples_seen: int = 0) -> Any:
    """A wandb run, online or offline; None where neither can be, with a line that says why: the run trains anyway.

    All that a run logs is one wandb run, under the id in RUN_DIR/wandb_id, but for what is logged offline later than at
    its beginning: wandb would upload that in place of what was logged before. It gets an id and the same group.
    """
    _do_without_home(run_dir)
    for mode in (None, "offline"):
        try:
            return _start_wandb(config, run_dir, job, samples_seen, mode or _wandb_mode())
        except Exception as error:
            print(f"wandb {mode or 'online'}: {one_line(error)}")
            _start_over()
    print("wandb is left out: curves go to metrics.jsonl alone")
    return None


def _start_wandb(config: Config, run_dir: Path, job: str, samples_seen: int, mode: str) -> Any:
    import wandb

    own_id, part = _run_id(run_dir), {"train": samples_seen}.get(job, job)
    run = wandb.init(
        project=config.tracking.project,
        name=config.tracking.name or run_dir.resolve().name,
        id=own_id if mode == "online" or not part else f"{own_id}-{part}",
        group=own_id,
        dir=str(run_dir),
        config=to_dict(config),
        job_type=job,
        mode=mode,  # type: ignore[arg-type]
        resume="allow" if mode == "online" else None,
        settings=wandb.Settings(
            init_timeout=_INIT_TIMEOUT_SEC, finish_timeout=_FINISH_TIMEOUT_SEC, silent=True, console="off"
        ),
    )
    # Each value has its own clock, so nothing is dropped for coming late.
    run.define_metric("samples_seen")
    run.define_metric("*", step_metric="samples_seen")
    if mode != "online":
        print(f"wandb is {mode}; `wandb sync {run_dir}/wandb/offline-run-*` uploads it later")
    return run


def _do_without_home(run_dir: Path) -> None:
    """Name folders for wandb's settings and caches where there is no home to have them in, as in some containers."""
    try:
        Path.home()
    except RuntimeError:
        for kind in ("CONFIG", "CACHE", "DATA"):
            os.environ.setdefault(f"WANDB_{kind}_DIR", str(run_dir / "wandb"))


def _start_over() -> None:
    """Forget what failed: wandb's process would hold on to an id; the environment may name what is not there."""
    for name in ("WANDB_SERVICE", "WANDB_BASE_URL"):
        os.environ.pop(name, None)
    with contextlib.suppress(Exception):
        import wandb

        wandb.teardown()


def _run_id(run_dir: Path) -> str:
    """The run's id for wandb, from RUN_DIR/wandb_id; a new one where there is none, or where a full disk left none."""
    path = run_dir / "wandb_id"
    known = path.read_text(errors="replace").strip() if path.exists() else ""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", known):
        return known
    made = secrets.token_hex(4)
    with atomic_write(path) as partial:
        partial.write_text(made)
    return made
