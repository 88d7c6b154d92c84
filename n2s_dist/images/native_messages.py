"""What packages print about damage, instead of saying it to their caller."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def damage_printed(*signs: str) -> Iterator[None]:
    """ValueError with the line that a package prints, where it has one of some words.

    Nothing that is printed meanwhile is shown: what is wrong with a file is said in one line, by others.
    """
    printed = io.StringIO()
    with _stderr_kept() as kept, contextlib.redirect_stdout(printed):
        yield
    lines = [*printed.getvalue().splitlines(), *kept]
    if line := next((line for line in lines if any(sign in line for sign in signs)), None):
        raise ValueError(line.strip())


@contextlib.contextmanager
def _stderr_kept() -> Iterator[list[str]]:
    """The lines that come to stderr, from libraries in C as well; they are there afterwards."""
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        try:
            shown = os.dup(2)
        except OSError:  # there is no stderr
            yield said
            return
        stack.callback(os.close, shown)
        file = stack.enter_context(_nameless())
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(shown, 2)
            file.seek(0)
            said += file.read(2**16).decode("utf-8", "replace").splitlines()


def _nameless() -> IO[bytes]:
    """A file in memory where there are such; else one on the disk, which goes when it is closed."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("messages"), "w+b")
    return tempfile.TemporaryFile()
