"""Fetching data sets from a real server that breaks in many ways, and unpacking archives that mean harm."""

import errno
import fcntl
import hashlib
import io
import re
import runpy
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from n2s_dist import datasets, download
from n2s_dist.datasets import dataset_folder, find_dataset, known_names, resolve_source
from n2s_dist.download import Network
from n2s_dist.errors import UserError
from n2s_dist.fetch import fetch
from n2s_dist.unpack import unpack

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = ROOT / "shards"
QUICK = Network(timeout_sec=5, tries=3, pause_sec=0.001)


def png(seed: int, size: tuple[int, int] = (30, 40), grey: bool = False) -> bytes:
    """A PNG of random pixels; size is (height, width)."""
    pixels = np.random.default_rng(seed).integers(0, 256, size if grey else (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


IMAGES = {f"{number}.png": png(number) for number in range(1, 4)}


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


ZIP = zipped({f"set/{name}": content for name, content in IMAGES.items()})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- a server with faults ---------------------------------------------------------------------------


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


@pytest.fixture
def server():
    server = Server()
    server.files["set.zip"] = ZIP
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def describe(tmp_path, monkeypatch):
    """Write the description of a data set `tiny` and make it one of the known ones."""
    folder = tmp_path / "shards"
    folder.mkdir()
    monkeypatch.setattr(datasets, "DESCRIPTIONS", folder)

    def write(*urls: str, name: str = "tiny", **changes: object) -> None:
        text = dict.fromkeys(("description", "homepage", "licence", "citation"), "words")
        given = {**text, "images": 3, "colour": "colour", "archive": "zip", "sha256": None, "urls": list(urls)}
        given = {key: value for key, value in {**given, **changes}.items() if value != "leave out"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(given))

    return write


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def tool():
    return runpy.run_path(str(ROOT / "tools/fetch_data.py"))["main"]


def refusal(*arguments, **options) -> str:
    """The message of a fetch that the user has to mend: one line."""
    with pytest.raises(UserError) as error:
        fetch(*arguments, **{"network": QUICK, **options})
    message = str(error.value)
    assert message and "\n" not in message
    return message


# --- what is published ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "pack"), [("zip", zipped), ("tar", tarred), ("tar.gz", lambda m: tarred(m, "w:gz"))])
def test_an_archive_becomes_a_folder_of_its_images(server, describe, out, capsys, kind, pack):
    others = {"set/read.me": b"text", "other/4.png": png(4), "__MACOSX/set/._1.png": b"x", "set/5.tif": b"x"}
    server.files["set"] = pack({**{f"deep/set/{name}": data for name, data in IMAGES.items()}, **others})
    describe(server.url("set"), archive=kind, folders=["set"], glob="*.png", sha256=sha256(server.files["set"]))
    assert fetch("tiny", out, network=QUICK) == out / "tiny"
    assert contents(out / "tiny") == IMAGES
    assert [path.name for path in out.iterdir()] == ["tiny"]
    fetch("tiny", out, network=QUICK)
    assert "already holds the 3 images" in capsys.readouterr().out and len(server.log) == 1


def test_images_with_a_url_each(server, describe, out):
    server.files.update({f"kodim0{name}": data for name, data in IMAGES.items()})
    describe(server.url("kodim{:02d}.png"), archive="none", files={"first": 1, "last": 3})
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == {f"kodim0{name}": data for name, data in IMAGES.items()}
    assert [path.name for path in out.iterdir()] == ["tiny"]


def test_an_empty_folder_is_filled_and_an_incomplete_one_left_alone(server, describe, out):
    describe(server.url("set.zip"))
    (out / "tiny").mkdir(parents=True)
    fetch("tiny", out, network=QUICK)
    (out / "tiny/2.png").unlink()
    message = refusal("tiny", out)
    assert f"{out / 'tiny'} holds 2 images, tiny has 3" in message and "remove" in message
    assert set(contents(out / "tiny")) == {"1.png", "3.png"} and len(server.log) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 4}, "holds 3 images of tiny, expected are 4"),
        ({"glob": "2*"}, "holds 1 images of tiny, expected are 3"),
        ({"folders": ["elsewhere"]}, "holds 0 images of tiny, expected are 3"),
        ({"sizes": [[500, 500]]}, "has 40 x 30 pixels, in tiny it is 500 x 500"),
        ({"colour": "grey"}, "are not all grey, tiny is in grey"),
        ({"sha256": "0" * 64}, f"has the SHA-256 {sha256(ZIP)}, expected is {'0' * 64}"),
    ],
)
def test_what_is_not_the_data_set_is_not_published(server, describe, out, changes, message):
    describe(server.url("set.zip"), **changes)
    assert message in refusal("tiny", out)
    assert not list(out.iterdir())


