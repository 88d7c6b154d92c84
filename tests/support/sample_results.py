"""An evaluation's folder without an evaluation: results.json and pictures, of photographs blurred a little."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from n2s_dist.evaluation.published import paper_db
from n2s_dist.evaluation.results import describe_measures
from n2s_dist.metrics.base import BUILT_IN
from n2s_dist.metrics.metric import Measure

# A name that would be markup, one that would end the page's data, and one that would leave the pictures' folder.
HOSTILE = "<img src=x onerror=document.title='broken'>.png"
ENDING = "</script><script>document.title='broken'</script>.png"
OUTSIDE = "../../outside.png"
MISSING = "no <b>checkpoint</b> for gray images"

ADDED = Measure("mae", "MAE", digits=3, unit="levels", higher_is_better=False)  # of a metric from elsewhere
_MEASURED = [*BUILT_IN, ADDED]
MEASURES = tuple(measure.key for measure in _MEASURED)
_LEVELS = {"known": 1.0, "unknown": 1.1}  # the blur's radius


def write(folder: Path) -> dict[str, Any]:
    """Known and unknown level, two noises, a gray and a color benchmark, and real photographs; the results."""
    color = {
        name: getattr(skimage.data, stem)()[100:196, 140:260] / 255
        for name, stem in {HOSTILE: "astronaut", "coffee.png": "coffee", "chelsea.jpg": "chelsea"}.items()
    }
    gray = {name: getattr(skimage.data, name[:-4])()[100:164, 100:180] / 255 for name in ("camera.png", "coins.png")}
    cells = []
    for number, noise in enumerate(("gaussian:25", "poisson:0.05")):
        rng = np.random.default_rng(number)
        for benchmark, images in {"cbsd68": color, "set12": gray}.items():
            pairs = {name: (clean, _corrupt(clean, noise, rng)) for name, clean in images.items()}
            for level in _LEVELS:
                if benchmark == "set12" and noise != "gaussian:25":
                    cells.append(_cell(noise, level, benchmark) | {"missing": MISSING})
                else:
                    cells.append(_computed(folder, noise, level, benchmark, pairs))
    first = cells[0]
    others = [{**row, "name": name, "psnr_db": row["psnr_db"] + 3} for row, name in
              zip(first["images"], (ENDING, OUTSIDE), strict=False)]  # fmt: skip
    first["images"] += others
    cells.append(first | {"method": "bm3d", "checkpoint": None, "samples_seen": None, "posterior": None,
                          "psnr_db": 28.0, "images": first["images"][:3]})  # fmt: skip
    real = {"night.png": (None, _corrupt(color["coffee.png"], "gaussian:25", np.random.default_rng(9)))}
    cells.append(_computed(folder, "gaussian:25", "unknown", "real", real))
    results = {
        "seed": 0,
        "versions": {"n2s_dist": "0.1.0", "python": "3.11.7"},
        "hardware": {"device": "cpu", "processor": "a <i>processor</i>", "cores": 2},
        "protocol": "float: noise neither clipped nor quantised",
        "measures": describe_measures(_MEASURED),
        "cells": cells,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return results


def _corrupt(clean: np.ndarray, noise: str, rng: np.random.Generator) -> np.ndarray:
    if noise == "gaussian:25":
        return clean + rng.normal(0, 25 / 255, clean.shape)
    return 0.05 * rng.poisson(clean / 0.05)


def _cell(noise: str, level: str, benchmark: str) -> dict[str, Any]:
    paper = paper_db(noise, level, benchmark)
    return {"noise": noise, "level": level, "method": "n2s", "benchmark": benchmark, "paper_db": paper}


def _computed(folder: Path, noise: str, level: str, benchmark: str, pairs: dict) -> dict[str, Any]:
    where = folder / "pictures" / f"{noise.replace(':', '_')}-{level}" / benchmark
    where.mkdir(parents=True)
    rows = []
    for name, (clean, noisy) in pairs.items():
        width = _LEVELS[level]
        estimate = np.clip(gaussian_filter(noisy, (width, width, 0)[: noisy.ndim]), 0, 1)
        std = np.abs(noisy - estimate)
        pictures = {"clean": clean, "noisy": noisy, "denoised": estimate, "std": std if level == "known" else None}
        for kind, picture in pictures.items():
            if picture is not None:
                pixels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
                Image.fromarray(pixels).save(where / f"{name[:-4]}-{kind}.png")
        rows.append(_row(name, clean, noisy, estimate) | {"estimated": None if level == "known" else _guess(noise)})
    means = {key: None if rows[0][key] is None else float(np.mean([row[key] for row in rows])) for key in MEASURES}
    posterior = {"mse_ratio": 1.03, "within_one_std": 0.7} if level == "known" else None
    return _cell(noise, level, benchmark) | means | {
        "num_images": len(rows), "checkpoint": "universal-color", "samples_seen": 1000, "protocol": "float",
        "posterior": posterior, "images": rows,
    }  # fmt: skip


def _row(name: str, clean: np.ndarray | None, noisy: np.ndarray, estimate: np.ndarray) -> dict[str, Any]:
    size = {"name": name, "height": noisy.shape[0], "width": noisy.shape[1]}
    if clean is None:
        return size | dict.fromkeys(MEASURES)
    axis = -1 if clean.ndim == 3 else None
    psnr = [peak_signal_noise_ratio(clean, each, data_range=1) for each in (noisy, estimate, estimate)]
    ssim = structural_similarity(clean, estimate, data_range=1, channel_axis=axis)
    mae = 255 * np.abs(clean - estimate).mean()
    return size | dict(zip(MEASURES, map(float, (*psnr, ssim, mae)), strict=True))


def _guess(noise: str) -> str:
    """2 % too high."""
    family, _, level = noise.partition(":")
    return f"{family}:{float(level) * 1.02:g}"
