"""Which curves of a run are worth looking at: the one list behind the wandb dashboard and the PNGs."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from n2s_dist.metrics.base import measures
from n2s_dist.utils.errors import UserError


class Panel(NamedTuple):
    """Metrics that belong in one picture, by their keys in metrics.jsonl. log: on a logarithmic axis."""

    title: str
    keys: tuple[str, ...]
    log: bool = False


SECTIONS: dict[str, tuple[Panel, ...]] = {
    "training": (
        Panel("loss", ("loss", "val_loss")),
        Panel("gradient norm", ("gradient_norm",), log=True),
        Panel("learning rate", ("learning_rate",)),
        Panel("sigma_a, mean of the last interval", ("sigma_a",)),
        Panel("loss scale (fp16)", ("loss_scale",), log=True),
    ),
    "throughput": (
        Panel("samples/s", ("samples_per_sec", "samples_per_sec_per_rank")),
        Panel("step time (ms)", ("step_ms_p50", "step_ms_p90", "step_ms_p99")),
        Panel("share of time waiting for data, for other ranks", ("data_wait_frac", "exchange_wait_frac")),
        Panel("each rank's own time a step (ms)", ("step_ms_by_rank",)),
        Panel("slowest rank over median rank", ("straggler_ratio",)),
        Panel("number of the slowest rank", ("slowest_rank",)),
        Panel("model FLOP utilisation", ("mfu",)),
        Panel("memory (MiB), largest of all ranks", ("memory_mib",)),
        Panel("samples to go", ("samples_to_go",)),
        Panel("time the loop stood still for a checkpoint (s)", ("checkpoint_pause_sec",)),
    ),
    "validation": (Panel("PSNR on held-out tiles (dB)", ("val_psnr_db", "val_psnr_noisy_db")),),
}
# Logged for some runs alone: under fp16.
OPTIONAL = frozenset({"loss_scale"})


def benchmark_measures() -> list[str]:
    """What is worth a chart of an evaluation at the noise of training, logged as BENCHMARK/KEY; denoised images first.

    8-bit figures are next to those of the unrounded images.
    """
    shown = [measure for measure in measures() if measure.version != "uint8"]
    return [measure.key for measure in sorted(shown, key=lambda measure: measure.version != "estimate")]


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a line that is being written just now is left out."""
    path = run_dir / "metrics.jsonl"
    try:
        lines = path.read_text(errors="replace").splitlines(keepends=True)
    except OSError:
        raise UserError(f"{path} is not readable: give run directories that n2s train has logged to") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.endswith("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not (isinstance(row, dict) and isinstance(row.get("samples_seen"), int)):
                raise UserError(f"{path} is damaged in line {number}: each should be a JSON object with samples_seen")
            rows.append(row)
    return rows


def curve(rows: Iterable[dict[str, Any]], key: str) -> tuple[list[int], list[Any]]:
    """samples_seen and values of one metric, where it was logged and finite.

    Values that are lists, one value a rank, are of one length: NaN stands for ranks that others did not have.
    """
    points = [(row["samples_seen"], row[key]) for row in rows if row.get(key) is not None]
    values = [value for _, value in points]
    most = max((len(value) for value in values if isinstance(value, list)), default=0)
    if most:
        values = [(value if isinstance(value, list) else [value]) for value in values]
        values = [value + [math.nan] * (most - len(value)) for value in values]
    return [seen for seen, _ in points], values


def training_hours(rows: Iterable[dict[str, Any]], until: int | None = None) -> float:
    """Hours that a run's steps took, up to `until` samples or to its end; what a resumed run repeats counts once."""
    seconds, before = 0.0, 0
    for seen, speed in zip(*curve(rows, "samples_per_sec"), strict=True):
        if before < seen and (until is None or seen <= until):
            seconds += (seen - before) / speed
            before = seen
    return seconds / 3600


def run_names(folders: list[Path]) -> list[str]:
    """What to call each run: its folder's name, or its path where two would be called the same."""
    short = [folder.resolve().name for folder in folders]
    return [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders, strict=True)]
