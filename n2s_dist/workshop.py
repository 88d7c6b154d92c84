"""The folder a build works in: locked, kept for the next try while it holds anything finished, published in the end.

.OUT.partial/   beside OUT, which it becomes by one rename
OUT/.partial/   where OUT can't be replaced: a mount point, or a folder in one that can't be written;
                then its files are moved one by one, the manifest last
"""

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from n2s_dist.errors import UserError, warn_once
from n2s_dist.locks import try_lock

_MOVING = "moving.json"  # which files are being moved to OUT, and where from
_NOT_OURS = ("lost+found", ".snapshot")  # what file systems keep in their topmost folder
_NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


def locate_out(out: str | Path) -> Path:
    """The absolute path that is meant by --out, a link followed. Raises UserError where it can't become a folder."""
    path = Path(out).absolute()
    try:
        path = path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError):
        raise UserError(f"{path} is a link that leads round in a circle: choose another --out") from None
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is not a folder: choose another --out")
    if not (parent := next(p for p in path.parents if p.exists())).is_dir():
        raise UserError(f"{parent} is not a folder: choose another --out")
    return path


def place_beside(out: Path, name: str = "partial") -> Path:
    """Where to work on what is to become `out`, on the same file system."""
    stays = out.is_dir() and (is_mount_point(out) or not os.access(out.parent, os.W_OK | os.X_OK))
    return out / f".{name}" if stays else out.with_name(f".{out.name}.{name}")


def is_mount_point(folder: Path) -> bool:
    """Whether something is mounted here, a part of the same file system included, which os.path.ismount misses."""
    if os.path.ismount(folder):
        return True
    with contextlib.suppress(OSError):
        fields = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        places = {re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), line[4]) for line in fields}
        return str(folder.resolve()) in places
    return False


def holds_others(out: Path, work: Path) -> bool:
    """Whether a folder holds anything but what is being made of it in `work`."""
    ours = {work.name, *_NOT_OURS, *_moving(work)[1]}
    return out.is_dir() and any(path.name not in ours for path in out.iterdir())


@contextlib.contextmanager
def workshop_of_several(out: Path, node: int) -> Iterator[Path]:
    """The folder that several nodes work in together; kept until one of them removes it."""
    folder = place_beside(out)
    # The first keeps away a build on one node, the second another process that takes itself for this node.
    with (
        try_lock(folder / "lock", shared=True, optional=True) as lock,
        try_lock(folder / f"lock-{node}", optional=True) as own,
    ):
        if not (lock and own):
            raise UserError(f"another process is building {out} as node {node}: wait for it, or stop it")
        yield folder


@contextlib.contextmanager
def workshop(out: Path) -> Iterator[Path]:
    """The folder a build works in, locked; removed when the build ends, or fails with nothing finished."""
    folder = place_beside(out)
    made = [parent for parent in folder.parents if not parent.exists()]
    with try_lock(folder / "lock", optional=True) as lock:
        if not lock:
            raise UserError(f"another process is building {out}: wait for it, or stop it")
        try:
            yield folder
        except BaseException:
            if _has_finished_work(folder):
                print(f"\n{folder} holds what is finished: run the same command again to go on", file=sys.stderr)
                raise
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another program may have put something there
                for parent in made:
                    parent.rmdir()
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _has_finished_work(folder: Path) -> bool:
    journals = folder.glob("*/*.journal*")
    return (folder / _MOVING).exists() or any(path.stat().st_size for path in journals)


def begin(folder: Path, out: Path, options: str) -> Path:
    """Where this build writes below its workshop; what a build with other options left there is removed.

    options: a word for them that names the place.
    """
    take_back(folder, out)
    for path in folder.iterdir():
        if path.is_dir() and path.name != options:
            shutil.rmtree(path)
    (folder / options).mkdir(exist_ok=True)
    return folder / options


def clear(out: Path) -> None:
    """Remove what a build left that was killed between publishing and cleaning up."""
    if place_beside(out).exists():
        with contextlib.suppress(UserError), workshop(out):
            pass


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


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk; a warning where the file system knows no such thing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise OSError(error.errno, error.strerror, str(path)) from None
        kind = "folders" if path.is_dir() else "files"
        warn_once(
            f"no fsync of {kind}",
            f"the file system of {path} can't be told to bring {kind} to the disk: a power cut may lose the last ones",
        )
    finally:
        os.close(descriptor)
