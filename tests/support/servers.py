"""Servers that tests fetch shards from: nginx, and one of Python's that can be told to fail."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Nginx(NamedTuple):
    url: str
    log: Path

    def sent(self, path: str) -> list[int]:
        """Bytes of each answer to a GET of a file whose path ends so."""
        rows = [line.split() for line in self.log.read_text().splitlines()]
        return [int(size) for method, uri, size in rows if method == "GET" and uri.endswith(path)]


@contextmanager
def nginx(root: Path, folder: Path) -> Iterator[Nginx]:
    """Serve `root`, as whoever runs the tests; configuration, log and temporary files in `folder`."""
    if NGINX is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
        events {{ }}
        http {{
            {places}
            log_format short '$request_method $uri $body_bytes_sent'; access_log {folder}/access.log short;
            server {{ listen 127.0.0.1:{port}; location / {{ root {root}; }} }}
        }}
        """
    )
    command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
            yield Nginx(f"http://127.0.0.1:{port}", folder / "access.log")
        finally:
            process.terminate()


@dataclass
class Answer:
    """What a request of the failing server is answered with; `sent` is up to date once a client has seen the bytes."""

    name: str
    begin: int
    sent: int = 0


class FailingServer(ThreadingHTTPServer):
    """Serves the files of one folder. `fault(number, name)` says how the number-th request fails, counted from 1:

    None not at all, "503" or another status, "reset" (closes without a word), "cut" (sends half of what it announced),
    "wrong" (changes one byte), "silence" (never answers).
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.answers, self.requests = folder, list[Answer](), 0
        self.fault: Callable[[int, str], str | None] = lambda number, name: None
        self.knows_ranges = True
        self.block_pause_sec = 0.0  # after each 16 KiB
        self.counting, self.over = threading.Lock(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        """Clients that are killed or have seen enough are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: FailingServer

    def do_GET(self) -> None:
        server, name = self.server, Path(self.path).name
        with server.counting:
            server.requests += 1
            fault = server.fault(server.requests, name)
        content = (server.folder / name).read_bytes() if (server.folder / name).is_file() else None
        if fault == "silence":
            server.over.wait(60)
        if fault in ("silence", "reset"):
            return
        if content is None or str(fault).isdigit():
            self.send_error(int(fault or 404))
            return
        begin, asked = 0, self.headers.get("Range")
        if asked and server.knows_ranges:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if asked and server.knows_ranges else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        body = bytearray(content[begin:])
        if fault == "wrong":
            body[len(body) // 2] ^= 1
        until, answer = len(body) // 2 if fault == "cut" else len(body), Answer(name, begin)
        with server.counting:
            server.answers.append(answer)
        while answer.sent < until:
            block = body[answer.sent : min(until, answer.sent + 2**14)]
            answer.sent += len(block)
            self.wfile.write(block)
            time.sleep(server.block_pause_sec)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def failing_server(folder: Path) -> Iterator[FailingServer]:
    with FailingServer(folder) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
