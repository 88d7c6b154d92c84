"""What is logged of a run: figures of the steps since the last time, and how it does on held-out tiles."""

import time

import torch
from tqdm import tqdm

from n2s_dist.training.checkpointing import stop_if_not_finite
from n2s_dist.training.state import Interval, TrainState
from n2s_dist.training.tracking import NullTracker
from n2s_dist.training.validation import validate


def write_metrics(run: TrainState, tracker: NullTracker, progress: tqdm) -> None:
    """Check the interval's losses, log what happened in it and begin the next one."""
    stop_if_not_finite(run)
    now = run.interval
    losses = torch.cat(now.losses).double().cpu().numpy()
    elapsed = time.perf_counter() - now.started
    loss_sum, count = run.ranks.sum([float(losses.sum()), float(losses.size)])
    metrics = {
        "loss": loss_sum / count,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "gradient_norm": float(now.gradient_norms[-1]),
        "samples_per_sec": count / elapsed,
        **run.telemetry.report(count / elapsed, max(0, run.config.train.total_samples - run.samples_seen)),
    }
    if run.loss.is_perturbed:
        metrics["sigma_a"] = float(torch.cat(now.sigma_a).mean())
    if now.checkpoint_pause_sec:
        metrics["checkpoint_pause_sec"] = now.checkpoint_pause_sec
    tracker.log(run.samples_seen, metrics)
    measured_at, psnr = run.last_validation
    shown = {"loss": f"{metrics['loss']:.4f}"} | ({"psnr_db": f"{psnr:.2f}"} if measured_at >= 0 else {})
    progress.set_postfix(shown, refresh=False)
    run.interval = Interval()


def measure(run: TrainState, tracker: NullTracker) -> None:
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