# --- networks ---------------------------------------------------------------------------------------


def test_broken_connections_cost_no_byte_twice(server, describe, out):
    describe(server.url("set.zip"), sha256=sha256(ZIP))
    server.faults["set.zip"] = [("drop", 1000), ("drop", 500), ("drop", 1), ("drop", 900), ("drop", 0), ("drop", 7)]
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES
    assert sum(served.sent for served in server.log) == len(ZIP)
    starts = [None, *(f"bytes={start}-" for start in (1000, 1500, 1501, 2401, 2401, 2408))]
    assert [served.range for served in server.log] == starts
    assert {served.if_range for served in server.log[1:]} == {'"v1"'}


def test_tries_without_progress_are_bounded(server, describe, out):
    describe(server.url("set.zip"))
    server.faults["set.zip"], server.forever = [("drop", 1000), ("drop", 0)], True
    assert f"the connection ended after 1000 of {len(ZIP)} bytes" in refusal("tiny", out)
    assert len(server.log) == 1 + QUICK.tries
    assert (out / ".tiny.download/archive.part").read_bytes() == ZIP[:1000]
    server.faults.clear()
    fetch("tiny", out, network=QUICK)
    assert server.log[-1].sent == len(ZIP) - 1000 and contents(out / "tiny") == IMAGES


def test_a_server_without_ranges_starts_over(server, describe, out):
    describe(server.url("set.zip"))
    server.ranges, server.faults["set.zip"] = False, [("drop", 1000), ("drop", 1200)]
    fetch("tiny", out, network=QUICK)
    assert [served.status for served in server.log] == [200, 200, 200] and contents(out / "tiny") == IMAGES


@pytest.mark.parametrize("validators", [{}, {"ETag": 'W/"v1"'}])
def test_without_a_name_for_the_version_nothing_is_resumed(server, describe, out, validators):
    describe(server.url("set.zip"))
    server.validators, server.faults["set.zip"] = validators, [("drop", 1000)]
    fetch("tiny", out, network=QUICK)
    assert [served.range for served in server.log] == [None, None] and contents(out / "tiny") == IMAGES


def test_a_date_names_the_version_too(server, describe, out):
    describe(server.url("set.zip"))
    date = "Tue, 14 Feb 2017 14:27:11 GMT"
    server.validators = {"ETag": 'W/"v1"', "Last-Modified": date}
    server.faults["set.zip"] = [("drop", 1000)]
    fetch("tiny", out, network=QUICK)
    assert (server.log[1].range, server.log[1].if_range) == ("bytes=1000-", date)
    assert sum(served.sent for served in server.log) == len(ZIP)


@pytest.mark.parametrize("minds_if_range", [True, False])
def test_two_versions_are_never_mixed(server, describe, out, minds_if_range):
    """The file changes between two attempts; a server that ignores If-Range is found out by the total length."""
    describe(server.url("set.zip"))
    server.faults["set.zip"], server.forever = [("drop", 1000), ("drop", 0)], True
    refusal("tiny", out)
    new = {name: png(9, (30, 41)) for name in IMAGES}
    server.files["set.zip"], server.validators = zipped(new), {"ETag": '"v2"'}
    server.faults.clear()
    server.minds_if_range = minds_if_range
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == new
    assert [served.status for served in server.log[-1 - (not minds_if_range) :]] == [206, 200][minds_if_range:]


def test_a_content_length_that_is_too_long(server, describe, out):
    describe(server.url("set.zip"))
    server.faults["set.zip"] = [("length", 10)]
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES and [s.status for s in server.log] == [200, 416, 200]
    server.faults["set.zip"], server.forever = [("length", 10)], True
    assert re.search("connection ended|Range Not Satisfiable", refusal("tiny", out / "again"))


@pytest.mark.parametrize("known", [True, False])
def test_a_content_length_that_is_too_short(server, describe, out, known):
    describe(server.url("set.zip"), sha256=sha256(ZIP) if known else None)
    server.faults["set.zip"] = [("length", -10)]
    message = refusal("tiny", out)
    assert (f"SHA-256 {sha256(ZIP[:-10])}, expected is {sha256(ZIP)}" if known else "is damaged") in message
    fetch("tiny", out, network=QUICK)  # nothing of the wrong bytes was kept
    assert contents(out / "tiny") == IMAGES and server.log[-1].range is None


