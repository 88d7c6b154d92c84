#!/usr/bin/env python3
"""What a GPU does with this project, measured in minutes: one JSON, figures as they come, the weights of a short run.

    tools/gpu_acceptance.py --out OUT [--device gpu] [--seconds 120]

Needs no data: it trains on scikit-image's photographs and validates on one of them. OUT/acceptance.json is written anew
after each part, so that what was measured stays when time runs out. tools/gpu_acceptance.sh sets up and calls this.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import machine, photograph_of_size, photographs_folder
from bench_step import Switches, make_steps

from n2s_dist.distributed.devices import choose_device
from n2s_dist.inference.network_choice import load_denoiser
from n2s_dist.loading import sample_order
from n2s_dist.loading.crop_loader import CropLoader
from n2s_dist.models.score_model import build_score_model
from n2s_dist.noise.specification import parse_noise
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training.command_line import read_config
from n2s_dist.training.telemetry import flops_per_sample, matmul_peak
from n2s_dist.utils.errors import run_command
from n2s_dist.utils.files import path_option

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_STOPPED = 75  # exit code of a run that was asked to stop


class Report:
    """Figures by part, printed and written as soon as they are there."""

    def __init__(self, path: Path) -> None:
        self._path, self.parts = path, {}  # type: ignore[var-annotated]

    def add(self, part: str, measure: Callable[[], dict[str, Any]]) -> None:
        started = time.perf_counter()
        try:
            found = measure()
        except Exception as error:  # the other parts are measured all the same
            found = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        self.parts[part] = found | {"took_sec": round(time.perf_counter() - started, 1)}
        print(f"{part}:", *(f"{key} {value}" for key, value in self.parts[part].items()), sep="\n    ", flush=True)
        self._path.write_text(json.dumps(self.parts, indent=1) + "\n")


def loader(shards: ShardSet, device: torch.device, seconds: float) -> dict[str, float]:
    """Crops/s of 64x64, clean and noisy."""
    found: dict[str, float] = {}
    for noise in (None, "gaussian:25", "poisson:0.01", "gamma:100"):
        batch = 256 if device.type == "cuda" else 32
        positions = (sample_order.rank_positions(step, batch, 0, 1) for step in itertools.count())
        model = parse_noise(noise) if noise else None
        crops = CropLoader(shards, positions, batch, 64, model, 0, device=device, num_threads=os.cpu_count() or 2)
        for _ in range(5):
            next(crops)
        _wait(device)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            count += len(next(crops))
        _wait(device)
        found[f"{noise or 'clean'}_crops_per_sec"] = round(count / (time.perf_counter() - started))
    return found


def steps(device: torch.device, seconds: float) -> dict[str, Any]:
    """Samples/s and the share of the device's peak of a bare training step."""
    cases: dict[str, list[str]] = {"gaussian25": [], "gaussian25_symmetric": []}
    if device.type == "cuda":
        cases["wide"] = ["--network.widths=[128,256,512]"]
    ways = {"eager": Switches(bf16=device.type == "cuda", channels_last=True)}
    if device.type == "cuda":
        ways["compiled"] = Switches(bf16=True, compile="default", channels_last=True)
    found: dict[str, Any] = {}
    for (name, options), (way, switches) in itertools.product(cases.items(), ways.items()):
        file = "gaussian25" if name == "wide" else name
        config = read_config([f"--config={_CONFIGS / file}.yaml", *options])
        flops = flops_per_sample(build_score_model(config, 3), 3, 64)
        peak = matmul_peak(device, torch.bfloat16 if switches.bf16 else torch.float32, torch.get_num_threads())
        for batch in (16, 256, 1024) if device.type == "cuda" else (4,):
            run = make_steps(config, switches, torch.rand(batch, 3, 64, 64, device=device))
            run(1)
            count, started = 0, time.perf_counter()
            while time.perf_counter() - started < seconds or count == 0:
                run(1)
                count += 1
            rate = batch * count / (time.perf_counter() - started)
            found[f"{name} {way} batch {batch}"] = {
                "samples_per_sec": round(rate, 1), "step_ms": round(1e3 * batch / rate, 2),
                "mfu": round(flops * rate / peak, 4),
            }  # fmt: skip
    return found


def training(shards: Path, out: Path, device: str, seconds: float) -> dict[str, Any]:
    """A run of the program itself that is asked to stop after so long: its last metrics and validations."""
    run_dir = out / "run"
    batch = 256 if device == "gpu" else 4
    command = [
        sys.executable, "-m", "n2s_dist.train", f"--config={_CONFIGS / 'gaussian25_symmetric.yaml'}",
        f"--run_dir={run_dir}", f"--data.shards={shards}", f"--train.device={device}", "--tracking.wandb=false",
        f"--train.global_batch_size={batch}", f"--train.device_batch_size={batch}", "--train.mixed_precision=auto",
        f"--train.total_samples={10**7}", f"--train.log_every_samples={batch * 10}",
        f"--train.validate_every_samples={batch * 100 if device == 'gpu' else batch * 10}",
        f"--train.checkpoint_every_samples={batch * 10_000}",
    ]  # fmt: skip
    with (out / "training.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    if code != _STOPPED:
        return {"error": f"training ended with exit code {code}: see {out / 'training.log'}"}
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "loss" in row][-1]
    keys = ("samples_seen", "samples_per_sec", "step_ms_p50", "data_wait_frac", "mfu", "memory_mib", "loss")
    psnr = [(row["samples_seen"], row["val_psnr_db"]) for row in rows if "val_psnr_db" in row]
    return {key: last[key] for key in keys} | {"val_psnr_db": psnr[-1:], "weights": str(run_dir)}


def inference(device: torch.device) -> dict[str, float]:
    """Megapixels/s of a pretrained network on a photograph of 1404x2040, or a corner of it on a CPU."""
    image = photograph_of_size(1404, 2040) if device.type == "cuda" else photograph_of_size(256, 256)
    noisy = parse_noise("gaussian:25").corrupt(image / 255, np.random.default_rng(0)).astype(np.float32)
    denoise = load_denoiser("gaussian-color", device)
    found = {}
    for name, options in {"plain": {}, "uncertainty": {"uncertainty": True}}.items():
        denoise(noisy, "gaussian:25", **options)  # type: ignore[arg-type]
        started = time.perf_counter()
        denoise(noisy, "gaussian:25", **options)  # type: ignore[arg-type]
        found[f"{name}_megapixels_per_sec"] = round(noisy[..., 0].size / 1e6 / (time.perf_counter() - started), 3)
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=path_option, required=True, metavar="DIR", help="where all of it goes")
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu", help="cpu rehearses (%(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="of training (%(default)s)")
    args = parser.parse_args()
    device = torch.device(choose_device(args.device), 0) if args.device == "gpu" else torch.device("cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    short = 3.0 if args.device == "gpu" else 0.5
    report = Report(args.out / "acceptance.json")
    report.add("environment", lambda: {**machine(), "cuda": torch.version.cuda, "date": time.strftime("%Y-%m-%d")})
    folder = args.out / "shards"
    build_shards([str(photographs_folder(args.out))], folder, BuildOptions(tile_size=128, validation_fraction=0.15))
    report.add("loader", lambda: loader(ShardSet(folder), device, short))
    report.add("step", lambda: steps(device, short))
    report.add("training", lambda: training(folder, args.out, args.device, args.seconds))
    report.add("inference", lambda: inference(device))
    failed = [part for part, found in report.parts.items() if "error" in found]
    print("failed: " + ", ".join(failed) if failed else "all parts measured")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run_command(main)
