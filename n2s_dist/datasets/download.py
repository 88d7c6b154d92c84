"""Fetch one file over HTTP, through broken connections, restarts of the program and mirrors.

    FILE.part         the bytes so far
    FILE.part.json    which URL they come from, the server's name for that version, and how many there will be

A request for the rest carries If-Range, so that bytes of two versions never end up in one file.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib import request
from urllib.error import HTTPError, URLError

from tqdm import tqdm

from n2s_dist import __version__
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write

LARGEST_BYTES = 64 * 2**30  # of a download, and of what an archive unpacks to; DIV2K's has 3.5 GB
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that may be better the next time
_LONGEST_PAUSE_SEC = 60
_CHUNK = 2**16


@dataclass(frozen=True)
class Connection:
    """timeout_sec without a byte ends an attempt; tries in a row without progress end a URL; pauses double."""

    timeout_sec: float = 30
    tries: int = 5
    pause_sec: float = 1

    def __post_init__(self) -> None:
        if not 0 < self.timeout_sec < 1e6:
            raise UserError(f"--timeout is {self.timeout_sec}: give a number of seconds above 0")
        if self.tries < 1:
            raise UserError(f"--tries is {self.tries}: give at least 1")


@dataclass(frozen=True)
class _State:
    """What FILE.part.json holds. `validator` is an ETag or a date, empty where the server gives none."""

    url: str
    validator: str
    total: int | None


class _GaveUp(Exception):
    """A URL will not do; the message says why."""


class _NotWritten(Exception):
    """The disk refused, not the network."""

    def __init__(self, error: OSError) -> None:
        self.error = error


def download(urls: Sequence[str], part: Path, check: Callable[[Path], None], network: Connection) -> str:
    """Fetch `part` from the first URL whose file passes `check`, and return that URL.

    `check` raises UserError to refuse a complete file, which is then thrown away. Raises UserError with every URL and
    why it would not do; OSError, naming the file, when the disk can't take it.
    """
    reasons = []
    for url in urls:
        try:
            _fetch(url, part, network)
        except _GaveUp as reason:
            reasons.append(f"{url} ({reason})")
            continue
        except _NotWritten as failure:
            raise OSError(failure.error.errno, failure.error.strerror, str(part)) from None
        try:
            check(part)
        except UserError as reason:
            discard(part)
            reasons.append(f"{url} ({reason})")
        else:
            return url
    raise UserError("; ".join(reasons))


def discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _fetch(url: str, part: Path, network: Connection) -> None:
    """Try until `part` is complete, or until `tries` attempts in a row have not got further than any before."""
    furthest, failures, reason = _size(part), 0, ""
    while failures < network.tries:
        if reason:
            time.sleep(min(_LONGEST_PAUSE_SEC, network.pause_sec * 2**failures))
        try:
            reason = _attempt(url, part, network)
        except HTTPError as error:
            reason = f"{error.code} {error.reason}"
            if error.code == 416:  # the server has no such bytes
                discard(part)
            elif error.code not in _PASSING:
                raise _GaveUp(reason) from None
        except TimeoutError:
            reason = f"no answer within {network.timeout_sec:g} s"
        except URLError as error:
            late = isinstance(error.reason, TimeoutError)
            reason = f"no answer within {network.timeout_sec:g} s" if late else _one_line(error.reason)
        except (OSError, HTTPException) as error:
            reason = _one_line(error)
        if not reason:
            return
        failures = 0 if _size(part) > furthest else failures + 1
        furthest = max(furthest, _size(part))
    raise _GaveUp(reason)


def _attempt(url: str, part: Path, network: Connection) -> str:
    """One request. Returns an empty string when `part` is complete, else what went wrong."""
    state, have = _read_state(part), _size(part)
    if not have or state is None or state.url != url or not state.validator:
        state, have = None, 0
    if state and have == state.total:
        return ""
    headers = {"Range": f"bytes={have}-", "If-Range": state.validator} if state else {}
    with _opener().open(request.Request(url, headers=headers), timeout=network.timeout_sec) as response:
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not (state and found and int(found[1]) == have and state.total in (None, int(found[2]))):
                discard(part)
                return "the server sent another part of the file than it was asked for"
            state = _State(url, state.validator, int(found[2]))
        elif response.status != 200:
            return f"{response.status} {response.reason}"
        else:  # the whole file: a first request, another version than ours, or a server that knows no ranges
            state, have = _State(url, _validator(response), _content_length(response)), 0
        _check_size(state.total, have, part)
        with _writing(part, have, state) as write, _progress(part, have, state.total) as bar:
            while chunk := response.read1(_CHUNK):
                write(chunk)
                bar.update(len(chunk))
                have += len(chunk)
                if have > LARGEST_BYTES:
                    discard(part)
                    raise _GaveUp(f"it is larger than {LARGEST_BYTES / 2**30:.0f} GiB")
    if state.total is not None and have != state.total:
        return f"the connection ended after {have} of {state.total} bytes"
    _write_state(part, _State(url, state.validator, have))
    return ""


def _opener() -> request.OpenerDirector:
    """HTTP, HTTPS and proxies alone: the standard opener would follow a redirection to FTP."""
    opener = request.OpenerDirector()
    opener.addheaders = [("User-Agent", f"n2s_dist/{__version__}")]
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
        request.HTTPDefaultErrorHandler,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _validator(response: HTTPResponse) -> str:
    """What If-Range may carry: a strong ETag, else a date, else nothing, and then no download is resumed."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _content_length(response: HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _check_size(total: int | None, have: int, part: Path) -> None:
    if total is None:
        return
    if total > LARGEST_BYTES:
        raise _GaveUp(f"it is larger than {LARGEST_BYTES / 2**30:.0f} GiB")
    if total - have > shutil.disk_usage(part.parent).free + (0 if have else _size(part)):
        raise UserError(
            f"the disk is full: {part.parent} has not the {(total - have) / 2**20:.0f} MiB free that the download needs"
        )


# --- on the disk ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _writing(part: Path, have: int, state: _State) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that appends to `part` after its first `have` bytes, unbuffered, so that a kill loses little."""
    with _disk_errors():
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        if not have and _size(part):
            with _disk_errors():
                os.ftruncate(descriptor, 0)  # before the new state is written: old bytes never go by a new name
        _write_state(part, state)

        def write(chunk: bytes) -> None:
            rest = memoryview(chunk)
            with _disk_errors():
                while rest:
                    rest = rest[os.write(descriptor, rest) :]

        yield write
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _NotWritten(error) from None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path) -> _State | None:
    try:
        return _State(**json.loads(_state_path(part).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_state(part: Path, state: _State) -> None:
    with _disk_errors(), atomic_write(_state_path(part)) as new:
        new.write_text(json.dumps(asdict(state)))


def _progress(part: Path, have: int, total: int | None) -> tqdm:
    return tqdm(desc=part.stem, initial=have, total=total, unit="B", unit_scale=True, unit_divisor=1024, leave=False)


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__
