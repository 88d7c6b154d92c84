#!/usr/bin/env python3
"""How much of the machine the training loop leaves to the network.

Times the whole loop (loader, noise, perturbations, loss, clipping, averaging, metrics) against a bare
forward-backward-step loop on the same network and one fixed batch, in turn, in one run.

    tools/bench_step.py --json step.json
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch
from bench import machine, photographs_folder, report
from tqdm import tqdm

from n2s_dist.ardae import ardae_loss
from n2s_dist.build import build_shards
from n2s_dist.command_line import read_config
from n2s_dist.errors import run_command
from n2s_dist.plan import BuildOptions
from n2s_dist.run import Run, start
from n2s_dist.tracking import Tracker
from n2s_dist.train import loop, open_batches


def bare_steps(run: Run, noisy: torch.Tensor, steps: int) -> None:
    """Forward, backward, optimizer step, and nothing else."""
    w = run.model.working(noisy)
    u, sigma_a = torch.randn_like(w), torch.full((len(w), 1, 1, 1), 0.5, device=w.device)
    for _ in range(steps):
        ardae_loss(run.wrapped, w, u, sigma_a).mean().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
    if w.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write ratios, figures and machine here")
    parser.add_argument("--config", default="configs/gaussian25.yaml", help="network, batch and crop (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps in each turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=40, help="turns of each loop (%(default)s)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        build_shards([str(photographs_folder(scratch))], f"{scratch}/shards", BuildOptions(validation_fraction=0))
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
        for turn in range(args.turns + 1):  # the first turn warms up
            before = time.perf_counter()
            loop(run, batches, tracker, progress, run.samples_seen + batch * args.steps)
            between = time.perf_counter()
            bare_steps(run, noisy, args.steps)
            if turn:
                seconds["loop"].append(between - before)
                seconds["bare"].append(time.perf_counter() - between)
        tracker.close()

    rate = {name: batch * args.steps / statistics.median(times) for name, times in seconds.items()}
    ratio = statistics.median(bare / whole for whole, bare in zip(seconds["loop"], seconds["bare"], strict=True))
    report(
        args.json,
        ratios={"loop_over_bare": ratio},
        figures={"loop_samples_per_sec": rate["loop"], "bare_samples_per_sec": rate["bare"]},
        machine=machine(),
    )


if __name__ == "__main__":
    run_command(main)
