#!/usr/bin/env python3
"""Run docs/notebook.ipynb from its first cell to its last. A cell that fails ends this with its traceback.

docs/run_notebook.py            checks that it runs
docs/run_notebook.py --keep     also writes its outputs into it, without times
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")
CELL_SEC = 1800  # the most that one cell may take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="write the outputs into the notebook")
    args = parser.parse_args()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=CELL_SEC, kernel_name="python3", record_timing=False, resources=place).execute()
    if args.keep:
        nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
