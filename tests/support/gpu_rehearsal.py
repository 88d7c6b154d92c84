"""Training, validation, checkpoints and inference on fake CUDA tensors, and what was seen of them, as JSON.

    python tests/support/gpu_rehearsal.py --library FOLDER --shards FOLDER --out report.json [CASE ...]

A process of its own: the fake device can't be taken out again.
"""

import argparse
import contextlib
import json
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState
from fake_cuda import DEVICE, Observed, Observer, build_library, fake_cuda, load_library, values_read
from tqdm import tqdm

from n2s_dist.distributed import consistency
from n2s_dist.distributed.ranks import Ranks
from n2s_dist.inference import noise_estimation, tiling, uncertainty
from n2s_dist.inference.denoiser import Denoiser
from n2s_dist.loading import crop_pipeline
from n2s_dist.losses import ardae
from n2s_dist.models import checkpoint
from n2s_dist.models.score_model import ScoreModel, build_score_model
from n2s_dist.models.self_ensemble import SelfEnsemble
from n2s_dist.noise.specification import parse_noise
from n2s_dist.training import batches as batches_module
from n2s_dist.training import checkpoint_writer, setup, telemetry, validation
from n2s_dist.training.command_line import read_config
from n2s_dist.training.ema import update_ema
from n2s_dist.training.metrics import write_metrics
from n2s_dist.training.step import train_step
from n2s_dist.training.tracking import NullTracker

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_BF16 = ["--train.mixed_precision=bf16"]
_GAUSSIAN25 = [f"--config={CONFIGS / 'gaussian25.yaml'}"]

# Runs that no file in configs/ describes.
VARIANTS: dict[str, list[str]] = {
    "float32": [*_GAUSSIAN25, "--train.mixed_precision=no"],
    "fp16": [*_GAUSSIAN25, "--train.mixed_precision=fp16"],
    "accumulation": [*_GAUSSIAN25, *_BF16, "--train.device_batch_size=4"],
    "adamw, poisson": [*_GAUSSIAN25, *_BF16, "--optimizer.name=adamw", "--noise=poisson:0.01"],
    "adam, gamma": [*_GAUSSIAN25, *_BF16, "--optimizer.name=adam", "--noise=gamma:100"],
    "wide": [*_GAUSSIAN25, *_BF16, "--network.widths=[128,256,512]"],
}  # fmt: skip
PRETRAINED = ("gaussian-color",)


# --- faults that must be found ----------------------------------------------------------------------


@contextlib.contextmanager
def _cpu_tensor() -> Iterator[None]:
    original = ardae.ardae_loss

    def loss(*args: Any, **kwargs: Any) -> torch.Tensor:
        values = original(*args, **kwargs)
        return values * torch.ones(len(values))

    with mock.patch.object(ardae, "ardae_loss", loss):
        yield


@contextlib.contextmanager
def _norm_looked_at() -> Iterator[None]:
    original = Ranks.gradient_norm

    def norm(self: Ranks, model: torch.nn.Module, clip_norm: float) -> torch.Tensor:
        found = original(self, model, 0)
        if found > clip_norm:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), clip_norm, found)
        return found

    with mock.patch.object(Ranks, "gradient_norm", norm):
        yield


@contextlib.contextmanager
def _drawn_on_the_cpu() -> Iterator[None]:
    def draw(method: str, seed: int, positions: np.ndarray, shape: torch.Size, *_: object) -> torch.Tensor:
        return torch.randn(shape).to(DEVICE)

    with mock.patch.object(batches_module, "draw", draw):
        yield


@contextlib.contextmanager
def _drawn_one_by_one() -> Iterator[None]:
    def draw(method: str, seed: int, positions: np.ndarray, shape: torch.Size, *_: object) -> torch.Tensor:
        return torch.stack([torch.randn(shape[1:], device=DEVICE) for _ in range(20 * len(positions))])[
            : len(positions)
        ]

    with mock.patch.object(batches_module, "draw", draw):
        yield


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    original = ScoreModel.forward

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.autocast("cuda", enabled=False):
            return original(*args, **kwargs)

    with mock.patch.object(ScoreModel, "forward", forward):
        yield


@contextlib.contextmanager
def _channels_first() -> Iterator[None]:
    with mock.patch.object(setup, "place", lambda model, device, channels_last: model.to(device)):
        yield


FAULTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "a tensor of the CPU in the loss": _cpu_tensor,
    "the norm is looked at": _norm_looked_at,
    "perturbations are drawn on the CPU": _drawn_on_the_cpu,
    "perturbations are drawn one by one": _drawn_one_by_one,
    "convolutions in float32": _full_precision,
    "weights with channels first": _channels_first,
}


# --- training ---------------------------------------------------------------------------------------


class _Pipeline:
    """DALI's graph on a GPU, whose operators are not rehearsed: it takes what the host makes, and gives a shape."""

    def __init__(self, source, crop_size, noise, device, stored, beside, *, batch_size, device_id, **_) -> None:  # type: ignore[no-untyped-def]
        assert device == "gpu" and device_id == DEVICE.index
        self._source, self._size, self._batch_size, self._views = source, crop_size, batch_size, [2] if beside else []

    def build(self) -> None:
        pass

    def run(self, stream: object) -> tuple["_Pipeline"]:
        tiles = self._source()[0]
        assert len(tiles) == self._batch_size
        self._channels = tiles[0].shape()[2]
        return (self,)

    def as_tensor(self) -> "_Pipeline":
        return self

    def shape(self) -> list[int]:
        return [self._batch_size, *self._views, self._channels, self._size, self._size]


@contextlib.contextmanager
def _observed(report: dict[str, dict], part: str, number: float = 0.0) -> Iterator[None]:
    """Add to a report what is seen meanwhile; an error is a part of it."""
    observer = Observer()
    try:
        with values_read(observer, number), observer:
            yield
    except Exception as error:
        observer.seen.error = f"{type(error).__name__}: {error} {traceback.format_exc(limit=-6)}"
    report[part] = vars(observer.seen)


