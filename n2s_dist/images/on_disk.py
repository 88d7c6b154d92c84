"""Files for packages that read by name alone, whatever they come from: a folder, an archive or memory."""

import contextlib
import io
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import BinaryIO


def on_disk(stream: BinaryIO, path: Path) -> str:
    """The name of a file with a stream's bytes: its own, or that of a copy that lasts as long as the stream.

    path: what the stream is called, which lies inside an archive where it is a member of one.
    """
    is_file = isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO)
    if is_file and _is_readable_name(str(path)):
        return str(path)
    with tempfile.NamedTemporaryFile(prefix="n2s-", suffix=path.suffix, delete=False) as copy:
        weakref.finalize(stream, _remove, copy.name)
        stream.seek(0)
        shutil.copyfileobj(stream, copy)
    return copy.name


def _is_readable_name(name: str) -> bool:
    """Whether a package that takes names as UTF-8 finds the file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        Path(name).unlink()
