#!/usr/bin/env python3
"""What the package's networks make of small noisy images: computed, recorded, and compared with the record.

    PYTHONPATH=. python tests/data/written_before/outputs.py      records anew: only where results are meant to change

The record is outputs.npz beside this script:

    noisy/CHANNELS/NOISE        float16 [H, W, C], on the 0-1 scale
    NETWORK/CASE/estimate       float32 [H, W, C]
    NETWORK/CASE/std            the same, of cases with uncertainty
    NETWORK/CASE/family         text, of cases whose noise is estimated, and
    NETWORK/CASE/level          float64 []
"""

from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image

from n2s_dist import load_denoiser

RECORD = Path(__file__).resolve().with_name("outputs.npz")

# The noise of the image, and what the denoiser is asked for.
GAUSSIAN: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian_15": ("gaussian:15", {"noise": "gaussian:15"}),
    "gaussian_25": ("gaussian:25", {"noise": "gaussian:25"}),
    "ensemble": ("gaussian:25", {"noise": "gaussian:25", "ensemble": True}),
    "uncertainty": ("gaussian:25", {"noise": "gaussian:25", "uncertainty": True}),
    "level_unknown": ("gaussian:25", {"noise": "gaussian"}),
}
ALL: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian_25": ("gaussian:25", {"noise": "gaussian:25"}),
    "poisson": ("poisson:0.02", {"noise": "poisson:0.02"}),
    "gamma": ("gamma:50", {"noise": "gamma:50"}),
    "poisson_gaussian": ("poisson_gaussian:0.02:8", {"noise": "poisson_gaussian:0.02:8"}),
    "ensemble": ("poisson:0.02", {"noise": "poisson:0.02", "ensemble": True}),
    "uncertainty": ("gamma:50", {"noise": "gamma:50", "uncertainty": True}),
    "unknown": ("gaussian:25", {"noise": "unknown"}),
    "unknown_poisson": ("poisson:0.02", {"noise": "unknown"}),
}
CASES = {
    "gaussian-color": GAUSSIAN,
    "gaussian-gray": GAUSSIAN,
    "gaussian25-gray": GAUSSIAN,
    "universal-color": ALL,
    "universal-gray": ALL,
}


def noisy_images() -> dict[str, np.ndarray]:
    """One piece of a photograph, in color and in gray, with each noise of the cases."""
    out = {}
    piece = Image.fromarray(skimage.data.astronaut()[70:104, 190:227])
    for channels, kind in ((1, "L"), (3, "RGB")):
        clean = (np.asarray(piece.convert(kind)) / 255).reshape(34, 37, channels)
        for noise in sorted({noise for cases in CASES.values() for noise, _ in cases.values()}):
            rng = np.random.Generator(np.random.Philox(7))
            family, *levels = noise.split(":")
            level, sigma = float(levels[0]), float(levels[-1]) / 255
            if family == "gaussian":
                noisy = clean + sigma * rng.standard_normal(clean.shape)
            elif family == "gamma":
                noisy = clean * rng.gamma(level, 1 / level, clean.shape)
            else:
                noisy = level * rng.poisson(clean / level)
                if family == "poisson_gaussian":
                    noisy += sigma * rng.standard_normal(clean.shape)
            out[f"noisy/{channels}/{noise}"] = noisy.astype(np.float16)
    return out


def compute(network: str, noisy: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a network of the package answers in each of its cases, on the CPU with one thread."""
    torch.set_num_threads(1)
    denoise = load_denoiser(network, device="cpu")
    channels = 1 if network.endswith("gray") else 3
    out = {}
    for case, (noise, wanted) in CASES[network].items():
        estimate, info = denoise(noisy[f"noisy/{channels}/{noise}"].astype(np.float32), **wanted)
        out[f"{network}/{case}/estimate"] = estimate
        if info.std is not None:
            out[f"{network}/{case}/std"] = info.std
        if info.estimated:
            out[f"{network}/{case}/family"] = np.array(info.noise.family)
            out[f"{network}/{case}/level"] = np.array(info.noise.level)
    return out


def read_record() -> dict[str, np.ndarray]:
    with np.load(RECORD, allow_pickle=False) as record:
        return dict(record)


def main() -> None:
    noisy = noisy_images()
    outputs = {key: values for network in CASES for key, values in compute(network, noisy).items()}
    np.savez_compressed(RECORD, **noisy, **outputs)
    print(f"wrote {len(outputs)} arrays to {RECORD}, {RECORD.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