def test_a_stream_without_a_length(server, describe, out):
    describe(server.url("set.zip"))
    server.chunked, server.faults["set.zip"] = True, [("drop", 1000)]
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES


def test_passing_errors_are_tried_again_and_lasting_ones_not(server, describe, out):
    describe(server.url("gone.zip"), server.url("set.zip"))
    server.faults["set.zip"] = [500, 503]
    fetch("tiny", out, network=QUICK)
    assert [(served.path, served.status) for served in server.log] == [
        ("gone.zip", 404), ("set.zip", 500), ("set.zip", 503), ("set.zip", 200)
    ]  # fmt: skip
    assert contents(out / "tiny") == IMAGES


def test_a_mirror_with_wrong_bytes_gives_way_to_the_next(server, describe, out):
    server.files["wrong.zip"] = zipped({f"set/{name}": png(7) for name in IMAGES})
    describe(server.url("wrong.zip"), server.url("set.zip"), sha256=sha256(ZIP))
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES and server.log[-1].range is None


def test_every_url_and_its_reason_is_named(server, describe, out):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        nobody = f"http://127.0.0.1:{closed.server_port}/set.zip"
    urls = [server.url("gone.zip"), nobody, server.url("busy.zip"), "http://no-such-host.invalid/set.zip"]
    describe(*urls)
    server.faults["busy.zip"], server.forever = [503], True
    message = refusal("tiny", out)
    reasons = ["404 Not Found", "Connection refused", "503 Service Unavailable", ""]
    for url, reason in zip(urls, reasons, strict=True):
        assert re.search(rf"{re.escape(url)} \([^)]*{reason}", message)
    assert "--from" in message and sum(served.path == "busy.zip" for served in server.log) == QUICK.tries


def test_a_server_that_falls_silent(server, describe, out):
    describe(server.url("set.zip"))
    network = Network(timeout_sec=0.2, tries=2, pause_sec=0.001)
    server.faults["set.zip"] = [("wait", 1000)]
    fetch("tiny", out, network=network)
    assert contents(out / "tiny") == IMAGES and server.log[1].range == "bytes=1000-"
    server.faults["set.zip"], server.forever = [("wait", 0)], True
    assert "no answer within 0.2 s" in refusal("tiny", out / "again", network=network)


def test_redirections_lead_to_http_alone(server, describe, out):
    describe(server.url("old.zip"))
    server.faults["old.zip"] = [("redirect", server.url("set.zip"))] * 2
    server.faults["set.zip"] = [("drop", 1000)]
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES and server.log[-1].range == "bytes=1000-"
    for place in (f"file://{out / 'tiny/1.png'}", "ftp://127.0.0.1/set.zip"):
        server.faults["old.zip"] = [("redirect", place)] * QUICK.tries
        refusal("tiny", out / "again")
    assert not (out / "again/tiny").exists()


def test_a_page_instead_of_an_image_gives_way_to_the_next_mirror(server, describe, out):
    server.files.update({f"good/{name}": data for name, data in IMAGES.items()})
    server.files.update({f"bad/{name}": b"<html>Not here</html>" for name in IMAGES})
    server.files["bad/1.png"] = IMAGES["1.png"]
    files = {"first": 1, "last": 3}
    describe(server.url("bad/{}.png"), server.url("good/{}.png"), archive="none", files=files)
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES
    assert [served.path for served in server.log] == ["bad/1.png", "bad/2.png", "good/2.png", "good/3.png"]
    server.files["good/2.png"] = IMAGES["2.png"][:-40]
    describe(server.url("good/{}.png"), archive="none", files=files)
    assert "can't be decoded" in refusal("tiny", out / "again")


