"""The files of an evaluation: results.json, and its table as Markdown and CSV."""

import json
from pathlib import Path
from typing import Any

from n2s_dist.reporting.tables import to_csv, to_markdown


def write(out: Path, results: dict[str, Any]) -> list[Path]:
    """results.json, table.md and table.csv, each whole or not there."""
    texts = {
        "table.md": to_markdown(results),
        "table.csv": to_csv(results),
        "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        partial_file = out / f".{name}.partial"
        partial_file.write_text(text)
        partial_file.replace(out / name)
    return [out / name for name in texts]
