"""The average of the weights, which is what is evaluated and shipped."""

import torch

from n2s_dist.training import schedules
from n2s_dist.training.state import TrainState

# The average moves by thousands of samples; following every small batch would cost 1 % of a CPU's time.
EMA_EVERY_SAMPLES = 64


@torch.no_grad()
def update_ema(run: TrainState) -> None:
    """Let the averaged weights follow: ema += (1 - decay) (weights - ema)."""
    between = max(EMA_EVERY_SAMPLES, run.config.train.global_batch_size)
    decay = schedules.ema_decay(run.samples_seen, between, run.config.optimizer.ema_halflife_samples)
    torch._foreach_lerp_(list(run.ema.parameters()), list(run.model.parameters()), 1 - decay)
