"""The folder a build works in: locked, kept for the next try when interrupted, published whole or not at all."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from n2s_dist.utils.errors import RunFailed, UserError
from n2s_dist.utils.files import sync
from n2s_dist.utils.locks import try_lock


@contextlib.contextmanager
def shared_workspace(out: Path, node: int) -> Iterator[Path]:
    """The folder that several nodes work in together; kept until one of them removes it."""
    folder = out.with_name(f".{out.name}.partial")
    # The first keeps away a build on one node, the second another process that takes itself for this node.
    with try_lock(folder / "lock", shared=True) as lock, try_lock(folder / f"lock-{node}") as own:
        if not (lock and own):
            raise UserError(f"another process is building {out} as node {node}: wait for it, or stop it")
        yield folder


@contextlib.contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """The folder a build works in, locked; kept when the build is interrupted, removed when it ends or fails."""
    folder = out.with_name(f".{out.name}.partial")
    made = [parent for parent in folder.parents if not parent.exists()]
    with try_lock(folder / "lock") as lock:
        if not lock:
            raise UserError(f"another process is building {out}: wait for it, or stop it")
        try:
            yield folder
        except (KeyboardInterrupt, RunFailed):
            print("\nrun the same command again to go on", file=sys.stderr)
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another program may have put something there
                for parent in made:
                    parent.rmdir()
            raise
        shutil.rmtree(folder, ignore_errors=True)


def begin(folder: Path, origin: str) -> Path:
    """Where this build writes below its workspace; what a build of something else left there is removed."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != origin[:16]:
            shutil.rmtree(path)
    (folder / origin[:16]).mkdir(exist_ok=True)
    return folder / origin[:16]


def clear(out: Path) -> None:
    """Remove what a build left that was killed between publishing and cleaning up."""
    if out.with_name(f".{out.name}.partial").exists():
        with contextlib.suppress(UserError), workspace(out):
            pass


def publish(folder: Path, out: Path) -> None:
    """Give a complete folder its name."""
    for path in (*folder.glob("*.json*"), folder):
        sync(path)
    if out.is_dir():
        out.rmdir()
    folder.rename(out)
    sync(out.parent)
