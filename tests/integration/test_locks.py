"""Locks between processes: one is alone in a folder until it ends."""

import socket
import subprocess
import sys

import pytest

from n2s_dist.utils.errors import UserError
from n2s_dist.utils.locks import alone_in

HOLDER = """
import sys, time
from pathlib import Path
from n2s_dist.utils.locks import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_one_process_is_alone_in_a_folder_until_it_ends(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        words = f"process {process.pid} on {socket.gethostname()} works in {folder}: wait for it"
        with pytest.raises(UserError, match=words), alone_in(folder):
            pass
        process.kill()
    with alone_in(folder):
        (folder / "found").touch()
    assert [path.name for path in folder.iterdir()] == ["found"]
