"""results.json: what an evaluation writes, and every report reads."""

import json
from pathlib import Path
from typing import Any

from n2s_dist.metrics.base import BUILT_IN
from n2s_dist.metrics.metric import Measure
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import fitting_name

ResultCell = dict[str, Any]  # of results.json

_KEYS = ("seed", "versions", "hardware", "protocol", "cells")
_CELL_KEYS = ("noise", "level", "method", "benchmark")


def picture_name(image: str, kind: str) -> str:
    """Of an image's noisy, denoised or clean picture, or of its deviations (std), in its benchmark's folder."""
    return fitting_name(image.rsplit(".", 1)[0], f"-{kind}.png")


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of an evaluation's --out folder. Raises UserError where it is none."""
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no results.json: run n2s evaluate with --out {folder} first") from None
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON ({error}): run n2s evaluate again") from None
    if not isinstance(results, dict) or not set(_KEYS) <= results.keys():
        raise UserError(f"{path} is not an evaluation's (no {', '.join(_KEYS)}): run n2s evaluate again")
    for number, cell in enumerate(results["cells"]):
        keys = cell.keys() if isinstance(cell, dict) else set()
        if not set(_CELL_KEYS) <= keys or not {"missing", "images"} & keys:
            raise UserError(f"{path}: cell {number} has not all of {', '.join(_CELL_KEYS)}, images or missing")
    try:
        measures_of(results)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: its measures are not an evaluation's ({error}): run n2s evaluate again") from None
    return results


def describe_measures(measures: list[Measure]) -> list[dict[str, Any]]:
    """What results.json says of the figures of its images and cells, so that a report needs no metric at hand."""
    return [
        {"key": each.key, "title": each.title, "digits": each.digits, "unit": each.unit,
         "higher_is_better": each.higher_is_better}
        for each in measures
    ]  # fmt: skip


def measures_of(results: dict[str, Any]) -> list[Measure]:
    """The figures that results.json holds of each image and cell; PSNR and SSIM where it was written before it said.

    Raises TypeError, ValueError or KeyError for what describe_measures does not write.
    """
    if "measures" not in results:
        return list(BUILT_IN)
    return [
        Measure(str(each["key"]), str(each["title"]), int(each["digits"]), str(each["unit"]),
                bool(each["higher_is_better"]))
        for each in results["measures"]
    ]  # fmt: skip
