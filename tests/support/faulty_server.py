"""A real HTTP server on this machine that breaks when told to."""

import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


class Server(ThreadingHTTPServer):
    """Serves `files`. Each request to a path uses up one of its `faults`; the last one stays if `forever`.

    Faults: an int is a status; ("drop", n) closes the connection after n bytes; ("wait", n) holds it open after n
    bytes until `release`; ("length", n) adds n to Content-Length; ("redirect", url); None is no fault.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = defaultdict(list)
        self.forever = False
        self.log: list[Served] = []
        self.release = threading.Event()
        self.validators = {"ETag": '"v1"'}
        self.ranges, self.chunked, self.minds_if_range = True, False, True

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def next_fault(self, path: str):
        faults = self.faults[path]
        return (faults[0] if self.forever and len(faults) == 1 else faults.pop(0)) if faults else None


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """A server with these files, until the end of the block."""
    server = Server()
    server.files |= files
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        server, path = self.server, self.path.lstrip("/")
        served = Served(path, self.headers["Range"], self.headers["If-Range"])
        server.log.append(served)
        self.close_connection = True
        fault = server.next_fault(path)
        kind, amount = fault if isinstance(fault, tuple) else (None, 0)
        content = server.files.get(path)
        same = not server.minds_if_range or served.if_range in server.validators.values()
        start = int(re.fullmatch(r"bytes=(\d+)-", served.range)[1]) if served.range and server.ranges and same else 0
        served.status = (
            fault if isinstance(fault, int)
            else 302 if kind == "redirect"
            else 404 if content is None
            else 416 if start >= len(content)
            else 206 if start else 200
        )  # fmt: skip
        body = content[start:] if served.status in (200, 206) else b"sorry"
        self.send_response(served.status)
        if served.status == 302:
            self.send_header("Location", amount)
        if served.status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if served.status in (200, 206):
            for name, value in server.validators.items():
                self.send_header(name, value)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            self.send_header("Content-Length", str(len(body) + (amount if kind == "length" else 0)))
        self.end_headers()
        body = body[:amount] if kind in ("drop", "wait") else body
        served.sent = len(body)
        try:
            self.wfile.write(body)
            if kind == "wait":
                server.release.wait(10)
        except OSError:
            pass