# --- kills, disks, other processes ------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, environment):
    """Start the real program, from a checkout that holds the descriptions in tmp_path/shards."""
    for name in ("n2s_dist", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        words = [sys.executable, tmp_path / "tools/fetch_data.py", *arguments]
        process = subprocess.Popen(
            words, cwd=tmp_path, env={**environment, "PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_until(happened) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_same_command_goes_on_after_sigkill(server, describe, command, tmp_path):
    describe(server.url("set.zip"), sha256=sha256(ZIP))
    server.faults["set.zip"] = [("wait", 2000)]
    part = tmp_path / "data/.tiny.download/archive.part"
    process = command("tiny")
    wait_until(lambda: part.exists() and part.stat().st_size == 2000)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "data/tiny").exists()
    process = command("tiny")
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and "data/tiny: 3 images; licence: words" in output and "Traceback" not in errors
    assert contents(tmp_path / "data/tiny") == IMAGES and not list((tmp_path / "data").glob(".*"))
    assert [served.range for served in server.log] == [None, "bytes=2000-"]
    assert sum(served.sent for served in server.log) == len(ZIP)


def test_images_that_are_whole_are_not_fetched_again(server, describe, out):
    server.files.update(IMAGES)
    describe(server.url("{}.png"), archive="none", files={"names": ["1", "2", "3"]})
    server.faults["3.png"], server.forever = [("drop", 100), ("drop", 0)], True
    refusal("tiny", out)
    server.faults.clear()
    server.log.clear()
    fetch("tiny", out, network=QUICK)
    assert [(served.path, served.range) for served in server.log] == [("3.png", "bytes=100-")]
    assert contents(out / "tiny") == IMAGES


def test_a_complete_download_that_was_not_unpacked_is_not_fetched_again(server, describe, out, monkeypatch):
    def interrupt(*arguments) -> None:
        raise KeyboardInterrupt

    describe(server.url("set.zip"))
    with monkeypatch.context() as patch:
        patch.setattr("n2s_dist.fetch.unpack", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch("tiny", out, network=QUICK)
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES and len(server.log) == 1


def test_a_full_disk_is_one_line(server, describe, out, cli, tool):
    """/dev/full refuses every byte, as a full disk does."""
    describe(server.url("set.zip"))
    (out / ".tiny.download").mkdir(parents=True)
    (out / ".tiny.download/archive.part").symlink_to("/dev/full")
    line = cli(tool, "tiny", "--out", out).error(2)
    assert "disk is full" in line and "archive.part" in line


def test_a_disk_that_fills_up_while_unpacking(server, describe, out, cli, tool, monkeypatch):
    def full(source, target: Path, *arguments) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    describe(server.url("set.zip"))
    with monkeypatch.context() as patch:
        patch.setattr("n2s_dist.unpack._copy", full)
        assert "disk is full while writing" in cli(tool, "tiny", "--out", out).error(2)
    assert not (out / "tiny").exists() and not (out / ".tiny.download/images").exists()
    assert cli(tool, "tiny", "--out", out).code == 0 and len(server.log) == 1


def test_a_disk_too_small_is_found_before_the_download(server, describe, out, monkeypatch):
    describe(server.url("set.zip"))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "disk is full" in refusal("tiny", out)
    assert not list(out.iterdir())


def test_one_process_at_a_time(server, describe, out):
    describe(server.url("set.zip"))
    work = out / ".tiny.download"
    work.mkdir(parents=True)
    with (work / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process is fetching" in refusal("tiny", out)
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tinny"], "unknown data set 'tinny', did you mean 'tiny'?"),
        (["tiny", "zzzz"], "known are tiny"),
        (["tiny", "--timeout", "0"], "--timeout is 0.0"),
        (["tiny", "--tries", "0"], "--tries is 0"),
        (["tiny", "--from", "nowhere.zip"], "nowhere.zip does not exist"),
        (["tiny", "--out", "/dev/null/data"], "choose another --out"),
        (["../shards/tiny"], "unknown data set"),
    ],
)
def test_mistakes_are_one_line(server, describe, cli, tool, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    describe(server.url("set.zip"))
    assert words in cli(tool, *arguments).error(2)
    assert not (tmp_path / "data").exists() and not server.log


# --- what the user has already ----------------------------------------------------------------------


def test_from_an_archive(describe, out, tmp_path, cli, tool):
    (tmp_path / "my.zip").write_bytes(ZIP)
    describe("http://no-such-host.invalid/set.tar", archive="tar", sha256=sha256(ZIP))
    assert cli(tool, "tiny", "--out", out, "--from", tmp_path / "my.zip").code == 0
    assert contents(out / "tiny") == IMAGES and (tmp_path / "my.zip").read_bytes() == ZIP


def test_from_a_folder(describe, out, tmp_path, monkeypatch):
    (tmp_path / "mine/sub").mkdir(parents=True)
    for name, data in IMAGES.items():
        (tmp_path / "mine/sub" / name).write_bytes(data)
    describe("http://no-such-host.invalid/set.zip", sha256="0" * 64)
    monkeypatch.chdir(tmp_path)
    fetch("tiny", out, "mine")
    assert (out / "tiny").resolve() == tmp_path / "mine" and [path.name for path in out.iterdir()] == ["tiny"]
    assert contents(out / "tiny/sub") == IMAGES
    fetch("tiny", out)
    (tmp_path / "mine").rename(tmp_path / "moved")
    assert f"link to {tmp_path / 'mine'}, which does not exist" in refusal("tiny", out)


def test_from_the_wrong_place(describe, out, tmp_path):
    (tmp_path / "two").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "two" / name).write_bytes(IMAGES[name])
    (tmp_path / "two.zip").write_bytes(zipped({"1.png": IMAGES["1.png"], "2.png": IMAGES["2.png"]}))
    (tmp_path / "text.zip").write_text("no archive")
    describe("http://no-such-host.invalid/set.zip")
    assert "two holds 2 images, tiny has 3" in refusal("tiny", out, tmp_path / "two")
    assert "two.zip holds 2 images of tiny, expected are 3" in refusal("tiny", out, tmp_path / "two.zip")
    assert "text.zip is damaged or is not" in refusal("tiny", out, tmp_path / "text.zip")
    describe("http://no-such-host.invalid/set.zip", sha256="0" * 64, images=2)
    assert f"expected is {'0' * 64}" in refusal("tiny", out, tmp_path / "two.zip")
    assert not out.exists() or not list(out.iterdir())


def test_data_sets_that_look_alike_are_told_apart(out, tmp_path):
    """The repository's own descriptions: crops and whole Kodak photographs, colour and grey BSD68."""
    for folder, size, grey, count in [("crops", (500, 500), False, 24), ("whole", (512, 768), False, 24),
                                      ("grey", (321, 481), True, 68), ("colour", (481, 321), False, 68)]:  # fmt: skip
        (tmp_path / folder).mkdir()
        data = png(0, size, grey)
        for number in range(count):
            (tmp_path / folder / f"{number:02d}.png").write_bytes(data)
    sources = {"kodak24": "crops", "kodak_full": "whole", "bsd68": "grey", "cbsd68": "colour"}
    for name, right in sources.items():
        for other in {"crops", "whole"} ^ {"grey", "colour"}:
            if other != right:
                refusal(name, out, tmp_path / other)
        fetch(name, out, tmp_path / right)


# --- archives that mean harm ------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar"])
@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "a/../../evil.png", "..\\evil.png", "../../evil.txt"])
def test_members_that_point_outside_are_refused(tmp_path, pack, name):
    (tmp_path / "set").write_bytes(pack({"1.png": IMAGES["1.png"], name: b"evil"}))
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="don't trust this archive"):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)
    assert {path.name for path in tmp_path.rglob("*")} <= {"set", "in", "1.png"} and not Path("/tmp/evil.png").exists()


