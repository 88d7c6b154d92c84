"""Locks on files as Windows has them; locks.py takes these where there is no fcntl.

LockFileEx keeps others from the very bytes that it locks. So one byte is locked that no file comes to, and what stands
in the file can be read while somebody holds it. As with flock, who ends lets go.
"""

import ctypes
from typing import IO, Any

_FAIL_AT_ONCE, _EXCLUSIVE = 1, 2  # LOCKFILE_FAIL_IMMEDIATELY, LOCKFILE_EXCLUSIVE_LOCK
_HELD = (33, 997)  # ERROR_LOCK_VIOLATION, ERROR_IO_PENDING
_FAR = 0x7FFFFFFF  # the upper half of the byte's place


class _Overlapped(ctypes.Structure):
    """OVERLAPPED: where the locked bytes begin."""

    _fields_ = (
        ("internal", ctypes.c_void_p),
        ("internal_high", ctypes.c_void_p),
        ("offset", ctypes.c_uint32),
        ("offset_high", ctypes.c_uint32),
        ("event", ctypes.c_void_p),
    )


def lock(file: IO[Any], shared: bool) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError where another handle has it, OSError for the rest.

    shared: with others that share it.
    """
    import msvcrt  # of Windows alone

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    handle = ctypes.c_void_p(msvcrt.get_osfhandle(file.fileno()))  # type: ignore[attr-defined]
    place = _Overlapped(offset_high=_FAR)
    flags = _FAIL_AT_ONCE | (0 if shared else _EXCLUSIVE)
    if kernel.LockFileEx(handle, flags, 0, 1, 0, ctypes.byref(place)):
        return
    error = ctypes.get_last_error()  # type: ignore[attr-defined]
    if error in _HELD:
        raise BlockingIOError(f"another handle has {file.name} locked")
    raise ctypes.WinError(error)  # type: ignore[attr-defined]
