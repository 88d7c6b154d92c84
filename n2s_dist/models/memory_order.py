"""Tensors as the memory holds them: one value after another, whatever their shape and strides.

An operation that takes values in this order needs no copy of a tensor whose channels lie innermost.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def in_memory(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    """The values in the order in which these strides, which leave no gaps, lay them out: [numel].

    A view, unless the tensor has other strides.
    """
    if tensor.stride() != tuple(strides):
        tensor = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


def places_in_memory(shape: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Where each value lies in that order: int64 of this shape."""
    places = torch.empty_strided(shape, strides, dtype=torch.int64)
    places.as_strided((places.numel(),), (1,)).copy_(torch.arange(places.numel()))
    return places
