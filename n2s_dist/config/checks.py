"""Which values of a configuration are out of range, and which contradict each other.

What the chosen network and the chosen method ask for is checked where these are: in models/base.py and losses/base.py.
"""

import math
from operator import attrgetter
from typing import TYPE_CHECKING

from n2s_dist.noise.specification import parse_training_noise
from n2s_dist.utils.errors import UserError

if TYPE_CHECKING:
    from n2s_dist.config.schema import Config

# The families that network.condition families tells apart, in the order of their planes.
TOLD_FAMILIES = ("gaussian", "poisson", "gamma")


def check(config: "Config") -> None:
    """Raise UserError for values out of range and for settings that contradict each other."""
    data, train, optimizer = config.data, config.train, config.optimizer
    noise = parse_training_noise(config.noise)
    if not noise.is_single and config.ardae.coordinates == "image":
        raise UserError("ardae.coordinates image takes one noise level: give stable, or a noise such as gaussian:25")
    if noise.paper_sigma_a is None and config.ardae.coordinates == "image":
        raise UserError(f"noise {config.noise} has no image coordinates: give ardae.coordinates stable")
    check_condition(config)
    if config.ardae.whole_range and noise.is_single:
        raise UserError("ardae.whole_range takes a noise of several levels, such as gaussian:5-55")
    if focus := config.ardae.focus:
        if not config.ardae.whole_range:
            raise UserError(f"ardae.focus is {focus}: it takes ardae.whole_range true")
        if config.aim.is_single or not noise.contains(config.aim):
            raise UserError(f"ardae.focus is {focus}: give a part of each range of {config.noise}, in this order")
    for key in (
        "data.cache_gib", "data.crop_size", "data.num_threads", "optimizer.learning_rate",
        "optimizer.decay_samples", "optimizer.step_every_samples", "optimizer.step_factor",
        "train.total_samples", "train.global_batch_size",
        "train.device_batch_size", "train.checkpoint_every_samples", "train.keep_checkpoints",
        "train.validate_every_samples", "train.validation_tiles", "train.log_every_samples",
    ):  # fmt: skip
        value = attrgetter(key)(config)
        if not 0 < value < math.inf:
            raise UserError(f"{key} is {value}: it must be a number above 0")
    for key in (
        "seed", "data.window_shards", "data.lanes", "train.num_threads", "train.profile_steps", "train.hang_sec",
        "optimizer.weight_decay", "optimizer.warmup_samples", "optimizer.clip_norm", "optimizer.ema_halflife_samples",
    ):  # fmt: skip
        value = attrgetter(key)(config)
        if not 0 <= value < math.inf:
            raise UserError(f"{key} is {value}: it must be a number, not negative")
    if config.seed >= 2**63:
        raise UserError(f"seed is {config.seed}: it must be below 2^63")
    if data.lanes and not data.window_shards:
        raise UserError(f"data.lanes is {data.lanes}, but data.window_shards 0 shuffles the whole set: give both")
    if data.lanes and train.global_batch_size % data.lanes:
        raise UserError(
            f"data.lanes is {data.lanes}: it must divide train.global_batch_size, which is {train.global_batch_size}"
        )
    for key in ("ardae.overstated", "ardae.constant"):
        value = attrgetter(key)(config)
        if not 0 <= value <= 1:
            raise UserError(f"{key} is {value}: it must be a share of the crops, from 0 to 1")
        if value and config.ardae.coordinates == "image":
            raise UserError(f"{key} is {value}: it takes ardae.coordinates stable")
    if config.ardae.overstated and not config.ardae.whole_range:
        raise UserError(f"ardae.overstated is {config.ardae.overstated}: it takes ardae.whole_range true")
    if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
        raise UserError(f"optimizer.betas is {optimizer.betas}: give two numbers in [0, 1)")
    if not 0 <= optimizer.momentum < 1:
        raise UserError(f"optimizer.momentum is {optimizer.momentum}: give a number in [0, 1)")
    sigma_a = config.ardae.sigma_a
    if sigma_a and (len(sigma_a) != 2 or not all(0 <= s < math.inf for s in sigma_a) or max(sigma_a) == 0):
        raise UserError(f"ardae.sigma_a is {sigma_a}: give two numbers, not negative and not both 0")


def check_condition(config: "Config") -> None:
    """UserError where network.condition does not go with the noise or the coordinates."""
    noise, kind = parse_training_noise(config.noise), config.network.condition
    if len(noise.patterns) > 1:
        raise UserError(
            f"no network is told of stripes and of correlated channels, and {config.noise} has several kinds: give all "
            "its families the same +rows, +columns and +channels"
        )
    if kind == "map" and config.ardae.coordinates == "image":
        raise UserError("network.condition map takes ardae.coordinates stable")
    if kind == "families" and not noise.is_single:
        if not set(noise.families) <= set(TOLD_FAMILIES):
            raise UserError(
                f"network.condition families tells {', '.join(TOLD_FAMILIES)} apart: give map for {config.noise}"
            )
        if noise.is_correlated:
            raise UserError(f"network.condition families knows no correlation: give map for {config.noise}")
