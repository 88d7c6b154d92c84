#!/usr/bin/env python3
"""What a GPU does with this project, measured in minutes: one JSON, figures as they come, the weights of a short run.

    tools/gpu_acceptance.py --out OUT [--device gpu] [--seconds 120]

Needs no data: it trains on scikit-image's photographs and validates on one of them. OUT/acceptance.json is written anew
after each part. Each part has a budget of time, seven minutes in all: what does not fit says so there, and the other
parts are measured all the same. OUT/run keeps the weights. tools/gpu_acceptance.sh sets up and calls this.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
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


class OutOfTime(Exception):
    """A part's budget is spent."""


class Report:
    """Figures by part, printed and written as soon as they are there. What does not fit into its time says so."""

    def __init__(self, path: Path) -> None:
        self._path, self.parts = path, {}  # type: ignore[var-annotated]

    def add(self, part: str, budget_sec: float, measure: Callable[[dict[str, Any]], None]) -> None:
        """Measure a part for at most so long. It puts its figures into a dict, which stay if it is cut short."""
        found: dict[str, Any] = {}
        started = time.perf_counter()
        signal.signal(signal.SIGALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_REAL, budget_sec)
        try:
            measure(found)
        except OutOfTime:
            found["left_out"] = f"the rest did not fit into {budget_sec:.0f} s"
        except Exception as error:  # the other parts are measured all the same
            found["error"] = f"{type(error).__name__}: {str(error)[-2000:]}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.parts[part] = found | {"took_sec": round(time.perf_counter() - started, 1)}
        print(f"{part}:", *(f"{key} {value}" for key, value in self.parts[part].items()), sep="\n    ", flush=True)
        self._path.write_text(json.dumps(self.parts, indent=1) + "\n")

    def named(self, key: str) -> list[str]:
        """The parts that have an error, or that left something out."""
        return [part for part, found in self.parts.items() if key in found]


def _out_of_time(*_: object) -> None:
    raise OutOfTime


def loader(found: dict[str, Any], shards: ShardSet, device: torch.device, seconds: float) -> None:
    """Crops/s of 64x64, clean and noisy."""
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


def steps(found: dict[str, Any], device: torch.device, seconds: float) -> None:
    """Samples/s and the share of the device's peak of a bare training step."""
    cases: dict[str, list[str]] = {"gaussian25": [], "gaussian25_symmetric": []}
    if device.type == "cuda":
        cases["wide"] = ["--network.widths=[128,256,512]"]
    ways = {"eager": Switches(bf16=device.type == "cuda", channels_last=True)}
    if device.type == "cuda":
        ways["compiled"] = Switches(bf16=True, compile="default", channels_last=True)
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


def trained_config(device: str) -> list[str]:
    """What the short run trains."""
    batch = 256 if device == "gpu" else 4
    return [
        f"--config={_CONFIGS / 'gaussian25_symmetric.yaml'}", f"--train.device={device}",
        f"--train.global_batch_size={batch}", f"--train.device_batch_size={batch}", "--train.mixed_precision=auto",
        f"--train.total_samples={10**7}", f"--train.log_every_samples={batch * 10}",
        f"--train.validate_every_samples={batch * 100 if device == 'gpu' else batch * 10}",
        f"--train.checkpoint_every_samples={batch * 10_000}",
    ]  # fmt: skip


def training(found: dict[str, Any], options: list[str], shards: Path, run_dir: Path, seconds: float) -> None:
    """A run of the program itself that is asked to stop after so long: its last metrics and validations.

    The seconds count from the first metrics on. run_dir keeps the weights, the metrics and what the run printed.
    """
    command = [sys.executable, "-m", "n2s_dist.train", *options, f"--run_dir={run_dir}", f"--data.shards={shards}"]
    run_dir.mkdir(parents=True)
    log, started = run_dir / "training.log", time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen([*command, "--tracking.wandb=false"], stdout=stream, stderr=stream)
        try:
            while process.poll() is None and not _metrics(run_dir):
                time.sleep(0.1)
            found["start_sec"] = round(time.perf_counter() - started, 1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
        finally:  # also when time has run out: what there is stays
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                raise OutOfTime from None
            finally:
                process.kill()
    if code not in (0, _STOPPED):
        raise RuntimeError(f"training ended with exit code {code}: {log.read_text()}")
    rows = _metrics(run_dir)
    keys = ("samples_seen", "samples_per_sec", "step_ms_p50", "data_wait_frac", "mfu", "memory_mib", "loss")
    psnr = [(row["samples_seen"], row["val_psnr_db"]) for row in rows if "val_psnr_db" in row]
    found.update({key: [row for row in rows if "loss" in row][-1][key] for key in keys})
    found.update(val_psnr_db=psnr[-1:], wall_sec=round(time.perf_counter() - started, 1), weights=str(run_dir))


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run that hold a loss or a PSNR; none before the first loss is there."""
    path = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return rows if any("loss" in row for row in rows) else []


def inference(found: dict[str, Any], device: torch.device) -> None:
    """Megapixels/s of a pretrained network on a photograph of 1404x2040, or a corner of it on a CPU."""
    image = photograph_of_size(1404, 2040) if device.type == "cuda" else photograph_of_size(256, 256)
    noisy = parse_noise("gaussian:25").corrupt(image / 255, np.random.default_rng(0)).astype(np.float32)
    denoise = load_denoiser("gaussian-color", device)
    for name, options in {"plain": {}, "uncertainty": {"uncertainty": True}}.items():
        denoise(noisy, "gaussian:25", **options)  # type: ignore[arg-type]
        started = time.perf_counter()
        denoise(noisy, "gaussian:25", **options)  # type: ignore[arg-type]
        found[f"{name}_megapixels_per_sec"] = round(noisy[..., 0].size / 1e6 / (time.perf_counter() - started), 3)


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
    report.add("environment", 20, lambda found: found.update(environment()))
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        images, shards = photographs_folder(scratch), Path(scratch) / "shards"
        report.add("shards", 60, lambda found: found.update(shards_of(images, shards)))
        report.add("loader", 40, lambda found: loader(found, ShardSet(shards), device, short))
        report.add("step", 80, lambda found: steps(found, device, short))
        run_dir, config = _fresh(args.out / "run"), trained_config(args.device)
        report.add("training", args.seconds + 60, lambda found: training(found, config, shards, run_dir, args.seconds))
        report.add("inference", 60, lambda found: inference(found, device))
    for key, said in (("left_out", "cut short: "), ("error", "failed: ")):
        if parts := report.named(key):
            print(said + ", ".join(parts))
    sys.exit(1 if report.named("error") else 0)


def shards_of(images: Path, out: Path) -> dict[str, int]:
    """Build them; samples by split."""
    manifest = build_shards([str(images)], out, BuildOptions(tile_size=128, validation_fraction=0.15))
    return {f"{name}_samples": split.samples for name, split in manifest.splits.items()}


def environment() -> dict[str, Any]:
    return {**machine(), "cuda": torch.version.cuda, "date": time.strftime("%Y-%m-%d")}


def _fresh(run_dir: Path) -> Path:
    """A folder for a new run: one of before would go on."""
    if run_dir.exists():
        shutil.rmtree(run_dir)
    return run_dir


if __name__ == "__main__":
    run_command(main)
