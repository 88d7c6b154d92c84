"""Image by image, where a network was chosen for each: PSNR before and after, the noise it was told, and its name."""

from typing import Any

import numpy as np

from n2s_dist.evaluation.results import ResultCell
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.specification import noise_title, parse_noise
from n2s_dist.utils.errors import UserError


def format_image_lists(results: dict[str, Any]) -> str:
    """A list for each such cell, at most 80 columns wide; empty where there is none."""
    return "\n\n".join(_list(cell) for cell in results["cells"] if networks_chosen(cell))


def networks_chosen(cell: ResultCell) -> list[str]:
    """Of each image of a cell, where it was chosen for the image; else nothing."""
    return [row["network"] for row in cell.get("images", []) if row.get("network")]


def _list(cell: ResultCell) -> str:
    """std: of the noise that was told, at middle gray, in 8-bit levels. width: of its correlation, in pixels."""
    lines = [
        f"{cell['benchmark']}, {cell['method']}: PSNR in dB; the noise that was told at middle gray, of 255",
        f"{'image':<32}{'noisy':>7}{'PSNR':>7}{'std':>7}{'width':>7}  network",
    ]
    for row in cell["images"]:
        told = _parsed(row.get("estimated"))
        std, width = (_std(told), told.width or None) if told else (None, None)
        figures = _number(row.get("psnr_noisy_db")) + _number(row.get("psnr_db")) + _number(std, 1) + _number(width, 1)
        lines.append(f"{row['name'][-31:]:<32}{figures}  {str(row.get('network', ''))[-18:]}")
    pairs = [(row.get("psnr_noisy_db"), row.get("psnr_db")) for row in cell["images"]]
    known = [(noisy, denoised) for noisy, denoised in pairs if noisy is not None and denoised is not None]
    if known:
        worse = sum(denoised < noisy for noisy, denoised in known)
        lines.append(f"{worse} of {len(known)} images came out below the noisy one")
    return "\n".join(lines)


def short_noise(text: str | None) -> str | None:
    """What results say of an image's noise, as a cell of a table holds it: of a curve, which has many points, less."""
    told = _parsed(text)
    if told is None or not told.text_form:
        return text
    return f"{noise_title(str(text))}, {_std(told):.1f} at middle gray"


def _parsed(text: str | None) -> NoiseModel | None:
    """None where no noise was told, or one of a family that this program does not know."""
    try:
        return parse_noise(text) if text else None
    except UserError:
        return None


def _std(noise: NoiseModel) -> float:
    """In 8-bit levels, the mean of the channels."""
    return 255 * float(np.mean(noise.std(0.5)))


def _number(value: float | None, digits: int = 2) -> str:
    return f"{'-' if value is None else format(value, f'.{digits}f'):>7}"