def test_links_and_devices_stay_in_the_archive(tmp_path):
    def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info

    members = {
        "link.png": special("link.png", tarfile.SYMTYPE, "/etc/passwd"),
        "hard.png": special("hard.png", tarfile.LNKTYPE, "/etc/passwd"),
        "char.png": special("char.png", tarfile.CHRTYPE),
        "block.png": special("block.png", tarfile.BLKTYPE),
        "fifo.png": special("fifo.png", tarfile.FIFOTYPE),
        "folder.png": special("folder.png", tarfile.DIRTYPE),
        "out": special("out", tarfile.SYMTYPE, ".."),
        "out/1.png": IMAGES["1.png"],
    }
    (tmp_path / "in").mkdir()
    (tmp_path / "set").write_bytes(tarred(members, "w:gz"))
    assert unpack(tmp_path / "set", tmp_path / "in", lambda member: member.endswith(".png")) == 1
    assert contents(tmp_path / "in") == {"1.png": IMAGES["1.png"]} and not (tmp_path / "1.png").exists()

    with zipfile.ZipFile(tmp_path / "set", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert unpack(tmp_path / "set", tmp_path / "in", lambda member: True) == 0


@pytest.mark.parametrize("pack", [zipped, lambda members: tarred(members, "w:gz")], ids=["zip", "tar.gz"])
def test_what_unpacks_to_too_much_is_refused_unread(tmp_path, pack):
    (tmp_path / "set").write_bytes(pack({"1.png": IMAGES["1.png"], "2.png": bytes(2**22)}))
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="unpacks to more than 1 MiB"):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True, most_bytes=2**20)
    assert set(contents(tmp_path / "in")) == {"1.png"}


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_a_terabyte(tmp_path, kind):
    info = tarfile.TarInfo("1.png")
    info.size, info.type = 2**40, kind
    (tmp_path / "set").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)
    assert not contents(tmp_path / "in")


