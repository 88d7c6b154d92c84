#!/usr/bin/env python3
"""Write the files beside this script: what version 0.1.0 leaves on the disk, finished and stopped in the middle.

    PYTHONPATH=. python tests/data/written_before/make.py EMPTY_FOLDER

The files are frozen: tests hold that later versions read them and go on with them. This script says how they were
made, and makes such a set of another version. It uses public commands alone. Stops hit a running program, so the
script tries again until each has left it in the middle.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy
import skimage.data
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
HEIGHT, WIDTH = 48, 72
# Top left corners of pieces with something to see in them.
CORNERS = {
    "astronaut": (20, 180),
    "chelsea": (100, 150),
    "coffee": (120, 240),
    "immunohistochemistry": (120, 120),
    "rocket": (90, 290),
}
BENCHMARK_CORNERS = {"astronaut": (0, 0, 40, 45), "coffee": (200, 300, 38, 51), "rocket": (300, 200, 36, 37)}
RANGES = "gaussian:5-55,poisson:0.005-0.1,gamma:20-200"

TRAINING = {
    "data": {"crop_size": 32, "num_threads": 1},
    "network": {"widths": [8, 8], "blocks": 1},
    "optimizer": {"warmup_samples": 40, "ema_halflife_samples": 100},
    "train": {
        "total_samples": 240,
        "global_batch_size": 8,
        "device_batch_size": 4,
        "mixed_precision": "no",
        "num_threads": 1,
        "checkpoint_every_samples": 60,
        "keep_checkpoints": 1,
        "validate_every_samples": 60,
        "validation_tiles": 2,
        "log_every_samples": 24,
    },
    "tracking": {"wandb": False},
}
RUNS = {
    "gaussian25": {
        "noise": "gaussian:25",
        "data": {"shards": "shards/color"},
        "optimizer": {"name": "muon", "learning_rate": 2e-3},
    },
    "symmetric": {
        "noise": RANGES,
        "seed": 3,
        "data": {"shards": "shards/noisy"},
        "ardae": {"sigma_a": [0.0, 1.7320508], "whole_range": True},
        "network": {"widths": [8, 16], "symmetric": True},
        "optimizer": {"name": "muon", "learning_rate": 2e-3},
    },
    "unet_n2n": {
        "noise": "gaussian:25",
        "data": {"shards": "shards/color"},
        "ardae": {"coordinates": "image", "sigma_a": [0.05, 0.001]},
        "network": {"name": "unet_n2n"},
        "optimizer": {"name": "adamw", "learning_rate": 5e-5, "schedule": "step", "step_every_samples": 160},
        "train": {"start_from": "narrow"},
    },
    "noise2void": {
        "noise": "gaussian:25",
        "method": "noise2void",
        "data": {"shards": "shards/measured"},
        "optimizer": {"name": "adam", "learning_rate": 2e-3},
    },
}
TRIES = 20
KILLED = "noise2void"  # the others are asked to stop
LIVE = 3  # channels of each layer of the U-Net, as many as an image's; the others are zero and pack into no room


def environment() -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    return os.environ | own


def run(folder: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr}")


def stopped(folder: Path, arguments: list[str], far_enough: Callable[[], bool], number: signal.Signals) -> None:
    """Start a program and send it a signal as soon as far_enough() is true; it stands still while that is found."""
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        while process.poll() is None:
            if far_enough():
                os.killpg(process.pid, signal.SIGSTOP)
                os.killpg(process.pid, number)
                os.killpg(process.pid, signal.SIGCONT)
                break
            time.sleep(0.0005)


def write_images(folder: Path) -> None:
    """Clean color ones, the same gray with noise of sigma 25 as a camera would write them, and two benchmarks."""
    for name in ("images", "measured", "benchmarks/color", "benchmarks/gray"):
        (folder / name).mkdir(parents=True)
    rng = np.random.Generator(np.random.Philox(25))
    for name, (top, left) in CORNERS.items():
        image = Image.fromarray(getattr(skimage.data, name)()[top : top + HEIGHT, left : left + WIDTH])
        image.save(folder / f"images/{name}.png")
        gray = np.asarray(image.convert("L")) + 25 * rng.standard_normal((HEIGHT, WIDTH))
        Image.fromarray(np.clip(np.round(gray), 0, 255).astype(np.uint8)).save(folder / f"measured/{name}.png")
    for name, (top, left, height, width) in BENCHMARK_CORNERS.items():
        image = Image.fromarray(getattr(skimage.data, name)()[top : top + height, left : left + width])
        image.save(folder / f"benchmarks/color/{name}.png")
        image.convert("L").save(folder / f"benchmarks/gray/{name}.png")


def write_shards(folder: Path) -> None:
    """Three finished sets, and one whose build was killed after some of its images."""
    build = [str(ROOT / "tools/build_shards.py"), "--tile-size=48", "--workers=1"]
    run(folder, *build, "images", "--out=shards/color", "--validation-fraction=0.2")
    run(folder, *build, "images", "--out=shards/noisy", "--gray", "--validation-fraction=0.2", f"--noise={RANGES}")
    run(folder, *build, "measured", "--out=shards/measured", "--gray", "--noise=gaussian:25", "--already-noisy")
    partial = folder / "shards/.stopped.partial"

    def lines() -> int:
        return sum(path.read_bytes().count(b"\n") for path in partial.glob("*/*.journal"))

    arguments = [*build, "images", "--out=shards/stopped", "--gray", "--validation-fraction=0.2", "--seed=1"]
    for _ in range(TRIES):
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(folder / "shards/stopped", ignore_errors=True)
        stopped(folder, arguments, lambda: lines() > 1, signal.SIGKILL)
        if 0 < lines() < len(CORNERS):
            return
    raise RuntimeError(f"{partial} could not be stopped in its middle")


def merged(base: dict, more: dict) -> dict:
    nested = {key: merged(base[key], value) for key, value in more.items() if isinstance(base.get(key), dict)}
    return base | more | nested


def write_narrow(folder: Path) -> None:
    """A checkpoint to start from: a U-Net after one step, with all but a few channels of each layer set to zero."""
    config = merged(merged(TRAINING, RUNS["unet_n2n"]), {"train": {"start_from": "", "total_samples": 8}})
    (folder / "wide.yaml").write_text(yaml.safe_dump(config))
    run(folder, "-m", "n2s_dist.train", "--config=wide.yaml", "--run_dir=wide")
    (checkpoint,) = (folder / "wide/checkpoints").iterdir()
    weights = {}
    for name, weight in safetensors.numpy.load_file(checkpoint / "model.safetensors").items():
        live = [slice(LIVE)]
        if ".encoder0." in name:
            live = [slice(None)]
        if found := re.search(r"\.decoders\.(\d)\.0\.", name):  # sees the level below beside a skip, or the image
            below = 48 if found[1] == "0" else 96
            live.append(slice(below, below + LIVE))
        outputs = slice(None if ".output." in name else LIVE)
        kept = np.zeros_like(weight)
        if weight.ndim == 1:
            kept[outputs] = weight[outputs]
        else:
            for inputs in live:
                kept[outputs, inputs] = weight[outputs, inputs]
        weights[name] = kept
    safetensors.numpy.save_file(weights, checkpoint / "model.safetensors")
    (checkpoint / "training_state.pt").write_bytes(b"")  # a start reads weights alone
    hashes = {name: sha256(checkpoint / name) for name in json.loads((checkpoint / "COMPLETE").read_text())}
    (checkpoint / "COMPLETE").write_text(json.dumps(hashes, indent=1) + "\n")
    checkpoint.rename(folder / "narrow")
    shutil.rmtree(folder / "wide")
    (folder / "wide.yaml").unlink()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seen(checkpoints: Path) -> list[str]:
    """Names of the checkpoints that are there, the oldest first."""
    return sorted(path.name for path in checkpoints.glob("samples-*"))


def write_runs(folder: Path) -> dict[str, str]:
    """Runs stopped or killed in their middle. Returns what undisturbed ones end with: the weights' SHA-256."""
    write_narrow(folder)
    hashes = {}
    (folder / "final").mkdir()
    for name, settings in RUNS.items():
        (folder / "config.yaml").write_text(yaml.safe_dump(merged(TRAINING, settings)))
        command, run_dir = ["-m", "n2s_dist.train", "--config=config.yaml"], folder / f"runs/{name}"
        run(folder, *command, "--run_dir=undisturbed")
        last = folder / "undisturbed/checkpoints/samples-000000240"
        hashes[name] = sha256(last / "model.safetensors")
        weights = safetensors.numpy.load_file(last / "model.safetensors")
        np.savez_compressed(folder / f"final/{name}.npz", **weights)
        shutil.rmtree(folder / "undisturbed")

        killed, number = name == KILLED, signal.SIGKILL if name == KILLED else signal.SIGUSR1
        checkpoints = run_dir / "checkpoints"
        for _ in range(TRIES):
            shutil.rmtree(run_dir, ignore_errors=True)
            stopped(folder, [*command, f"--run_dir=runs/{name}"], lambda at=checkpoints: len(seen(at)) > 1, number)
            if seen(checkpoints)[-1] != last.name and (killed or (run_dir / "stopped").is_file()):
                break
        else:
            raise RuntimeError(f"{run_dir} could not be stopped in its middle")
        if killed:  # what says which process on which machine was there
            (run_dir / "lock").write_text("process 1 on another-machine")
        (folder / "config.yaml").unlink()
    archive(folder, "unet_n2n", ["runs/unet_n2n", "narrow"])
    return hashes


