"""Train a score network on noisy images alone, or a baseline to compare with.

    accelerate launch -m n2s_dist.train --config configs/gaussian25.yaml --run_dir runs/a --data.shards shards/bsd400

The same command continues an interrupted run from its newest checkpoint. All that a run is can be
derived from its configuration and samples_seen: order, crops, noise, perturbations and schedules.
"""

if __name__ == "__main__":  # what comes next takes seconds to import, in which signals count as well
    from n2s_dist import stopping

    stopping.listen()

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from n2s_dist import checkpoint, order, schedule, stopping
from n2s_dist.ardae import excesses, is_overstated, part_of_raise, raised, share_of_range, sigma_a_law
from n2s_dist.command_line import read_config
from n2s_dist.config import Config, flatten, to_dict
from n2s_dist.consistency import compare_program
from n2s_dist.constant_areas import make_constant
from n2s_dist.distributed import lost_ranks_named
from n2s_dist.errors import Stopped, UserError, run_command
from n2s_dist.keeping import after_step, save, stop_if_not_finite
from n2s_dist.laps import Laps, process_age_sec
from n2s_dist.loader import CropLoader, bring_ahead, run_ahead
from n2s_dist.locks import alone_in
from n2s_dist.meeting import Meeting
from n2s_dist.mixture import Mixture
from n2s_dist.objectives import Batch, draw, method_loss
from n2s_dist.run import Interval, Run, start
from n2s_dist.tracking import NullTracker, open_tracker
from n2s_dist.validation import validate
from n2s_dist.watchdog import Watchdog

# The average moves by thousands of samples; following every small batch would cost 1 % of a CPU's time.
_EMA_EVERY_SAMPLES = 64


def train(config: Config, laps: Laps | None = None, meeting: Meeting | None = None) -> Path:
    """Train to the end, or go on from where the run directory says; returns the last checkpoint.

    Raises Stopped when the run was asked to stop. laps hold what was spent before. meeting: where ranks have met.
    """
    if meeting is None:
        with Meeting() as meeting:
            return train(config, laps, meeting)
    compare_program(meeting, flatten(to_dict(config)), checkpoint.versions())
    if not config.run_dir:
        raise UserError("--run_dir is missing: name a folder for checkpoints and metrics")
    run_dir, launch = Path(config.run_dir), meeting.launch
    only = alone_in(run_dir, gives_up=stopping.told_to_end) if launch.is_main else contextlib.nullcontext()
    with only, lost_ranks_named(), Watchdog(config.train.hang_sec, run_dir, launch.rank) as watchdog:
        run = start(config, laps, meeting)
        run.watchdog = watchdog
        if run.samples_seen < config.train.total_samples:
            train_on(run)
        last = checkpoint.locate(run.run_dir)
        if run.ranks.is_main:
            print(f"trained on {run.samples_seen:,} samples: {last}")
        run.ranks.close()
    return last


def train_on(run: Run) -> None:
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
        run.laps.lap("tracking")
        batches = open_batches(run)
        run.laps.lap("data")
        loop(run, batches, tracker, progress, total)
    except Stopped:
        tracker.close()
        run.ranks.close()
        raise
    finally:
        run.shards.store.close()
        run.watch.close()
        progress.close()
    tracker.close()


def loop(run: Run, batches: Iterator[Batch], tracker: NullTracker, progress: tqdm, until: int) -> None:
    """The training loop: a step, then whatever is due. It ends when all is on the disk."""
    plan, batch_size = run.config.train, run.config.train.global_batch_size

    def due(every_samples: int) -> bool:
        return schedule.is_due(run.samples_seen, batch_size, every_samples, plan.total_samples)

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
    run.saver.settle(run.ranks)