def test_a_member_that_holds_more_than_it_declares(tmp_path):
    data = bytearray(zipped({"1.png": bytes(2**20)}))
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # both headers: the size after inflating
        struct.pack_into("<I", data, data.index(signature) + offset, 1000)
    (tmp_path / "set").write_bytes(data)
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)
    assert all(len(content) <= 1000 for content in contents(tmp_path / "in").values())


def test_two_images_of_one_name_and_encrypted_ones_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "set").write_bytes(zipped({"a/1.png": IMAGES["1.png"], "b/1.png": IMAGES["2.png"]}))
    with pytest.raises(UserError, match=r"two images with the name 1\.png"):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)
    data = bytearray(zipped({"2.png": IMAGES["2.png"]}))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    (tmp_path / "set").write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)


@pytest.mark.parametrize(
    "pack",
    [zipped, lambda m: zipped(m, zipfile.ZIP_BZIP2), tarred, lambda m: tarred(m, "w:gz")],
    ids=["zip", "bzip2", "tar", "tar.gz"],
)
def test_damaged_archives_are_named_whatever_is_wrong(tmp_path, pack):
    """Cut or changed anywhere: one UserError, or (where a plain tar has no checksum) images all the same."""
    whole, rng = pack({name: data[:300] for name, data in IMAGES.items()}), np.random.default_rng(0)
    refused = 0
    for trial in range(120):
        data = bytearray(whole[: rng.integers(len(whole))] if trial % 2 else whole)
        for place in rng.integers(0, max(1, len(data)), 3 if trial % 2 == 0 else 0):
            data[place] ^= int(rng.integers(1, 256))
        (tmp_path / "set").write_bytes(data)
        folder = tmp_path / f"in{trial}"
        folder.mkdir()
        try:
            unpack(tmp_path / "set", folder, lambda member: member.endswith(".png"))
        except UserError as error:
            refused += 1
            assert str(tmp_path / "set") in str(error)
    assert refused > 20


# --- descriptions -----------------------------------------------------------------------------------


def test_the_repository_describes_these_data_sets():
    counts = {"div2k_train": 800, "div2k_valid": 100, "bsd400": 400, "cbsd68": 68, "bsd68": 68, "kodak24": 24,
              "kodak_full": 24, "set12": 12, "mcmaster": 18, "urban100": 100}  # fmt: skip
    assert {name: find_dataset(name).images for name in known_names()} == counts
    table = (REPOSITORY / "README.md").read_text()
    for name, count in counts.items():
        assert f"| `{name}` | {count} |" in table


@pytest.mark.parametrize("name", [path.stem for path in sorted(REPOSITORY.glob("*.yaml"))])
def test_the_repository_s_descriptions_are_sane(name):
    dataset = find_dataset(name)
    assert dataset.name == name and dataset.homepage.startswith("https://")
    assert (dataset.colour == "grey") == (name in ("set12", "bsd68"))
    assert len(dataset.file_urls()) == (dataset.images if dataset.archive == "none" else 0)
    assert len(set(dataset.urls)) == len(dataset.urls)
    for file, urls in dataset.file_urls().items():
        assert all(url.endswith(f"/{file}") for url in urls)


def test_crops_and_whole_photographs_come_from_different_places():
    crops, whole = find_dataset("kodak24"), find_dataset("kodak_full")
    assert (crops.sizes, whole.sizes) == (((500, 500),), ((768, 512),))
    assert list(crops.file_urls()) == list(whole.file_urls()) == [f"kodim{n:02d}.png" for n in range(1, 25)]
    assert all("Kodak24" in url for url in crops.urls) and all("r0k.us" in url for url in whole.urls)


