"""What keeps a run's work safe: checkpoints beside the loop, never of anything broken, and a stop on request."""

import time

import numpy as np
import torch
from tqdm import tqdm

from n2s_dist.distributed import stop_signals
from n2s_dist.models import checkpoint, checkpoint_writing
from n2s_dist.training.checkpoint_writer import copied
from n2s_dist.training.schedules import decay_start
from n2s_dist.training.state import TrainState
from n2s_dist.utils.errors import RunFailed, Stopped, of_all


def after_step(run: TrainState) -> None:
    """What follows every step, on all ranks: raises Stopped once some rank was asked to stop and all is on the disk.

    A checkpoint that could not be written stops all ranks as well.
    """
    if run.watchdog:
        run.watchdog.beat()
    if "first step" not in run.stopwatch.seconds:
        run.stopwatch.lap("first step")
        if run.ranks.is_main:
            tqdm.write(f"first step after {run.stopwatch}")
    heard = run.stops.after_step(run.ranks, run.checkpoint_writer.failed)
    if heard.failed:
        run.checkpoint_writer.wait(run.ranks)
    if not heard.signal_name or run.samples_seen >= run.config.train.total_samples:
        return
    if run.saved_at != run.samples_seen:
        save(run)
    run.checkpoint_writer.wait(run.ranks)
    if run.ranks.is_main:
        stop_signals.leave_note(run.run_dir, run.samples_seen, heard.signal_name)
    run.ranks.barrier()
    raise Stopped(run.samples_seen, heard.signal_name)


def save(run: TrainState) -> None:
    """Copy the state in memory and have a thread of rank 0 write it; all ranks must hold the same one."""
    stop_if_not_finite(run)
    paused = time.perf_counter()
    run.checkpoint_writer.wait(run.ranks)
    run.check_ranks_agree()
    if run.ranks.is_main:
        measured_at, psnr = run.last_validation
        state = copied(run.state())
        average, manifest = state.pop("average"), run.shards.manifest
        about = (run.config, manifest.channels, manifest.identities[0], run.samples_seen)
        psnr_now = psnr if measured_at == run.samples_seen else None

        def write() -> None:
            checkpoint_writing.save(run.run_dir, *about, average, state, psnr_now)
            # A run that is prolonged goes on from before its decay.
            checkpoint_writing.retain(run.run_dir, run.config.train.keep_checkpoints, decay_start(run.config))

        run.checkpoint_writer.submit(write)
    run.saved_at = run.samples_seen
    pause = time.perf_counter() - paused
    run.interval.checkpoint_pause_sec += pause
    run.interval.started += pause


def stop_if_not_finite(run: TrainState) -> None:
    """Stop all ranks when a loss or gradient since the last check is not finite, and say where; it was not saved yet.

    Under fp16 gradients may overflow: the loss scale then skips the step.
    """
    now, share = run.interval, run.config.train.global_batch_size // run.ranks.world_size
    if not now.losses:
        return
    losses = torch.cat(now.losses).isfinite().cpu().numpy()
    found = [("loss", int(np.concatenate(now.positions)[i]), run.ranks.rank) for i in np.flatnonzero(~losses)[:1]]
    if run.config.train.mixed_precision != "fp16":
        norms = torch.stack(now.gradient_norms).isfinite().cpu().numpy()
        steps = np.concatenate(now.positions).reshape(-1, share)[:, 0]
        found += [("gradient", int(steps[i]), run.ranks.rank) for i in np.flatnonzero(~norms)[:1]]
    everywhere = run.ranks.gather(found)
    if everywhere:
        run.checkpoint_writer.wait(run.ranks)  # so that what is named here is the newest there will be
        # In the step in which a loss breaks on one rank, gradients break on all: the loss comes first.
        batch_size = run.config.train.global_batch_size
        what, position, rank = min(everywhere, key=lambda row: (row[1] // batch_size, row[0] == "gradient", row[1]))
        newest = checkpoint.newest_valid(run.run_dir) or "none"
        raise of_all(
            RunFailed(
                f"the {what} at position {position} (rank {rank}) is not finite; the newest checkpoint is {newest}: "
                "lower optimizer.learning_rate or use more precision"
            )
        )
