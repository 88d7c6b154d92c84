"""Where a folder that is being made lies until it is whole, and how it then gets its name.

.OUT.NAME/   beside OUT, which it becomes by one rename
OUT/.NAME/   where OUT can't be replaced: a mount point, or a folder in one that can't be written;
             then its files are moved one by one, a manifest.json last
"""

import contextlib
import json
import os
import re
from pathlib import Path

from n2s_dist.utils.files import sync

_MOVING = "moving.json"  # which files are being moved to OUT, and where from
_NOT_OURS = ("lost+found", ".snapshot")  # what file systems keep in their topmost folder


def place_beside(out: Path, name: str = "partial") -> Path:
    """Where to work on what is to become `out`, on the same file system."""
    stays = out.is_dir() and (is_mount_point(out) or not os.access(out.parent, os.W_OK | os.X_OK))
    return out / f".{name}" if stays else out.with_name(f".{out.name}.{name}")


def is_mount_point(folder: Path) -> bool:
    """Whether something is mounted here, a part of the same file system included, which os.path.ismount misses."""
    if os.path.ismount(folder):
        return True
    with contextlib.suppress(OSError):
        lines = os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).split("\n")
        fields = [line.split(" ") for line in lines if line]
        places = {re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), line[4]) for line in fields}
        return str(folder.resolve()) in places
    return False


def holds_others(out: Path, work: Path) -> bool:
    """Whether a folder holds anything but what is being made of it in `work`."""
    ours = {work.name, *_NOT_OURS, *_moving(work)[1]}
    return out.is_dir() and any(path.name not in ours for path in out.iterdir())


def publish(folder: Path, out: Path, work: Path) -> None:
    """Give a complete folder its name. A folder that can't be replaced gets its files, manifest.json last.

    work: the place beside `out` that holds the folder.
    """
    for path in (*folder.glob("*.json*"), folder):
        sync(path)
    if out.is_dir():
        try:
            out.rmdir()
        except OSError:
            _move_into(out, folder, work)
            return
    folder.rename(out)
    sync(out.parent)


def _move_into(out: Path, folder: Path, work: Path) -> None:
    files = sorted(folder.iterdir(), key=lambda path: (path.name == "manifest.json", path.name))
    note = {"from": str(folder.relative_to(work)), "files": [path.name for path in files]}
    (work / _MOVING).write_text(json.dumps(note))
    for path in files:
        path.rename(out / path.name)
    sync(out)


def _moving(work: Path) -> tuple[str, list[str]]:
    """The folder below `work`, and the names of its files, that were being moved when it ended."""
    try:
        note = json.loads((work / _MOVING).read_text())
        return note["from"], note["files"]
    except (OSError, ValueError):
        return "", []


def take_back(work: Path, out: Path) -> None:
    """Undo a publication that was interrupted."""
    folder, names = _moving(work)
    for name in names:
        if (out / name).exists():
            (out / name).rename(work / folder / name)
    (work / _MOVING).unlink(missing_ok=True)


def is_half_published(work: Path) -> bool:
    """Whether files were being moved to their place when it ended."""
    return (work / _MOVING).exists()