def open_batches(run: Run) -> Iterator[Batch]:
    """This rank's portions from samples_seen on, without end, made one ahead of their use."""
    config, device = run.config, run.ranks.device
    noise = None if run.shards.noise else run.model.noise
    assert not isinstance(noise, Mixture)
    for_loader, for_loss = itertools.tee(portions(run))
    if run.ranks.local_rank == 0:
        for_loader = bring_ahead(run.shards, for_loader, node_positions(run), run.sample_index)
    crops = CropLoader(
        run.shards, for_loader, run.micro_batch, config.data.crop_size, noise, config.seed,
        resample_noise=config.data.resample_noise, device=device, num_threads=config.data.num_threads,
        windows=run.windows, beside=config.beside,
    )  # fmt: skip

    def make(positions: np.ndarray, made: Tensor) -> Batch:
        if config.beside:
            noisy, extra = made.unbind(1)
        else:
            noisy, extra = made, draw(config.method, config.seed, positions, made.shape, device)
        # One noise for all needs no look at the images.
        keys = run.image_keys(positions) if isinstance(run.model.noise, Mixture) else np.empty(0, np.uint64)
        sigma_a, excess = (
            torch.tensor(scales, dtype=torch.float32, device=device).view(-1, 1, 1, 1)
            for scales in perturbation_scales(run, positions, keys)
        )
        noiseless = None
        if config.ardae.constant:
            noisy, noiseless = make_constant(noisy, config.seed, positions, config.ardae.constant)
        told = excess if config.ardae.overstated else None
        return Batch(positions, noisy, run.noise_of(keys), extra, sigma_a, told, noiseless)

    return run_ahead(make(positions, made) for made, positions in zip(crops, for_loss, strict=False))


