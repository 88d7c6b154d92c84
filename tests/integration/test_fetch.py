"""Fetching a data set by the real program, which is killed and goes on."""

import signal
import subprocess
import sys
import time
from hashlib import sha256

import pytest
from support.archives import IMAGES, contents, zipped
from support.faulty_server import serving
from support.paths import ROOT
from support.patience import HANG_SEC

ZIP = zipped({f"set/{name}": content for name, content in IMAGES.items()})


@pytest.fixture
def server():
    with serving({"set.zip": ZIP}) as server:
        yield server


@pytest.fixture
def command(tmp_path, environment):
    """Start the real program, from a checkout that holds the descriptions in tmp_path/shards."""
    for name in ("n2s_dist", "tools", "setup.cfg"):
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
    deadline = time.monotonic() + HANG_SEC
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_same_command_goes_on_after_sigkill(server, describe, command, tmp_path):
    describe(server.url("set.zip"), sha256=sha256(ZIP).hexdigest())
    server.faults["set.zip"] = [("wait", 2000)]
    part = tmp_path / "data/.tiny.download/archive.part"
    process = command("tiny")
    wait_until(lambda: part.exists() and part.stat().st_size == 2000)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "data/tiny").exists()
    process = command("tiny")
    output, errors = process.communicate(timeout=HANG_SEC)
    assert process.returncode == 0 and "data/tiny: 3 images; licence: words" in output and "Traceback" not in errors
    assert contents(tmp_path / "data/tiny") == IMAGES and not list((tmp_path / "data").glob(".*"))
    assert [served.range for served in server.log] == [None, "bytes=2000-"]
    assert sum(served.sent for served in server.log) == len(ZIP)