def train(arguments: list[str], shards: Path, step_alone: bool) -> dict[str, dict]:
    """What is seen in a step and, unless it is wanted alone, in all that may be due after it: a report a part."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    consistency._factors.cache_clear()
    report: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        given = [
            f"--run_dir={folder}/run",
            f"--data.shards={shards}",
            "--tracking.wandb=false",
            "--train.num_threads=1",
            "--train.device=gpu",
        ]
        config = read_config([*arguments, *given])
        with (
            fake_cuda(),
            mock.patch.object(crop_pipeline, "crop_pipeline", _Pipeline),
            mock.patch.object(crop_pipeline, "feed_ndarray", lambda crops, tensor, cuda_stream: tensor),
            mock.patch.object(batches_module, "run_ahead", lambda items: items),
            mock.patch.object(telemetry, "matmul_peak", lambda *_: 1e15),
            mock.patch.object(telemetry, "flops_per_sample", lambda *_: 1e9),
        ):
            run = setup.start(config)
            batches = batches_module.open_batches(run)
            with values_read(Observer(), 0.0):
                train_step(run, batches)  # which makes the optimizer's state
            with _observed(report, "step"):
                train_step(run, batches)
                update_ema(run)
            if step_alone or report["step"]["error"]:
                return report
            with _observed(report, "metrics"):
                write_metrics(run, NullTracker(), tqdm(disable=True))
            with _observed(report, "validation"):
                assert run.validation is not None
                validation.validate(config.method, run.ema, run.validation, 1, 0, run.ranks, config.aim)
            with _observed(report, "checkpoint"):
                state = checkpoint_writer.copied(run.state())
                tensors = dict(consistency.tensors_of(state, [str(i) for i in range(10_000)]))
                assert not any(tensor.is_cuda for tensor in tensors.values())
            with _observed(report, "comparison of ranks"):
                tensors = dict(consistency.tensors_of(run.state(), [str(i) for i in range(10_000)])).values()
                # Of those that are alike in all but their values, which nothing has here, one stands for all.
                for tensor in {(each.shape, each.dtype, each.device): each for each in tensors}.values():
                    consistency.fingerprint(tensor)
    return report


# --- inference --------------------------------------------------------------------------------------


def infer(name: str) -> dict[str, dict]:
    """What is seen when a pretrained network denoises: a report a way."""
    loaded = checkpoint.load(checkpoint.locate(name))
    image = np.random.default_rng(0).random((700, 500, 3)).astype(np.float32)
    small, noise = image[:181, :237], parse_noise("gaussian:25")
    report: dict[str, dict] = {}
    with fake_cuda():
        model = build_score_model(loaded.config, loaded.channels).to(DEVICE).eval()
        denoiser = Denoiser(replace(loaded, model=model))
        tensor = torch.empty(2, 3, 64, 64, device=DEVICE)
        ways: dict[str, Callable[[], object]] = {
            "whole": lambda: tiling.denoise_whole(model, small, noise),
            "tiled": lambda: tiling.denoise_tiled(model, image, noise, 512),
            "posterior": lambda: uncertainty.posterior_tiled(model, image, noise, 512),
            "estimate": lambda: noise_estimation.estimate_noise(model, small),
            "ensemble": lambda: tiling.denoise_whole(SelfEnsemble(model).eval(), small, noise),
            "denoiser": lambda: denoiser(tensor, "gaussian:25"),
        }
        for way, call in ways.items():
            with _observed(report, way, 0.5):
                call()
    return report


# --- all --------------------------------------------------------------------------------------------


def _shards_for(config: Path, folder: Path) -> Path:
    """Of the noise and the channels that a configuration is for."""
    noise = yaml.safe_load(config.read_text())["noise"]
    kind = "clean" if "," not in noise and "-" not in noise else "universal" if "," in noise else "gaussian"
    if "poisson-gaussian" in noise:
        kind = "instrument" if "+blur" in noise else "white"
    return folder / (kind + ("_gray" if "gray" in config.stem else ""))


def cases(shards: Path, step_alone: list[str]) -> dict[str, Callable[[], dict[str, dict]]]:
    """By name: what reports on it. step_alone: cases of training that end after a step."""
    found: dict[str, Callable[[], dict[str, dict]]] = {}
    for config in sorted(CONFIGS.glob("*.yaml")):
        given = [f"--config={config}", "--train.start_from="]
        precision = [] if yaml.safe_load(config.read_text())["train"]["mixed_precision"] == "no" else _BF16
        found[config.stem] = partial(
            train, [*given, *precision], _shards_for(config, shards), config.stem in step_alone
        )
    for name, arguments in VARIANTS.items():
        kind = "gaussian" if "gaussian.yaml" in arguments[0] else "clean"
        found[name] = partial(train, arguments, shards / kind, name in step_alone)
    for name in PRETRAINED:
        found[f"inference by {name}"] = partial(infer, name)

    def planted(fault: str) -> dict[str, dict]:
        with FAULTS[fault]():
            return train([*_GAUSSIAN25, *_BF16], shards / "clean", step_alone=True)

    for fault in FAULTS:
        found[f"fault: {fault}"] = partial(planted, fault)
    return found


def lines(report: dict[str, dict]) -> Iterator[str]:
    """A report's training steps, a line each."""
    yield f"{'':>26} operations  to the GPU  to the host  host reads  convolutions"
    for case, parts in report.items():
        step = parts.get("step")
        if step is None or step["error"]:
            continue
        to_gpu, to_host = (sum(copy[0] == way for copy in step["copies"]) for way in ("to the GPU", "to the host"))
        ways = {what.split(": ")[0].split()[1] + " " + _main_layout(what) for what in step["convolutions"]}
        yield (
            f"{case[:26]:>26} {step['operations']:10} {to_gpu:11} {to_host:12} {len(step['host_reads']):11}  "
            f"{', '.join(sorted(ways))}"
        )


def _main_layout(what: str) -> str:
    return what.split("weight ")[1].split(",")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="all, if none is named")
    parser.add_argument("--library", type=Path, required=True, help="folder where the fake device is kept")
    parser.add_argument("--shards", type=Path, required=True, help="folder with all that _shards_for names")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--step-alone", nargs="*", default=[], metavar="CASE", help="cases that end after a step")
    args = parser.parse_args()
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    load_library(build_library(args.library))
    report = {}
    for name, rehearse in cases(args.shards, args.step_alone).items():
        if args.cases and name not in args.cases:
            continue
        try:
            report[name] = rehearse()
        except Exception as error:
            seen = Observed(error=f"{type(error).__name__}: {error} {traceback.format_exc(limit=-6)}")
            report[name] = {"start": vars(seen)}
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(lines(report)))


if __name__ == "__main__":
    main()
