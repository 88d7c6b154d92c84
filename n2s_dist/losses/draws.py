"""Random numbers of losses: a stream for each sample, by its global position, so that a resumed run repeats them."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from n2s_dist.noise.field import Kernels
from n2s_dist.noise.transfer import to_device
from n2s_dist.utils import hashing

_PIXELS, _LINES = 1, 6  # numbers of the perturbation stream: losses/ardae.py has the others


def perturbations(
    seed: int, positions: np.ndarray, shape: torch.Size, device: torch.device, kernels: Kernels | None = None
) -> Tensor:
    """u ~ N(0, C) for the samples at some global positions: float32 [B, C, H, W], one stream a position.

    C is the identity, or the covariance of each sample's noise, whose kernel shows no border. The same on any number
    of ranks; CPUs and GPUs draw other numbers.
    """
    if kernels is None:
        return _normals(seed, positions, shape, device)
    count, channels, height, width = shape
    around = 2 * kernels.reach
    u = _normals(seed, positions, (count, channels, height + around, width + around), device)
    of_rows = of_columns = None
    if kernels.pattern.rows or kernels.pattern.columns:
        lines = _normals(seed, positions, (count, channels, height + width, 1), device, _LINES)
        of_rows, of_columns = lines[:, :, :height], lines[:, :, height:].mT
    return kernels.pattern.compose(kernels.blurred(u), of_rows, of_columns)


def _normals(
    seed: int, positions: np.ndarray, shape: Sequence[int], device: torch.device, number: int = _PIXELS
) -> Tensor:
    """Standard normal numbers, float32 [B, C, H, W]."""
    u = torch.empty(*shape, device=device)
    if draws_at_once(device):
        torch.ops.aten._philox_normal_(u, philox_keys(seed, positions, device, number))
    else:
        for sample, generator in zip(u, generators(seed, positions, device, number), strict=True):
            sample.normal_(generator=generator)
    return u


def draws_at_once(device: torch.device) -> bool:
    """Whether all samples are drawn in one operation: on GPUs, by a PyTorch that can."""
    return device.type == "cuda" and hasattr(torch.ops.aten, "_philox_normal_")


def philox_keys(seed: int, positions: np.ndarray, device: torch.device, number: int = _PIXELS) -> Tensor:
    """Of the streams of some global positions, from their beginnings: uint64 [B, 1, 1, 1, 2], seeds and offsets."""
    streams = hashing.hash64(seed, hashing.STREAM_PERTURBATION, positions, number)
    return to_device(np.stack([streams, np.zeros_like(streams)], axis=-1), device).view(-1, 1, 1, 1, 2)


def generators(
    seed: int, positions: np.ndarray, device: torch.device, number: int = _PIXELS
) -> Iterator[torch.Generator]:
    """For each of some global positions, a generator at the beginning of its stream; each ends the one before."""
    generator = torch.Generator(device)
    for stream in (hashing.hash64(seed, hashing.STREAM_PERTURBATION, positions, number) >> np.uint64(1)).tolist():
        yield generator.manual_seed(stream)
