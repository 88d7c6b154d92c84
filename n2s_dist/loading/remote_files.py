"""Files at a URL, read through fsspec (http, https, s3, ...) by someone who expects faults.

    connection refused, 5xx, silence, a body cut short ──► tried again from where it ended, after growing pauses
    a whole file with wrong bytes                      ──► tried again from the start, then refused

Credentials come from the environment, never from a URL: URLs are stored with runs.
"""

import contextlib
import errno
import hashlib
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from n2s_dist.utils.errors import RunFailed, UserError

_READ = 8 * 2**20  # bytes asked for at a time: long enough to hide a store's latency, little beside a shard
# Of one HTTP answer there is no latency to hide, and aiohttp reads ahead up to three times what it is asked for. What
# it holds when the connection ends is lost: less than what counts as getting further.
_READ_HTTP = 2**18
_FURTHER = 2**20  # a try that brought so many bytes got further
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_jitter = random.SystemRandom()  # no run's random numbers depend on its network


@dataclass(frozen=True)
class Patience:
    """How long faults are borne: about a minute of pauses, and as long again where a server only stalls.

    tries: failures in a row, without getting further, after which we give up. first_pause_sec: doubles
    with each failure. timeout_sec: of a connection, and of silence on one. wrong_tries: whole files with
    wrong bytes after which we give up.
    """

    tries: int = 6
    first_pause_sec: float = 2.0
    timeout_sec: float = 30.0
    wrong_tries: int = 3


PATIENCE = Patience()


class Closed(RunFailed):
    """The run ended while something was still being fetched."""


class Pauses:
    """Counts failures in a row and waits after each; RunFailed when patience ends, Closed when `stop` is set."""

    def __init__(self, url: str, patience: Patience, stop: threading.Event) -> None:
        self._url, self._patience, self._stop, self._failures = url, patience, stop, 0

    def after(self, error: Exception, got_further: bool = False) -> None:
        self._failures = 1 if got_further else self._failures + 1
        if self._failures >= self._patience.tries:
            raise RunFailed(f"{self._url} can't be read, {self._failures} tries failed: {reason(error)}") from None
        pause = self._patience.first_pause_sec * 2 ** (self._failures - 1)
        if self._stop.wait(pause * _jitter.uniform(0.75, 1.25)):
            raise Closed(f"{self._url} was not read to its end: the run has ended")


def reason(error: Exception) -> str:
    """One line; some errors of the network have no words of their own, and aiohttp's repeat the URL."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 300:
        return f"HTTP status {status}"
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return " ".join(str(error).split()) or type(error).__name__


def refuse_secrets(url: str) -> None:
    """UserError when a folder's URL carries credentials, or is none: configurations are stored with their runs."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError(f"data.shards is no URL ({error}): give a folder's, such as https://HOST/shards") from None
    if "::" in url:
        raise UserError("data.shards is a chain of URLs ('::'): give the folder's own; shards are cached in any case")
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.password or (parts.username and parts.scheme in ("http", "https")):
        raise UserError(
            f"data.shards {shown} was given with a user's name or password: URLs are stored with the run, so give "
            "secrets in the environment (AWS_*, or ~/.netrc for http)"
        )
    if parts.query or parts.fragment:
        raise UserError(
            f"data.shards {shown} was given with '?' or '#': give the folder's plain URL; signatures and tokens would "
            "be stored with the run, so give secrets in the environment"
        )


