"""Files that are cut short while they are mapped end a program with their name."""

import subprocess
import sys

from support.patience import HANG_SEC

PROGRAM = """
import mmap, os, sys, threading
NAME = os.fsdecode(b"shard \\xfc.tar")
from n2s_dist.utils.errors import run_command

def main():
    with open("other", "wb") as file:
        file.write(bytes(100_000))
    with open(NAME, "wb") as file:
        file.write(bytes(1_000_000))
    maps = [mmap.mmap(os.open(name, os.O_RDONLY), 0, access=mmap.ACCESS_READ) for name in ("other", NAME)]
    os.truncate(NAME, 10)
    look = lambda: maps[1][500_000]
    thread = threading.Thread(target=look)
    thread.start() if sys.argv[1] == "thread" else look()
    thread.join()

run_command(main)
"""


def test_a_file_that_is_cut_short_while_it_is_mapped_is_named(environment, tmp_path):
    """Whichever thread looks and whatever its name; without this the process dies of SIGBUS without a word."""
    for who in ("main", "thread"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, who],
            env=environment, cwd=tmp_path, capture_output=True, errors="surrogateescape",
            timeout=HANG_SEC, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert f"error: {tmp_path}/shard \udcfc.tar was cut short" in done.stderr and "Traceback" not in done.stderr