def archive(folder: Path, name: str, members: list[str]) -> None:
    """Pack what is large and mostly zeros."""
    packed = folder / "packed"
    for member in members:
        (packed / member).parent.mkdir(parents=True, exist_ok=True)
        (folder / member).rename(packed / member)
    shutil.make_archive(str(folder / name), "xztar", packed)
    shutil.rmtree(packed)


def write_evaluations(folder: Path) -> None:
    """One of two networks that ended, and one that was killed."""
    folders = [folder / f"runs/{name}/checkpoints" for name in ("gaussian25", "symmetric")]
    networks = [f"--checkpoint={at.relative_to(folder) / seen(at)[-1]}" for at in folders]
    benchmarks = ["--benchmark=color=benchmarks/color", "--benchmark=gray=benchmarks/gray"]
    evaluate = ["-m", "n2s_dist.evaluate", "--no-wandb"]
    run(folder, *evaluate, *networks, *benchmarks, "--noise=gaussian:25", "--ensemble", "--uncertainty", "--pictures",
        "--out=evaluation")  # fmt: skip
    out = folder / "evaluation-stopped"
    noises = ["--noise=gaussian:15", "--noise=poisson:0.02", "--noise=gamma:50"]
    arguments = [*evaluate, networks[1], benchmarks[1], *noises, "--level=both"]
    run(folder, *arguments, "--out=undisturbed")
    (folder / "undisturbed/results.json").rename(folder / "final/evaluation.json")
    shutil.rmtree(folder / "undisturbed")

    def rows() -> int:
        return sum(path.read_bytes().count(b"}\n") for path in out.glob(".pieces/*.jsonl"))

    for _ in range(TRIES):
        shutil.rmtree(out, ignore_errors=True)
        stopped(folder, [*arguments, f"--out={out.name}"], lambda: rows() > 5, signal.SIGKILL)
        if 2 < rows() < 16 and not (out / "results.json").exists():
            return
    raise RuntimeError(f"{out} could not be stopped in its middle")


def processor() -> str:
    """A digest of all that the last bits of a sum depend on: the kind of processor and what it can do."""
    keys = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags")
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            facts.setdefault(key.strip(), value.strip())
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="EMPTY_FOLDER")
    folder = parser.parse_args().folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    write_images(folder)
    write_shards(folder)
    hashes = write_runs(folder)
    write_evaluations(folder)
    versions = json.loads((folder / "evaluation/results.json").read_text())["versions"]
    made = {"versions": versions, "processor": processor(), "final_sha256": hashes}
    (folder / "made.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
