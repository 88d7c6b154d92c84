"""What the bench_*.py programs share: images to measure on, and how results are written."""

import json
import os
import platform
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image


def photographs_folder(scratch: str | Path) -> Path:
    """Write scikit-image's color photographs as PNGs below a scratch folder and return where."""
    folder = Path(scratch) / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "retina"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    return folder


def photograph_of_size(height: int, width: int) -> np.ndarray:
    """A uint8 photograph [height, width, 3] pieced together from scikit-image's, by reflection."""
    image = skimage.data.retina()
    pads = [(0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)]
    return np.pad(image, pads, mode="symmetric")[:height, :width]


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def report(path: Path | None, *, ratios: dict[str, float], figures: dict[str, float], machine: dict) -> None:
    """Print the figures, and write them as JSON where asked."""
    for name, value in {**ratios, **figures}.items():
        print(f"{name:>32}  {value:,.0f}" if value >= 1000 else f"{name:>32}  {value:.4g}")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"ratios": ratios, "figures": figures, "machine": machine}, indent=1) + "\n")
