"""Which sample is at global position p: a pure function of (seed, p).

    position p ──► epoch, place in epoch ──► Feistel permutation ──► sample index
               └─► 64-bit hash ──► crop row, crop column, flips

No state is kept, so resuming a run is one integer (samples_seen) and any number of ranks reads the
same global batches: rank r of step t takes its slice of positions [t * B, (t + 1) * B). Shuffling the
whole set takes O(1) memory; windowed_order.py has the order of sets larger than a node's cache.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from n2s_dist.utils.hashing import STREAM_CROP, STREAM_ORDER, hash64, permute

_ORDER_BLOCK = 1024  # positions worked out at a time


def sample_index(seed: int, position: np.ndarray, num_samples: int) -> np.ndarray:
    """Index in [0, num_samples) of the sample at each global position; each epoch is a new permutation."""
    position = np.asarray(position, np.int64)
    epoch = position // num_samples
    return permute(position % num_samples, num_samples, hash64(seed, STREAM_ORDER, epoch))


def crop_choice(seed: int, position: np.ndarray) -> np.ndarray:
    """Random words that place the crop at each position: uint64 [B, 5].

    In order: row, column (each taken modulo the number of places), horizontal flip, vertical flip,
    transpose (each the lowest bit).
    """
    return hash64(seed, STREAM_CROP, np.asarray(position, np.uint64)[:, None], np.arange(5))


def rank_positions(step: int, global_batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Global positions that one rank trains on in one optimizer step: int64 [global_batch_size // world_size]."""
    share, rest = divmod(global_batch_size, world_size)
    assert rest == 0, "the global batch must divide evenly over the ranks"
    return np.arange(share) + step * global_batch_size + rank * share


def order_blocks(batches: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Lists of consecutive batches of positions, so many at a time that NumPy's overhead per call no longer counts."""
    batches = iter(batches)
    for first in batches:
        yield [first, *islice(batches, max(0, _ORDER_BLOCK // len(first) - 1))]
