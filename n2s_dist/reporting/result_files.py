"""The files of an evaluation: results.json, and its table as Markdown and CSV."""

import json
from pathlib import Path
from typing import Any

from n2s_dist.reporting.tables import to_csv, to_markdown
from n2s_dist.utils.files import atomic_write


def write(out: Path, results: dict[str, Any]) -> list[Path]:
    """results.json, table.md and table.csv, each whole or not there."""
    texts = {
        "table.md": to_markdown(results),
        "table.csv": to_csv(results),
        "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with atomic_write(out / name) as partial:
            partial.write_text(text, encoding="utf-8", errors="surrogateescape")
    return [out / name for name in texts]