def perturbation_scales(run: Run, positions: np.ndarray, image_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AR-DAE's sigma_a for the crops at some global positions, of images with these keys, and the excess of the level
    that the network is told over theirs: float64 [B] each.
    """
    config = run.config
    law = config.ardae.coordinates
    sigma_a = sigma_a_law(law, config.seed, positions, config.train.total_samples, config.sigma_a)
    if not config.ardae.whole_range:
        return sigma_a, np.ones_like(sigma_a)
    mixture, aim = run.model.noise, config.aim
    assert isinstance(mixture, Mixture) and isinstance(aim, Mixture)
    share = share_of_range(config.seed, positions)
    log_raise = mixture.log_raise(image_keys, run.shards.manifest.seed, share, aim)
    overstated = is_overstated(config.seed, positions, config.ardae.overstated)
    part = np.where(overstated, part_of_raise(config.seed, positions), 1.0)
    sigma_a = raised(sigma_a, part * log_raise)
    return sigma_a, excesses(sigma_a, log_raise, overstated)


def portions(run: Run) -> Iterator[np.ndarray]:
    """Global positions of this rank's portions of each global batch, from samples_seen on, without end."""
    batch_size = run.config.train.global_batch_size
    for step in itertools.count(run.samples_seen // batch_size):
        yield from order.rank_positions(step, batch_size, run.ranks.rank, run.ranks.world_size).reshape(
            -1, run.micro_batch
        )


def node_positions(run: Run) -> Iterator[np.ndarray]:
    """Global positions of all ranks of this node, a batch at a time, from samples_seen to the end of the run."""
    batch_size, ranks = run.config.train.global_batch_size, run.ranks
    for step in range(run.samples_seen // batch_size, -(-run.config.train.total_samples // batch_size)):
        local = range(ranks.rank, ranks.rank + ranks.local_world_size)
        yield np.concatenate([order.rank_positions(step, batch_size, rank, ranks.world_size) for rank in local])


def train_step(run: Run, batches: Iterator[Batch]) -> None:
    """One optimizer step on one global batch, in as many portions as memory asks for."""
    config = run.config
    count = config.train.global_batch_size // run.ranks.world_size // run.micro_batch
    run.watch.begin()
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config, run.samples_seen)

    for number in range(count):
        waiting = time.perf_counter()
        batch = next(batches)
        run.interval.data_wait_sec += time.perf_counter() - waiting
        with run.ranks.accumulating(run.wrapped, last=number == count - 1):
            losses = method_loss(config.method, run.model, run.wrapped, batch)
            run.ranks.backward(losses.mean() / count)
        run.interval.positions.append(batch.positions)
        run.interval.sigma_a.append(batch.sigma_a.flatten())
        run.interval.losses.append(losses.detach())

    run.watch.exchanged()
    run.interval.gradient_norms.append(run.ranks.gradient_norm(run.wrapped, config.optimizer.clip_norm))
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.samples_seen += config.train.global_batch_size
    follow_every = _EMA_EVERY_SAMPLES if config.optimizer.ema_halflife_samples else 1
    if schedule.is_due(run.samples_seen, config.train.global_batch_size, follow_every, config.train.total_samples):
        update_ema(run)
    run.watch.end()


@torch.no_grad()
def update_ema(run: Run) -> None:
    """Let the averaged weights follow: ema += (1 - decay) (weights - ema)."""
    between = max(_EMA_EVERY_SAMPLES, run.config.train.global_batch_size)
    decay = schedule.ema_decay(run.samples_seen, between, run.config.optimizer.ema_halflife_samples)
    torch._foreach_lerp_(list(run.ema.parameters()), list(run.model.parameters()), 1 - decay)


def learning_rate(config: Config, samples_seen: int) -> float:
    """The rate for the step that begins at samples_seen; the warm-up counts the samples of that step as seen."""
    plan = config.optimizer
    if plan.schedule == "step":
        return plan.learning_rate * schedule.step_decay(samples_seen, plan.step_every_samples, plan.step_factor)
    ahead = samples_seen + config.train.global_batch_size
    return plan.learning_rate * schedule.warmup_cosine(ahead, config.train.total_samples, plan.warmup_samples)


def write_metrics(run: Run, tracker: NullTracker, progress: tqdm) -> None:
    """Check the interval's losses, log what happened in it and begin the next one."""
    stop_if_not_finite(run)
    now = run.interval
    losses = torch.cat(now.losses).double().cpu().numpy()
    elapsed = time.perf_counter() - now.started
    loss_sum, wait_sum, count = run.ranks.sum([float(losses.sum()), now.data_wait_sec / elapsed, float(losses.size)])
    metrics = {
        "loss": loss_sum / count,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "gradient_norm": float(now.gradient_norms[-1]),
        "samples_per_sec": count / elapsed,
        "data_wait_frac": wait_sum / run.ranks.world_size,
        **run.watch.report(count / elapsed, max(0, run.config.train.total_samples - run.samples_seen)),
    }
    if run.config.method == "ardae":
        metrics["sigma_a"] = float(torch.cat(now.sigma_a).mean())
    if now.checkpoint_pause_sec:
        metrics["checkpoint_pause_sec"] = now.checkpoint_pause_sec
    tracker.log(run.samples_seen, metrics)
    measured_at, psnr = run.last_validation
    shown = {"loss": f"{metrics['loss']:.4f}"} | ({"psnr_db": f"{psnr:.2f}"} if measured_at >= 0 else {})
    progress.set_postfix(shown, refresh=False)
    run.interval = Interval()


def measure(run: Run, tracker: NullTracker) -> None:
    """Validate the averaged weights, if some images were held out."""
    if run.validation is None:
        return
    paused = time.perf_counter()
    config = run.config
    metrics, triptych = validate(
        config.method, run.ema, run.validation, config.train.validation_tiles, config.seed, run.ranks, config.aim
    )
    tracker.log(run.samples_seen, metrics)
    tracker.picture(run.samples_seen, "validation", triptych)
    run.last_validation = (run.samples_seen, metrics["val_psnr_db"])
    run.interval.started += time.perf_counter() - paused  # throughput is of training alone


def main() -> None:
    laps = Laps(process_age_sec())
    laps.lap("imports")
    try:
        with Meeting() as meeting:
            config = read_config()
            laps.lap("settings")
            train(config, laps, meeting)
    except Stopped:
        stopping.ignore()
        raise


if __name__ == "__main__":
    run_command(main)