def test_bsd400_and_cbsd68_share_no_folder_of_bsds500():
    dataset = find_dataset("bsd400")
    wanted = [f"{top}/BSDS500/data/images/{split}/1.jpg" for top in ("BSR", "a/b") for split in ("train", "test")]
    assert all(map(dataset.wants, wanted))
    for member in ("BSR/BSDS500/data/images/val/1.jpg", "BSR/BSDS500/data/images/train/Thumbs.db",
                   "BSR/XBSDS500/data/images/train/1.jpg", "BSR/BSDS500/data/images/train/.1.jpg"):  # fmt: skip
        assert not dataset.wants(member)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imags": 3}, ["'imags'", "did you mean 'images'?"]),
        ({"licence": "leave out"}, ["'licence'", "missing"]),
        ({"sha256": "leave out"}, ["'sha256'", "missing"]),
        ({"images": "3"}, ["images is '3'"]),
        ({"images": 0}, ["images is 0"]),
        ({"images": True}, ["images is True"]),
        ({"colour": "gray"}, ["colour is 'gray'", "grey"]),
        ({"archive": "rar"}, ["archive is 'rar'", "tar.gz"]),
        ({"sha256": "abc"}, ["sha256 is 'abc'"]),
        ({"citation": "a\nb"}, ["citation"]),
        ({"urls": []}, ["urls is empty"]),
        ({"urls": "http://a/b"}, ["urls is 'http://a/b'", "list"]),
        ({"urls": ["ftp://a/b"]}, ["ftp://a/b", "https://"]),
        ({"urls": ["file:///etc/passwd"]}, ["file:///etc/passwd"]),
        ({"urls": ["https:///b"]}, ["https:///b"]),
        ({"folders": "a"}, ["folders is 'a'"]),
        ({"sizes": [[30, 40]]}, ["sizes holds [30, 40]"]),
        ({"sizes": 40}, ["sizes is 40"]),
        ({"archive": "none"}, ["files", "archive: none"]),
        ({"files": {"first": 1, "last": 3}}, ["files", "archive: none"]),
        ({"archive": "none", "files": {"frist": 1, "last": 3}}, ["'files.frist'", "did you mean 'first'?"]),
        ({"archive": "none", "files": {"first": 1}}, ["files should hold"]),
        ({"archive": "none", "files": {"first": 1, "last": 3, "names": ["a"]}}, ["files should hold"]),
        ({"archive": "none", "files": {"first": 1, "last": 4}}, ["lists 4 files, but images is 3"]),
        ({"archive": "none", "files": {"first": "1", "last": 3}}, ["whole numbers"]),
        ({"archive": "none", "files": {"names": [1, 2, 3]}}, ["files.names", "quotes"]),
        ({"archive": "none", "files": {"names": ["a", "b", "c"]}, "urls": ["http://a/{:02d}.png"]}, ["urls", "filled"]),
        ({"archive": "none", "files": {"first": 1, "last": 3}, "urls": ["http://a/1.png"]}, ["different image"]),
        ({"archive": "none", "files": {"first": 1, "last": 3}, "urls": ["http://a/{}.txt"]}, ["1.txt"]),
        ({"archive": "none", "files": {"first": 1, "last": 3}, "sha256": "0" * 64}, ["sha256"]),
    ],
)
def test_descriptions_are_read_strictly(describe, changes, words):
    describe("http://a/{}.png", **changes)
    with pytest.raises(UserError) as error:
        find_dataset("tiny")
    for word in ("tiny.yaml", *words):
        assert word in str(error.value)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\tb: c"])
def test_files_that_are_no_description_are_named(describe, tmp_path, text):
    (tmp_path / "shards/broken.yaml").write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        find_dataset("broken")


def test_sources_are_paths_or_names_of_data_sets(describe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    describe("http://a/b.zip")
    assert dataset_folder("tiny") == Path("data/tiny") and dataset_folder("tiny", "/mnt") == Path("/mnt/tiny")
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        dataset_folder("tinny")
    with pytest.raises(UserError, match=r"run tools/fetch_data\.py tiny"):
        resolve_source("tiny")
    Path("data/tiny").mkdir(parents=True)
    assert resolve_source("tiny") == Path("data/tiny")
    assert resolve_source("unheard of") == Path("unheard of")
    Path("tiny").mkdir()
    assert resolve_source("tiny") == Path("tiny")


def test_without_a_checkout_names_are_refused_and_paths_stay_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DESCRIPTIONS", tmp_path / "no")
    with pytest.raises(UserError, match="source checkout"):
        find_dataset("kodak24")
    assert resolve_source("kodak24") == Path("kodak24")
