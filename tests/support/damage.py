"""Files that are no longer whole."""

from pathlib import Path


def cut_in_the_middle(path: Path) -> None:
    """Leave a file the first half of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
