"""Standard output and error that no program ends by: whoever read them may be gone, or the disk they go to full.

A terminal that was closed, `| head -1`, `2>&-`, a log on a full disk: what can't be written is dropped, and the program
goes on. What the encoding of a terminal does not have is written as an escape.

This module imports nothing that takes time, so that it can guard before anything else is imported.
"""

import contextlib
import io
import os
import sys
from typing import TextIO


class _Forgiving(io.FileIO):
    """A file that takes everything, whatever becomes of it."""

    def write(self, data) -> int:
        with contextlib.suppress(OSError):
            written = super().write(data)
            if written is not None:
                return written
        return len(data)


def guard() -> None:
    """From here on printing never fails. Anything but the interpreter's own streams is left as it is."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened would get its number, and what C code writes to it
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and not _is_guarded(stream):
            guarded = _guarded(1 if name == "stdout" else 2, stream)
            setattr(sys, name, guarded)
            setattr(sys, f"__{name}__", guarded)


def _is_guarded(stream: TextIO | None) -> bool:
    return isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Forgiving)


def _guarded(descriptor: int, stream: TextIO | None) -> TextIO:
    """A text stream to a descriptor, like one that was there, if there was one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.flush()  # type: ignore[union-attr]
    raw = _Forgiving(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=descriptor == 2 or getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )
