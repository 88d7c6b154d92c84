"""A word on files that are cut short while they are mapped: the kernel answers a look at what is gone with SIGBUS.

Python can't handle that signal, since the look would be taken again and again; C code must end the process.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_SA_SIGINFO = 4
_ADDRESS_AT = 16  # of siginfo_t, in bytes, on 64-bit systems
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    """struct sigaction of glibc and musl."""

    _fields_ = (
        ("handler", _HANDLER),
        ("mask", ctypes.c_byte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def file_at(address: int) -> str:
    """The file that is mapped at an address of this process; empty where there is none."""
    for line in os.fsdecode(Path("/proc/self/maps").read_bytes()).split("\n"):
        words = line.split(maxsplit=5)
        first, last = (int(word, 16) for word in words[0].split("-"))
        if first <= address < last and len(words) == 6:
            return words[5]
    return ""


@_HANDLER
def _end(number: int, info: int, _: int) -> None:
    address = ctypes.c_void_p.from_address(info + _ADDRESS_AT).value or 0
    said = f"{file_at(address) or 'a mapped file'} was cut short or can't be read any more, while it was in use"
    os.write(2, os.fsencode(f"\nerror: {said}: mend it and run the same command again\n"))
    os._exit(1)


def guard() -> None:
    """From here on the process ends with a line and exit code 1 where it would have died without a word."""
    if sys.platform == "linux" and sys.maxsize > 2**32:
        action = _Action(_end, flags=_SA_SIGINFO)
        ctypes.CDLL(None, use_errno=True).sigaction(signal.SIGBUS, ctypes.byref(action), None)
