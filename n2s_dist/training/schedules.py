"""Everything that changes during a run as a pure function of samples_seen, the one clock of training."""

import math

from n2s_dist.config.schema import Config


def warmup_cosine(samples_seen: int, total_samples: int, warmup_samples: int) -> float:
    """Share of the peak learning rate: linear from 0 over the warm-up, then half a cosine down to 0.

    The warm-up takes at most a quarter of the run, so that very short runs learn something as well.
    """
    warmup_samples = min(warmup_samples, total_samples // 4)
    if samples_seen < warmup_samples:
        return samples_seen / warmup_samples
    progress = (samples_seen - warmup_samples) / max(1, total_samples - warmup_samples)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def warmup_stable_decay(samples_seen: int, total_samples: int, warmup_samples: int, decay_samples: int) -> float:
    """Share of the peak learning rate: a linear warm-up, then 1, then 1 - sqrt over the last decay_samples.

    Until the decay begins, nothing depends on the run's length, so a run can be prolonged (Hagele et al. 2024).
    """
    if samples_seen < warmup_samples:
        return samples_seen / warmup_samples
    decayed = max(0, samples_seen - max(0, total_samples - decay_samples))
    return max(0.0, 1 - math.sqrt(decayed / decay_samples))


def step_decay(samples_seen: int, every_samples: int, factor: float) -> float:
    """Share of the initial learning rate: multiplied by `factor` after every `every_samples` samples (the paper's)."""
    return factor ** (samples_seen // every_samples)


def ema_decay(samples_seen: int, batch_size: int, halflife_samples: int, warmup_ratio: float = 0.05) -> float:
    """How much of the average one step keeps, for an average whose half-life is counted in samples.

    The half-life grows with the run, warmup_ratio x samples_seen at first, so that the average soon
    forgets the random start (Karras et al. 2024). 0 at samples_seen 0.
    """
    halflife = min(halflife_samples, warmup_ratio * samples_seen)
    return 0.5 ** (batch_size / halflife) if halflife > 0 else 0.0


def is_due(samples_seen: int, batch_size: int, every_samples: int, total_samples: int) -> bool:
    """Whether the step that ends at samples_seen crossed a multiple of every_samples, or ended the run."""
    crossed = samples_seen // every_samples > (samples_seen - batch_size) // every_samples
    return crossed or samples_seen >= total_samples


def may_go_on(config: Config, before: Config, samples_seen: int) -> bool:
    """Whether a run as `before` has it may go on from samples_seen as `config` has it, though their lengths differ.

    That is where neither plan has begun to lower the rate by then: a run of the wsd schedule, in coordinates whose
    perturbation does not depend on the run's length.
    """
    if config.train.total_samples == before.train.total_samples and config.optimizer == before.optimizer:
        return True
    prolongable = config.optimizer.schedule == "wsd" and config.ardae.coordinates == "stable"
    return prolongable and samples_seen <= min(decay_start(config), decay_start(before))


def decay_start(config: Config) -> int:
    """Samples seen when the wsd schedule begins to lower the rate; the end of the run under another one."""
    decay_samples = config.optimizer.decay_samples if config.optimizer.schedule == "wsd" else 0
    return max(0, config.train.total_samples - decay_samples)


def learning_rate(config: Config, samples_seen: int) -> float:
    """The rate for the step that begins at samples_seen; the warm-up counts the samples of that step as seen."""
    plan = config.optimizer
    if plan.schedule == "step":
        return plan.learning_rate * step_decay(samples_seen, plan.step_every_samples, plan.step_factor)
    ahead = samples_seen + config.train.global_batch_size
    if plan.schedule == "wsd":
        total = config.train.total_samples
        return plan.learning_rate * warmup_stable_decay(ahead, total, plan.warmup_samples, plan.decay_samples)
    return plan.learning_rate * warmup_cosine(ahead, config.train.total_samples, plan.warmup_samples)
