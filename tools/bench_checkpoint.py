#!/usr/bin/env python3
"""What a checkpoint costs a training run, and what share of it at one checkpoint every five minutes.

Trains in turns of equal length, every other one with one checkpoint in it. `pause` is how long the loop
stood still for the copy in memory; `cost` is how much longer a turn took, so that it also holds what
the thread that writes takes away from training.

    tools/bench_checkpoint.py --json checkpoint.json
"""

import argparse
import dataclasses
import statistics
import tempfile
import time

from bench import machine, photographs_folder, report, turns
from tqdm import tqdm

from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.training.batches import open_batches
from n2s_dist.training.checkpointing import save
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import loop
from n2s_dist.training.setup import start
from n2s_dist.training.tracking import NullTracker
from n2s_dist.utils.errors import run_command
from n2s_dist.utils.files import path_option, path_text

_EVERY_SEC = 300
_BUDGET_SEC = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=path_option, metavar="FILE", help="write ratios, figures and machine here")
    parser.add_argument(
        "--config", type=path_text, default="configs/gaussian25.yaml", help="network, batch and crop (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps in each turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=20, help="turns of each kind (%(default)s)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        build_shards([str(photographs_folder(scratch))], f"{scratch}/shards", BuildOptions(validation_fraction=0))
        config = read_config(
            ["--config", args.config, "--run_dir", f"{scratch}/run", "--data.shards", f"{scratch}/shards"]
        )
        samples = config.train.global_batch_size * args.steps
        total = samples * (2 * args.turns + 2)
        plan = dataclasses.replace(config.train, total_samples=total, checkpoint_every_samples=2 * total,
                                   validate_every_samples=2 * total)  # fmt: skip
        run = start(dataclasses.replace(config, train=plan))
        batches, tracker, progress = open_batches(run), NullTracker(), tqdm(disable=True)
        pauses: list[float] = []
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for turn, bar in turns(2 * args.turns + 1, _BUDGET_SEC, "with and without a checkpoint"):  # the first warms up
            before = time.perf_counter()
            if saving := turn % 2 == 1:
                save(run)
                pauses.append(run.interval.checkpoint_pause_sec)
                run.interval.checkpoint_pause_sec = 0.0
            loop(run, batches, tracker, progress, run.samples_seen + samples)
            if turn:
                seconds[saving].append(time.perf_counter() - before)
                bar.set_postfix_str(f"pause {pauses[-1] * 1e3:.1f} ms")

    cost = statistics.median(
        with_one - without for with_one, without in zip(seconds[True], seconds[False], strict=False)
    )
    pause = statistics.median(pauses)
    report(
        args.json,
        ratios={"pause_share": pause / _EVERY_SEC, "cost_share": cost / _EVERY_SEC},
        figures={"pause_sec": pause, "cost_sec": cost, "turn_sec": statistics.median(seconds[False])},
        machine=machine(),
    )


if __name__ == "__main__":
    run_command(main)
