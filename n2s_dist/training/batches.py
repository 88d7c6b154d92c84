"""Batches of one rank from samples_seen on: which positions, their crops, noise and draws."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from n2s_dist.loading import sample_order
from n2s_dist.loading.crop_loader import CropLoader
from n2s_dist.loading.prefetch import bring_ahead, run_ahead
from n2s_dist.losses.ardae import excesses, is_overstated, part_of_raise, raised, share_of_range, sigma_a_law
from n2s_dist.losses.base import draw
from n2s_dist.losses.constant_areas import make_constant
from n2s_dist.losses.loss import Batch
from n2s_dist.noise.transfer import to_device
from n2s_dist.training.state import TrainState


def open_batches(run: TrainState) -> Iterator[Batch]:
    """This rank's micro-batches from samples_seen on, without end, made one ahead of their use."""
    config, device, extra_view = run.config, run.ranks.device, run.loss.extra_view
    noise = None if run.shards.noise else run.model.noise.single
    for_loader, for_loss = itertools.tee(micro_batches(run))
    if run.ranks.local_rank == 0:
        for_loader = bring_ahead(run.shards, for_loader, node_positions(run), run.sample_index)
    crops = CropLoader(
        run.shards, for_loader, run.micro_batch_size, config.data.crop_size, noise, config.seed,
        resample_noise=config.data.resample_noise, device=device, num_threads=config.data.num_threads,
        windows=run.windows, extra_view=extra_view, turned=not run.model.noise.is_directional,
    )  # fmt: skip

    def make(positions: np.ndarray, made: Tensor) -> Batch:
        # One noise for all needs no look at the images.
        keys = np.zeros(len(positions), np.uint64) if run.model.noise.is_single else run.image_keys(positions)
        if extra_view:
            noisy, aux = made.unbind(1)
        else:
            kernels = run.model.noise.kernels(keys, run.shards.manifest.seed)
            noisy, aux = made, draw(config.method, config.seed, positions, made.shape, device, kernels)
        scales, excess = perturbation_scales(run, positions, keys)
        sigma_a = to_device(scales, device, torch.float32).view(-1, 1, 1, 1)
        noiseless = None
        if config.ardae.constant:
            noisy, noiseless = make_constant(noisy, config.seed, positions, config.ardae.constant)
        told = to_device(excess, device, torch.float32).view(-1, 1, 1, 1) if config.ardae.overstated else None
        return Batch(positions, noisy, run.noise_of(keys), aux, sigma_a, told, noiseless)

    return run_ahead(make(positions, made) for made, positions in zip(crops, for_loss, strict=False))


def perturbation_scales(
    run: TrainState, positions: np.ndarray, image_keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """sigma_a for the crops at some global positions, of images with these keys, and the excess of the level that the
    network is told over theirs: float64 [B] each. They are 0 and 1 for a loss that is not perturbed.
    """
    config = run.config
    if not run.loss.is_perturbed:
        return np.zeros(len(positions)), np.ones(len(positions))
    law = config.ardae.coordinates
    sigma_a = sigma_a_law(law, config.seed, positions, config.train.total_samples, config.sigma_a)
    if not config.ardae.whole_range:
        return sigma_a, np.ones_like(sigma_a)
    share = share_of_range(config.seed, positions)
    log_raise = run.model.noise.log_raise(image_keys, run.shards.manifest.seed, share, config.aim)
    overstated = is_overstated(config.seed, positions, config.ardae.overstated)
    part = np.where(overstated, part_of_raise(config.seed, positions), 1.0)
    sigma_a = raised(sigma_a, part * log_raise)
    return sigma_a, excesses(sigma_a, log_raise, overstated)


def micro_batches(run: TrainState) -> Iterator[np.ndarray]:
    """Global positions of this rank's micro-batches of each global batch, from samples_seen on, without end."""
    batch_size = run.config.train.global_batch_size
    for step in itertools.count(run.samples_seen // batch_size):
        yield from sample_order.rank_positions(step, batch_size, run.ranks.rank, run.ranks.world_size).reshape(
            -1, run.micro_batch_size
        )


def node_positions(run: TrainState) -> Iterator[np.ndarray]:
    """Global positions of all ranks of this node, a batch at a time, from samples_seen to the end of the run."""
    batch_size, ranks = run.config.train.global_batch_size, run.ranks
    for step in range(run.samples_seen // batch_size, -(-run.config.train.total_samples // batch_size)):
        local = range(ranks.rank, ranks.rank + ranks.local_world_size)
        yield np.concatenate([sample_order.rank_positions(step, batch_size, rank, ranks.world_size) for rank in local])
