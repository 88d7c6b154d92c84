"""Where the repository is."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOYS = ROOT / "tests/support/toys"  # extensions in one file each, as docs/extending.md shows them
