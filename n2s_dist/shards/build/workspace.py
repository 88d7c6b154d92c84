"""The folder a build works in: locked, kept for the next try while it holds anything finished, published in the end."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import expanded
from n2s_dist.utils.locks import try_lock
from n2s_dist.utils.publishing import is_half_published, place_beside, take_back


def locate_out(out: str | Path) -> Path:
    """The absolute path that is meant by --out, a link followed. Raises UserError where it can't become a folder."""
    path = Path(expanded("--out", str(out))).absolute()
    try:
        path = path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError):
        raise UserError(f"{path} is a link that leads round in a circle: choose another --out") from None
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is not a folder: choose another --out")
    if not (parent := next(p for p in path.parents if p.exists())).is_dir():
        raise UserError(f"{parent} is not a folder: choose another --out")
    return path


@contextlib.contextmanager
def shared_workspace(out: Path, node: int) -> Iterator[Path]:
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
def workspace(out: Path) -> Iterator[Path]:
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
    return is_half_published(folder) or any(path.stat().st_size for path in journals)


def begin(folder: Path, out: Path, options: str) -> Path:
    """Where this build writes below its workspace; what a build with other options left there is removed.

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
        with contextlib.suppress(UserError), workspace(out):
            pass
