"""Random numbers of losses: a stream for each sample, by its global position, so that a resumed run repeats them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from n2s_dist.noise.blurred import Kernels, blur
from n2s_dist.noise.transfer import to_device
from n2s_dist.utils import hashing


def perturbations(
    seed: int, positions: np.ndarray, shape: torch.Size, device: torch.device, kernels: Kernels | None = None
) -> Tensor:
    """u ~ N(0, C) for the samples at some global positions: float32 [B, C, H, W], one stream a position.

    C is the identity, or the correlation of each sample's noise: u = K * w', w' ~ N(0, I), with no border to be seen.
    The same on any number of ranks; CPUs and GPUs draw other numbers.
    """
    around = 2 * kernels.reach if kernels else 0
    u = torch.empty(*shape[:2], shape[2] + around, shape[3] + around, device=device)
    if draws_at_once(device):
        torch.ops.aten._philox_normal_(u, philox_keys(seed, positions, device))
    else:
        for sample, generator in zip(u, generators(seed, positions, device), strict=True):
            sample.normal_(generator=generator)
    return blur(u, kernels.taps(device)) if kernels else u


def draws_at_once(device: torch.device) -> bool:
    """Whether all samples are drawn in one operation: on GPUs, by a PyTorch that can."""
    return device.type == "cuda" and hasattr(torch.ops.aten, "_philox_normal_")


def philox_keys(seed: int, positions: np.ndarray, device: torch.device) -> Tensor:
    """Of the streams of some global positions, from their beginnings: uint64 [B, 1, 1, 1, 2], seeds and offsets."""
    streams = hashing.hash64(seed, hashing.STREAM_PERTURBATION, positions, 1)
    return to_device(np.stack([streams, np.zeros_like(streams)], axis=-1), device).view(-1, 1, 1, 1, 2)


def generators(seed: int, positions: np.ndarray, device: torch.device) -> Iterator[torch.Generator]:
    """For each of some global positions, a generator at the beginning of its stream; each ends the one before."""
    generator = torch.Generator(device)
    for stream in (hashing.hash64(seed, hashing.STREAM_PERTURBATION, positions, 1) >> np.uint64(1)).tolist():
        yield generator.manual_seed(stream)
