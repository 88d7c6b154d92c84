#!/usr/bin/env python3
"""How much of the machine the training loop leaves to the network.

Times the whole loop (loader, noise, perturbations, loss, clipping, averaging, metrics) against a bare
forward-backward-step loop on the same network and one fixed batch, in turn, in one run. Then the bare loop with each of
the configuration's speed switches (train.mixed_precision, train.compile, train.channels_last), in turn again.

    tools/bench_step.py --json step.json
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from bench import machine, photographs_folder, report, say, show, turns
from tqdm import tqdm

from n2s_dist.config.schema import CompileMode, Config
from n2s_dist.distributed.precision import choose_precision
from n2s_dist.losses.ardae import ardae_loss
from n2s_dist.models.score_model import build_score_model
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.training.batches import open_batches
from n2s_dist.training.command_line import read_config
from n2s_dist.training.compilation import compile_model, place
from n2s_dist.training.loop import loop
from n2s_dist.training.setup import build_optimizer, start
from n2s_dist.training.state import TrainState
from n2s_dist.training.tracking import Tracker
from n2s_dist.utils.errors import run_command
from n2s_dist.utils.files import path_option, path_text

_BUDGET_SEC = 150  # of each of the two comparisons


def bare_steps(run: TrainState, noisy: torch.Tensor, steps: int) -> None:
    """Forward, backward, optimizer step, and nothing else."""
    w, condition = run.model.given(noisy, run.noise_of(run.image_keys(np.zeros(1, np.int64))))
    u, sigma_a = torch.randn_like(w), torch.full((len(w), 1, 1, 1), 0.5, device=w.device)
    for _ in range(steps):
        ardae_loss(run.ddp_model, w, u, sigma_a, condition).mean().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
    if w.is_cuda:
        torch.cuda.synchronize()


class Switches(NamedTuple):
    """Settings under train. that change a step's speed."""

    bf16: bool = False
    compile: CompileMode = "no"
    channels_last: bool = False


SWITCHES = {
    "plain": Switches(),
    "channels_last": Switches(channels_last=True),
    "compile": Switches(compile="default"),
    "compile_channels_last": Switches(compile="default", channels_last=True),
    "bf16": Switches(bf16=True),
    "bf16_channels_last": Switches(bf16=True, channels_last=True),
    "bf16_compile": Switches(bf16=True, compile="default"),
    "bf16_compile_channels_last": Switches(bf16=True, compile="default", channels_last=True),
}
# CUDA graphs are a GPU's.
GPU_SWITCHES = {
    "compile_graphs": Switches(compile="reduce-overhead"),
    "bf16_compile_graphs": Switches(bf16=True, compile="reduce-overhead"),
    "bf16_compile_graphs_channels_last": Switches(bf16=True, compile="reduce-overhead", channels_last=True),
}


def make_steps(config: Config, switches: Switches, noisy: torch.Tensor) -> Callable[[int], None]:
    """A function that makes so many bare steps with some switches on."""
    torch.manual_seed(0)
    device = noisy.device
    model = place(build_score_model(config, noisy.shape[1]), device, switches.channels_last)
    optimizer = build_optimizer(config, model)
    compile_model(model, switches.compile)
    w, condition = model.given(noisy, model.noise.single)
    u, sigma_a = torch.randn_like(w), torch.full((len(w), 1, 1, 1), 0.5, device=device)

    def score(w: torch.Tensor, sigma_a: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=switches.bf16):
            return model(w, sigma_a, condition)

    def run(steps: int) -> None:
        for _ in range(steps):
            ardae_loss(score, w, u, sigma_a).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        if noisy.is_cuda:
            torch.cuda.synchronize()

    return run


