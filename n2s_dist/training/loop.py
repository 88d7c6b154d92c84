"""The training loop: a step, then whatever is due."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from n2s_dist.config.schema import Config, flatten, to_dict
from n2s_dist.distributed import stop_signals
from n2s_dist.distributed.consistency import compare_program
from n2s_dist.distributed.meeting import Meeting
from n2s_dist.distributed.ranks import lost_ranks_named
from n2s_dist.distributed.watchdog import Watchdog
from n2s_dist.losses.loss import Batch
from n2s_dist.models import checkpoint
from n2s_dist.training import schedules
from n2s_dist.training.batches import open_batches
from n2s_dist.training.checkpointing import after_step, save
from n2s_dist.training.metrics import measure, write_metrics
from n2s_dist.training.setup import start
from n2s_dist.training.state import TrainState
from n2s_dist.training.step import train_step
from n2s_dist.training.tracking import NullTracker, open_tracker
from n2s_dist.utils.errors import Stopped, UserError
from n2s_dist.utils.locks import alone_in
from n2s_dist.utils.stopwatch import Stopwatch


def train(config: Config, stopwatch: Stopwatch | None = None, meeting: Meeting | None = None) -> Path:
    """Train to the end, or go on from where the run directory says; returns the last checkpoint.

    Raises Stopped when the run was asked to stop. stopwatch: what was spent before. meeting: where ranks have met.
    """
    if meeting is None:
        with Meeting() as meeting:
            return train(config, stopwatch, meeting)
    compare_program(meeting, flatten(to_dict(config)), checkpoint.versions())
    if not config.run_dir:
        raise UserError("--run-dir is missing: name a folder for checkpoints and metrics")
    run_dir, launch = Path(config.run_dir), meeting.launch
    only = alone_in(run_dir, gives_up=stop_signals.told_to_end) if launch.is_main else contextlib.nullcontext()
    with only, lost_ranks_named(), Watchdog(config.train.hang_sec, run_dir, launch.rank) as watchdog:
        run = start(config, stopwatch, meeting)
        run.watchdog = watchdog
        if run.samples_seen < config.train.total_samples:
            train_on(run)
        last = checkpoint.locate(run.run_dir)
        if run.ranks.is_main:
            print(f"trained on {run.samples_seen:,} samples: {last}")
        run.ranks.close()
    return last


def train_on(run: TrainState) -> None:
    """From where the run stands to its end, or to where it is asked to stop."""
    total = run.config.train.total_samples
    tracker = open_tracker(run.config, run.run_dir, run.samples_seen, run.ranks.is_main)
    progress = tqdm(
        total=total,
        initial=run.samples_seen,
        unit=" samples",
        smoothing=0.05,
        disable=not run.ranks.is_main,
        mininterval=0.5 if sys.stderr.isatty() else 30,
    )
    try:
        run.stopwatch.lap("tracking")
        batches = open_batches(run)
        run.stopwatch.lap("data")
        loop(run, batches, tracker, progress, total)
    except Stopped:
        tracker.close()
        run.ranks.close()
        raise
    finally:
        run.shards.store.close()
        run.telemetry.close()
        progress.close()
    tracker.close()


def loop(run: TrainState, batches: Iterator[Batch], tracker: NullTracker, progress: tqdm, until: int) -> None:
    """The training loop: a step, then whatever is due. It ends when all is on the disk."""
    plan, batch_size = run.config.train, run.config.train.global_batch_size

    def due(every_samples: int) -> bool:
        return schedules.is_due(run.samples_seen, batch_size, every_samples, plan.total_samples)

    while run.samples_seen < until:
        train_step(run, batches)
        progress.update(batch_size)
        if due(plan.log_every_samples):
            write_metrics(run, tracker, progress)
        if due(plan.validate_every_samples) or due(plan.checkpoint_every_samples):
            measure(run, tracker)
        if due(plan.checkpoint_every_samples):
            save(run)
        after_step(run)
    run.checkpoint_writer.wait(run.ranks)