class RemoteFolder:
    """A folder at a URL, read-only."""

    def __init__(self, url: str, patience: Patience, stop: threading.Event) -> None:
        refuse_secrets(url)
        self.url, self._patience, self._stop = url.rstrip("/"), patience, stop
        self._is_http = urlsplit(url).scheme in ("http", "https")
        self._files, self._path = _file_system(self.url, patience.timeout_sec)

    def read(self, name: str) -> bytes:
        """A small file, whole. Raises UserError when there is none, or none for us."""
        url = f"{self.url}/{name}"
        pauses = Pauses(url, self._patience, self._stop)
        while True:
            try:
                return self._files.cat_file(f"{self._path}/{name}")
            except Exception as error:  # whatever the file system at hand raises
                if isinstance(error, FileNotFoundError):
                    raise UserError(
                        f"{url} does not exist: data.shards takes the URL of a whole folder of shards"
                    ) from None
                if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
                    raise UserError(
                        f"{url} is not for us to read ({reason(error)}): give credentials in the environment (AWS_*)"
                    ) from None
                if type(error).__name__ == "NoCredentialsError":
                    raise UserError(
                        f"{url} needs credentials: give them in the environment (AWS_*), or FSSPEC_S3_ANON=true"
                    ) from None
                pauses.after(error)

    def fetch(self, name: str, size: int, sha256: str, file: IO[bytes]) -> None:
        """Bring a file of ours, which may hold the beginning already, to the `size` bytes that have this sha256.

        Raises RunFailed, with the URL and the last reason, when patience ends; OSError, with the file's
        name, for faults of our own disk.
        """
        url = f"{self.url}/{name}"
        pauses, wrong = Pauses(url, self._patience, self._stop), 0
        while True:
            begin = file.seek(0, os.SEEK_END)
            try:
                found = self._append(name, size, file)
            except Closed:
                raise
            except Exception as error:  # whatever the file system at hand raises
                if isinstance(error, OSError) and error.errno in _DISK_FAULTS:
                    raise OSError(error.errno, error.strerror, file.name) from None
                if getattr(error, "status", None) == 416:  # where we would go on there is nothing: it was another file
                    file.truncate(0)
                pauses.after(error, got_further=file.seek(0, os.SEEK_END) >= begin + _FURTHER)
                continue
            if found == sha256:
                return
            file.truncate(0)
            wrong += 1
            failure = RunFailed(f"{url} has wrong bytes (sha256 {found}, expected {sha256}), {wrong} times in a row")
            if wrong >= self._patience.wrong_tries:
                raise failure
            pauses.after(failure)

    def _append(self, name: str, size: int, file: IO[bytes]) -> str:
        """One try to complete the file; returns the sha256 of all that it holds then."""
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
        have = file.seek(0, os.SEEK_END)
        if have < size:
            with self._stream(name, have, size) as (begin, blocks):
                if begin != have:
                    file.truncate(0)
                    digest, have = hashlib.sha256(), 0
                for block in blocks:
                    if self._stop.is_set():
                        raise Closed(f"{self.url}/{name} was not read to its end: the run has ended")
                    file.write(block)
                    digest.update(block)
                    have += len(block)
                    if have > size:  # wrong already: no need to see how long it is
                        break
        file.flush()
        os.fsync(file.fileno())
        if have < size:
            raise EOFError(f"it ended after {have} of {size} bytes")
        return digest.hexdigest()

    @contextlib.contextmanager
    def _stream(self, name: str, offset: int, size: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Where the bytes begin, and the bytes, in blocks: at `offset`, or at 0 where the server can't skip.

        size: of the whole file as promised; saves asking for it.
        """
        path = f"{self._path}/{name}"
        if self._is_http:
            # One request for all the rest. fsspec's seekable HTTP files would make one for each block, fail on servers
            # without ranges, and report every fault of a server as a missing file.
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
            with self._files.open(path, "rb", block_size=0, size=size, headers=headers) as file:
                yield offset if file.r.status == 206 else 0, iter(lambda: file.read(_READ_HTTP), b"")
        else:
            with self._files.open(path, "rb", cache_type="none") as file:
                file.seek(offset)
                yield offset, iter(lambda: file.read(_READ), b"")


def _file_system(url: str, timeout_sec: float) -> tuple[Any, str]:
    """fsspec's file system for a URL and the path in it; UserError when a package or the protocol is missing."""
    scheme = urlsplit(url).scheme
    try:
        from fsspec.core import url_to_fs  # needed for remote shards alone

        options: dict[str, Any] = {"skip_instance_cache": True}
        if scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            # aiohttp's own limit is five minutes a file, however fast it comes.
            timeout = ClientTimeout(total=None, sock_connect=timeout_sec, sock_read=timeout_sec)
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
        elif scheme in ("s3", "s3a"):
            options["config_kwargs"] = {"connect_timeout": timeout_sec, "read_timeout": timeout_sec}
        return url_to_fs(url, **options)
    except ImportError as error:
        ours = scheme in ("http", "https", "s3", "s3a")
        raise UserError(
            f"data.shards {url} needs a package that is missing: "
            + ("pip install -e '.[remote]'" if ours else " ".join(str(error).split()))
        ) from None
    except ValueError as error:
        raise UserError(f"data.shards {url} is no URL that fsspec reads ({error})") from None
