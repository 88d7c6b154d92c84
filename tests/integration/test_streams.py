"""Printing never ends a program: closed streams, full disks, readers and terminals that go, odd names."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.patience import HANG_SEC

PROGRAM = """
import os, sys, time
from pathlib import Path
from tqdm import tqdm
from n2s_dist.utils.errors import run_command

def main():
    print("begun", flush=True)
    for i in tqdm(range(100), mininterval=0):
        print("line", i, "\\u2603", "not UTF-8: \\udce9")
        print("more", file=sys.stderr)
        time.sleep(float(sys.argv[2]))
    tqdm.write("written")
    with open("data", "w") as file:
        Path(sys.argv[1]).write_text(str(file.fileno()))

run_command(main)
"""


def command(folder: Path, pause: float = 0) -> list[str]:
    (folder / "program.py").write_text(PROGRAM)
    return [sys.executable, str(folder / "program.py"), str(folder / "ended"), str(pause)]


@pytest.mark.parametrize(
    "streams",
    ["2>&-", ">&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full 2>&1", "2>/dev/null | head -1", "2>&1 | true"],
)  # fmt: skip
def test_a_program_whose_output_goes_nowhere_comes_to_its_end(environment, tmp_path, streams):
    """And no file that it opens gets the number of a stream, to which C code would write."""
    shell = f"set -o pipefail; {' '.join(command(tmp_path))} {streams}"
    done = subprocess.run(
        ["bash", "-c", shell],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_SEC,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "ended").read_text()) > 2


def test_a_program_whose_terminal_goes_comes_to_its_end(environment, tmp_path):
    terminal, other = os.openpty()
    process = subprocess.Popen(
        command(tmp_path, pause=0.02), env=environment, cwd=tmp_path, stdin=other, stdout=other, stderr=other,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    os.close(other)
    assert b"begun" in os.read(terminal, 100)
    os.close(terminal)
    assert process.wait(HANG_SEC) == 0 and (tmp_path / "ended").exists()


def test_what_an_encoding_lacks_is_escaped(environment, tmp_path):
    ascii_only = environment | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        command(tmp_path), env=ascii_only, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_SEC, check=True
    )
    assert "line 0 \\u2603 not UTF-8: \\udce9" in done.stdout


def test_streams_are_guarded_as_soon_as_training_is_asked_for(environment, tmp_path):
    """The seconds of its imports count as well: what they open must not become standard error."""
    watch = tmp_path / "sitecustomize.py"
    watch.write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            import os\n"
        "            with open(os.environ['SEEN'], 'w') as file:\n"
        "                file.write(os.readlink('/proc/self/fd/2'))\n"
        "            os._exit(0)  # which saves the seconds\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    given = environment | {
        "SEEN": str(tmp_path / "seen"),
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}",
    }
    shell = f"{sys.executable} -m n2s_dist.train --help 2>&- >/dev/null"
    subprocess.run(["bash", "-c", shell], env=given, cwd=tmp_path, timeout=HANG_SEC, check=False)
    assert (tmp_path / "seen").read_text() == "/dev/null"
