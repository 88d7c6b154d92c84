"""One optimizer step."""

from collections.abc import Iterator

from n2s_dist.losses.base import method_loss
from n2s_dist.losses.loss import Batch
from n2s_dist.training import schedules
from n2s_dist.training.ema import EMA_EVERY_SAMPLES, update_ema
from n2s_dist.training.schedules import learning_rate
from n2s_dist.training.state import TrainState


def train_step(run: TrainState, batches: Iterator[Batch]) -> None:
    """One optimizer step on one global batch, in as many micro-batches as memory asks for."""
    config = run.config
    count = config.train.global_batch_size // run.ranks.world_size // run.micro_batch_size
    run.telemetry.begin()
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config, run.samples_seen)

    for number in range(count):
        run.telemetry.wait_for_data()
        batch = next(batches)
        run.telemetry.data_came()
        with run.ranks.accumulating(run.ddp_model, last=number == count - 1):
            losses = method_loss(config.method, run.model, run.ddp_model, batch)
            run.ranks.backward(losses.mean() / count)
        run.interval.positions.append(batch.positions)
        run.interval.sigma_a.append(batch.sigma_a.flatten())
        run.interval.losses.append(losses.detach())

    run.telemetry.exchanged()
    run.interval.gradient_norms.append(run.ranks.gradient_norm(run.ddp_model, config.optimizer.clip_norm))
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.samples_seen += config.train.global_batch_size
    follow_every = EMA_EVERY_SAMPLES if config.optimizer.ema_halflife_samples else 1
    if schedules.is_due(run.samples_seen, config.train.global_batch_size, follow_every, config.train.total_samples):
        update_ema(run)
    run.telemetry.end()