def chosen_switches(device: torch.device) -> dict[str, Switches]:
    """What is measured on a device; what is left out is said."""
    chosen = SWITCHES | (GPU_SWITCHES if device.type == "cuda" else {})
    if choose_precision("auto", device.type == "cuda") == "bf16":
        return chosen
    say("bf16 is left out, since this processor emulates it, slower than float32")
    return {name: switches for name, switches in chosen.items() if not switches.bf16}


def switch_rates(config: Config, noisy: torch.Tensor, steps: int, count: int) -> dict[str, float]:
    """Samples/s of the bare loop with each set of switches; the first turn compiles and is not counted."""
    chosen = chosen_switches(noisy.device)
    loops = {name: make_steps(config, switches, noisy) for name, switches in chosen.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for turn, bar in turns(count + 1, _BUDGET_SEC, "switches"):
        for name, run in loops.items():
            bar.set_postfix_str(name if turn else f"{name} starts")
            before = time.perf_counter()
            run(steps)
            if turn:
                seconds[name].append(time.perf_counter() - before)
    rates = {name: len(noisy) * steps / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        show(f"switch_{name}_samples_per_sec", rate)
        if name != "plain":
            show(f"switch_{name}_over_plain", rate / rates["plain"])
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=path_option, metavar="FILE", help="write ratios, figures and machine here")
    parser.add_argument(
        "--config", type=path_text, default="configs/gaussian25.yaml", help="network, batch and crop (%(default)s)"
    )
    parser.add_argument(
        "--noise", metavar="FAMILY:LEVEL", help="store the tiles with this noise, the config's, in them"
    )
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps in each turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=40, help="turns of each loop, as far as time allows (%(default)s)")
    parser.add_argument(
        "--switch-turns",
        type=int,
        default=8,
        help="turns of each speed switch, if time allows; 0: none (%(default)s)",
    )
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        build_shards(
            [str(photographs_folder(scratch))],
            f"{scratch}/shards",
            BuildOptions(validation_fraction=0, noise=args.noise),
        )
        config = read_config(
            ["--config", args.config, "--run_dir", f"{scratch}/run", "--data.shards", f"{scratch}/shards"]
        )
        batch = config.train.global_batch_size
        total = batch * args.steps * (args.turns + 1)
        plan = dataclasses.replace(config.train, total_samples=total, checkpoint_every_samples=2 * total,
                                   validate_every_samples=2 * total)  # fmt: skip
        run = start(dataclasses.replace(config, train=plan))
        batches, tracker, progress = open_batches(run), Tracker(run.run_dir, 0), tqdm(disable=True)
        noisy = next(batches).noisy
        seconds: dict[str, list[float]] = {"loop": [], "bare": []}
        for turn, bar in turns(args.turns + 1, _BUDGET_SEC, "loop and bare"):  # the first turn warms up
            before = time.perf_counter()
            loop(run, batches, tracker, progress, run.samples_seen + batch * args.steps)
            between = time.perf_counter()
            bare_steps(run, noisy, args.steps)
            if turn:
                seconds["loop"].append(between - before)
                seconds["bare"].append(time.perf_counter() - between)
                bar.set_postfix_str(f"loop over bare {seconds['bare'][-1] / seconds['loop'][-1]:.3f}")
        tracker.close()

    rate = {name: batch * args.steps / statistics.median(times) for name, times in seconds.items()}
    ratio = statistics.median(bare / whole for whole, bare in zip(seconds["loop"], seconds["bare"], strict=True))
    show("loop_over_bare", ratio)
    for name, value in rate.items():
        show(f"{name}_samples_per_sec", value)
    switched = switch_rates(config, noisy, args.steps, args.switch_turns) if args.switch_turns else {}
    report(
        args.json,
        ratios={"loop_over_bare": ratio},
        figures={
            "loop_samples_per_sec": rate["loop"],
            "bare_samples_per_sec": rate["bare"],
            **{f"switch_{name}_samples_per_sec": value for name, value in switched.items()},
        },
        machine=machine(),
    )


if __name__ == "__main__":
    run_command(main)
