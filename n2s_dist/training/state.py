"""A training run in flight on one rank: what its configuration describes, and where it stands."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from n2s_dist.config.schema import Config
from n2s_dist.distributed import consistency, stop_signals
from n2s_dist.distributed.ranks import Ranks
from n2s_dist.distributed.watchdog import Watchdog
from n2s_dist.loading import sample_order, windowed_order
from n2s_dist.losses.base import loss_of
from n2s_dist.losses.loss import Loss
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.batch import NoiseBatch
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training.checkpoint_writer import AsyncCheckpointWriter
from n2s_dist.training.telemetry import StepTelemetry
from n2s_dist.utils.stopwatch import Stopwatch


@dataclass
class Interval:
    """Sums since metrics were last written."""

    started: float = field(default_factory=time.perf_counter)
    positions: list[np.ndarray] = field(default_factory=list)
    sigma_a: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    checkpoint_pause_sec: float = 0.0  # not part of what throughput is counted over
    gradient_norms: list[Tensor] = field(default_factory=list)


@dataclass
class TrainState:
    """A training run in flight: what its configuration describes, made ready on this rank."""

    config: Config
    ranks: Ranks
    shards: ShardSet
    validation: ShardSet | None
    model: ScoreModel
    ema: ScoreModel
    ddp_model: torch.nn.Module  # the model as accelerate runs it
    optimizer: Any
    micro_batch_size: int
    windows: windowed_order.WindowedOrder | None  # None shuffles the whole set
    telemetry: StepTelemetry
    samples_seen: int = 0
    last_validation: tuple[int, float] = (-1, 0.0)  # samples_seen, PSNR in dB
    interval: Interval = field(default_factory=Interval)
    saved_at: int = -1  # samples_seen of the newest checkpoint, which may still be on its way to the disk
    checkpoint_writer: AsyncCheckpointWriter = field(default_factory=AsyncCheckpointWriter)
    stops: stop_signals.StopCoordinator = field(default_factory=stop_signals.StopCoordinator)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)  # from the command to the first step
    watchdog: Watchdog | None = None

    def state(self) -> dict[str, Any]:
        """All that does not follow from configuration and samples_seen; the same on all ranks."""
        return {
            "weights": self.model.state_dict(),
            "average": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss_scale": self.ranks.scaler_state,
        }

    def check_ranks_agree(self) -> None:
        """RunFailed when some rank holds another state than the others."""
        called = {id(parameter): name for name, parameter in self.model.named_parameters()}
        names = [called[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]
        consistency.check(self.ranks, self.samples_seen, self.state(), names)

    def sample_index(self, positions: np.ndarray) -> np.ndarray:
        """Which sample is at each global position."""
        if self.windows:
            return self.windows.sample_index(positions)
        return sample_order.sample_index(self.config.seed, positions, len(self.shards))

    def noise_of(self, image_keys: np.ndarray) -> NoiseModel | NoiseBatch:
        """Which noise images have, by their keys, uint64 [N]: one for all, or each its own."""
        noise = self.model.noise
        if noise.is_single:
            return noise.single
        return NoiseBatch.of_images(noise, image_keys, self.shards.manifest.seed, self.ranks.device)

    def image_keys(self, positions: np.ndarray) -> np.ndarray:
        """Of the images that the crops at some global positions are of: uint64 [N]."""
        return self.shards.image_keys(self.sample_index(positions))

    @property
    def loss(self) -> Loss:
        """What the method learns by."""
        return loss_of(self.config.method)

    @property
    def run_dir(self) -> Path:
        return Path(self.config.run_dir)
