"""The calls of Windows that locks on files make, as its documentation has them, on top of flock."""

import ctypes
import errno
import fcntl
import os
import sys
import types

_FIRST_HANDLE = 1000  # no handle is a descriptor
_LOCK_VIOLATION, _INVALID_HANDLE = 33, 6
_flock, _LOCKS = fcntl.flock, (fcntl.LOCK_SH, fcntl.LOCK_EX)
_last_error = 0


def _lock_file_ex(handle, flags, reserved, low, high, place) -> int:
    """BOOL LockFileEx(HANDLE, DWORD dwFlags, DWORD dwReserved, DWORD low, DWORD high, LPOVERLAPPED)."""
    global _last_error
    overlapped = place._obj
    assert ctypes.sizeof(overlapped) == 32 and type(overlapped).offset.offset == 16
    assert reserved == 0 and (low, high) == (1, 0)
    assert (overlapped.offset_high << 32 | overlapped.offset) > 2**40  # where nobody reads or writes
    assert flags & 1, "it would wait"
    try:
        _flock(handle.value - _FIRST_HANDLE, _LOCKS[flags >> 1] | fcntl.LOCK_NB)
    except BlockingIOError:
        _last_error = _LOCK_VIOLATION
        return 0
    except OSError:
        _last_error = _INVALID_HANDLE
        return 0
    return 1


def install() -> None:
    """Let this process have msvcrt, and ctypes what it has on Windows."""
    msvcrt = types.ModuleType("msvcrt")
    msvcrt.get_osfhandle = lambda descriptor: descriptor + _FIRST_HANDLE  # type: ignore[attr-defined]
    sys.modules["msvcrt"] = msvcrt
    kernel = types.SimpleNamespace(LockFileEx=_lock_file_ex)
    ctypes.WinDLL = lambda name, use_last_error: {"kernel32": kernel}[name]
    ctypes.get_last_error = lambda: _last_error
    ctypes.WinError = lambda code: OSError(errno.EBADF, os.strerror(errno.EBADF))
