"""What the bench_*.py programs share: images to measure on, turns with a bar, and how results are shown and written.

tools/bench.py runs/bench      one table of what they wrote there
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from tqdm import tqdm

_shown: set[str] = set()  # figures that were printed


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


def turns(count: int, budget_sec: float, title: str) -> Iterator[tuple[int, tqdm]]:
    """Numbers of turns with a bar on stderr, `count` of them or as many as the time allows, but always four."""
    started = time.perf_counter()
    with tqdm(total=count, desc=title, unit="turn", file=sys.stderr, dynamic_ncols=True) as bar:
        for turn in range(count):
            if turn >= 4 and time.perf_counter() - started > budget_sec:
                bar.write(f"{title}: {turn} turns of {count}, since {budget_sec:.0f} s have passed", file=sys.stderr)
                return
            yield turn, bar
            bar.update()


def say(text: str) -> None:
    """Print a line above the bars, at once."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def show(name: str, value: float) -> float:
    """Print a figure as soon as it is there."""
    say(f"{name:>36}  {value:,.0f}" if value >= 1000 else f"{name:>36}  {value:.4g}")
    _shown.add(name)
    return value


def report(path: Path | None, *, ratios: dict[str, float], figures: dict[str, float], machine: dict) -> None:
    """Print the figures that were not shown before, and write all of them as JSON where asked."""
    for name, value in {**ratios, **figures}.items():
        if name not in _shown:
            show(name, value)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"ratios": ratios, "figures": figures, "machine": machine}, indent=1) + "\n")


def table(folder: Path) -> str:
    """What the programs wrote into a folder, one JSON each, as one table: ratios first."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    rows = [
        (name if kind == "figures" else f"{name} (ratio)", stem, value)
        for kind in ("ratios", "figures")
        for stem, each in found.items()
        for name, value in each[kind].items()
    ]
    lines = [f"{stem:>12}  {name:<48}  {value:>12,.{0 if value >= 1000 else 3}f}" for name, stem, value in rows]
    machines = {json.dumps(each["machine"].get("processor", "")) for each in found.values()}
    return "\n".join([*lines, *(f"measured on {name.strip(chr(34))}" for name in sorted(machines))])


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
