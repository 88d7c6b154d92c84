"""Run a program, its worker processes included, as on a platform that lacks what Linux alone has.

    python -m support.elsewhere LACKING MODULE-OR-FILE ARGUMENT ...

LACKING are modules besides, separated by commas: they can't be imported. Packages for Linux, whose own use of Linux is
none of ours, are imported before anything goes.
"""

import contextlib
import importlib
import os
import runpy
import signal
import sys
import sysconfig
from pathlib import Path

from support import fake_windows
from support.paths import ROOT

_MODULES = ("fcntl", "resource", "pwd", "grp", "termios")
_OF_OS = ("sched_getaffinity", "sysconf", "pwritev", "set_blocking", "fork", "O_DSYNC")
_OF_SIGNAL = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGRTMIN", "SIGRTMAX", "pthread_kill")
_FOLDERS = ("/proc/", "/sys/")
_PACKAGES = ("torch", "numpy", "scipy", "PIL", "tifffile", "accelerate", "psutil", "colorama")
_VARIABLE = "N2S_TEST_LACKING"  # tells worker processes
_STANDARD = sysconfig.get_path("stdlib")


def _asked_by_us() -> bool:
    """Whether a call that an audit hook sees comes from the package, perhaps through the standard library."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        is_standard = name.startswith(("<frozen", _STANDARD)) and "site-packages" not in name
        if not is_standard:
            return name.startswith(str(ROOT / "n2s_dist"))
        frame = frame.f_back
    return False


def _audit(event: str, arguments: tuple) -> None:
    if event == "open" and str(arguments[0]).startswith(_FOLDERS) and _asked_by_us():
        raise FileNotFoundError(2, "No such file or directory", arguments[0])


def move(lacking: str) -> None:
    """From here on this process is elsewhere."""
    for name in filter(None, lacking.split(",")):
        sys.modules[name] = None  # type: ignore[assignment]  # which an import takes for missing
    for name in _PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, _OF_OS), (signal, _OF_SIGNAL)):
        for name in names:
            delattr(module, name)
    fake_windows.install()  # whose locks stand for those of a platform without fcntl
    sys.addaudithook(_audit)


def main() -> None:
    os.environ[_VARIABLE], program, *arguments = sys.argv[1:]
    move(os.environ[_VARIABLE])
    sys.argv = [program, *arguments]
    run = runpy.run_path if program.endswith(".py") else runpy.run_module
    run(program, run_name="__main__")


if __name__ == "__main__":
    assert Path("/proc/self").is_dir(), "where there is no /proc, nothing is proved"
    main()
elif __name__ == "__mp_main__":
    move(os.environ[_VARIABLE])
