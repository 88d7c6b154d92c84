#!/usr/bin/env python3
"""Two ranks with one thread each against one rank with two threads: the same global batch, the same two cores.

    tools/bench_scaling.py --json scaling.json
    tools/bench_scaling.py --model                 what 8, 64 and 1,024 GPUs should reach, on stated assumptions

The whole training loop is timed, in turns, so that what else the machine does meets all alike: one rank, two ranks, and
two ranks that do not exchange gradients, whose lead is the cost of communication.
"""

import argparse
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import scaling_model
import torch
from bench import machine, photographs_folder, report, turns
from tqdm import tqdm

from n2s_dist.config.schema import Config
from n2s_dist.models.score_model import build_score_model
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.training.batches import open_batches
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import loop
from n2s_dist.training.setup import start
from n2s_dist.training.telemetry import flops_per_sample
from n2s_dist.training.tracking import NullTracker
from n2s_dist.utils.errors import RunFailed, run_command
from n2s_dist.utils.files import path_option, path_text

_BUDGET_SEC = 150
_ANSWER = "@ "  # begins a worker's lines; others are the program's own


class Recorder(NullTracker):
    """Keeps what was logged last."""

    def log(self, samples_seen: int, metrics) -> None:
        self.last = dict(metrics)


class Team:
    """The ranks of one run, each a process that trains for some steps when it is told to."""

    def __init__(self, ranks: int, arguments: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        quiet = {"ACCELERATE_USE_CPU": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(2 // ranks)}
        self.processes = []
        for rank in range(ranks):
            own = {"RANK": rank, "LOCAL_RANK": rank, **shared} if ranks > 1 else {}
            environment = os.environ | quiet | {key: str(value) for key, value in own.items()}
            command = [sys.executable, __file__, "--worker", *arguments, f"--train.num_threads={2 // ranks}"]
            pipe = subprocess.PIPE
            self.processes.append(subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True))

    def answer(self) -> dict[str, float]:
        """What rank 0 says, once all ranks have spoken."""
        answers = []
        for process in self.processes:
            assert process.stdout
            said = next((line for line in process.stdout if line.startswith(_ANSWER)), None)
            if said is None:
                raise RunFailed("a rank ended early: see its message above")
            answers.append(json.loads(said.removeprefix(_ANSWER)))
        return answers[0]

    def turn(self, steps: int, exchange: bool) -> dict[str, float]:
        for process in self.processes:
            assert process.stdin
            process.stdin.write(f"{steps} {int(exchange)}\n")
            process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def work(config: Config) -> None:
    """A rank: train when told to, answer with the seconds it took."""
    run = start(config)
    recorder, progress, batches = Recorder(), tqdm(disable=True), open_batches(run)
    accumulating, exchange = run.ranks.accumulating, True
    run.ranks.accumulating = lambda model, last: accumulating(model, last and exchange)  # type: ignore[method-assign]
    batch = config.train.global_batch_size
    loop(run, batches, recorder, progress, run.samples_seen + 2 * batch)
    print(_ANSWER + "{}", flush=True)
    for line in sys.stdin:
        steps, exchange = int(line.split()[0]), line.split()[1] == "1"
        run.ranks.barrier()
        before = time.perf_counter()
        loop(run, batches, recorder, progress, run.samples_seen + steps * batch)
        run.ranks.barrier()
        seconds = time.perf_counter() - before
        waited = recorder.last["exchange_wait_frac"] if run.ranks.is_main else 0.0
        print(_ANSWER + json.dumps({"seconds": seconds, "exchange_wait_frac": waited}), flush=True)


def measure(config_file: str, steps: int, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios and figures."""
    variants = {"two_threads": (1, True), "two_ranks": (2, True), "two_ranks_without_exchange": (2, False)}
    took: dict[str, list[float]] = {name: [] for name in variants}
    waited, teams = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        build_shards([str(photographs_folder(scratch))], f"{scratch}/shards", BuildOptions(validation_fraction=0))
        config = read_config(["--config", config_file])
        batch = config.train.global_batch_size
        often, never = steps * batch, 10**9
        shared = [
            f"--config={config_file}", f"--data.shards={scratch}/shards", f"--train.total_samples={never}",
            f"--train.log_every_samples={often}", f"--train.checkpoint_every_samples={2 * never}",
            f"--train.validate_every_samples={2 * never}",
        ]  # fmt: skip
        try:
            for ranks in (1, 2):
                teams[ranks] = Team(ranks, [*shared, f"--run_dir={scratch}/{ranks}"])
                teams[ranks].answer()
            for turn, bar in turns(count + 1, _BUDGET_SEC, "scaling"):  # the first turn warms up
                names = list(variants)[turn % 3 :] + list(variants)[: turn % 3]
                for name in names:
                    ranks, exchange = variants[name]
                    answer = teams[ranks].turn(steps, exchange)
                    if turn:
                        took[name].append(answer["seconds"])
                        waited += [answer["exchange_wait_frac"]] if name == "two_ranks" else []
                        bar.set_postfix_str(f"{name} {steps * batch / answer['seconds']:.1f} samples/s")
        finally:
            for team in teams.values():
                team.close()

    def median_ratio(above: str, below: str) -> float:
        return statistics.median(b / a for a, b in zip(took[above], took[below], strict=True))

    ratios = {
        "two_ranks_over_two_threads": median_ratio("two_ranks", "two_threads"),
        "without_exchange_over_two_threads": median_ratio("two_ranks_without_exchange", "two_threads"),
    }
    figures = {f"{name}_samples_per_sec": steps * batch / statistics.median(took[name]) for name in took}
    without = statistics.median(
        a / b for a, b in zip(took["two_ranks_without_exchange"], took["two_ranks"], strict=True)
    )
    figures["communication_frac"] = 1 - without
    figures["communication_ms_a_step"] = (1 - without) * statistics.median(took["two_ranks"]) / steps * 1e3
    figures["exchange_wait_frac"] = statistics.median(waited)
    return ratios, figures


def print_model(config: Config, arguments: argparse.Namespace) -> None:
    model, crop = build_score_model(config, 3), config.data.crop_size
    given = scaling_model.Assumptions(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops_per_crop=flops_per_sample(model, 3, crop),
        crop_bytes=3 * crop**2,
        tile_bytes=3 * BuildOptions().tile_size ** 2,
    )
    chosen = {
        "flops_per_sec": arguments.tflops and arguments.tflops * 1e12,
        "floor_sec": arguments.floor_ms and arguments.floor_ms * 1e-3,
        "hop_sec": arguments.hop_us and arguments.hop_us * 1e-6,
        "total_crops": arguments.total_crops,
        "fewest_steps": arguments.fewest_steps,
    }
    given = dataclasses.replace(given, **{key: value for key, value in chosen.items() if value})
    print("\n".join(scaling_model.lines(given)))


def main() -> None:
    if "--worker" in sys.argv:
        torch.manual_seed(0)
        return work(read_config(sys.argv[sys.argv.index("--worker") + 1 :]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=path_option, metavar="FILE", help="write ratios, figures and machine here")
    parser.add_argument(
        "--config", type=path_text, default="configs/gaussian25.yaml", help="network, batch and crop (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps in each turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=15, help="turns of each (%(default)s)")
    model = parser.add_argument_group("model")
    model.add_argument("--model", action="store_true", help="print the model for many GPUs, measure nothing")
    model.add_argument("--tflops", type=float, help="TFLOP/s that a GPU reaches on the network (100)")
    model.add_argument("--floor-ms", type=float, help="least time of a step in ms (2)")
    model.add_argument("--hop-us", type=float, help="latency of one hop of an exchange in microseconds (5)")
    model.add_argument("--total-crops", type=int, help="length of a run (2.4 million, the paper's)")
    model.add_argument("--fewest-steps", type=int, help="optimizer steps that a run needs (2,500, gaussian25's)")
    args = parser.parse_args()

    if args.model:
        return print_model(read_config(["--config", args.config]), args)
    ratios, figures = measure(args.config, args.steps, args.turns)
    report(args.json, ratios=ratios, figures=figures, machine=machine())
    return None


if __name__ == "__main__":
    run_command(main)
