"""Which sample is at global position p: a pure function of (seed, p), in O(1) memory.

    position p ──► epoch, place in epoch ──► Feistel permutation ──► sample index
               └─► 64-bit hash ──► crop row, crop column, flips

No state is kept, so resuming a run is one integer (samples_seen) and any number of ranks reads the
same global batches: rank r of step t takes its slice of positions [t * B, (t + 1) * B).
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FEISTEL_ROUNDS = 4

# One number for each independent use of randomness, so that no two uses share a stream.
STREAM_ORDER, STREAM_CROP, STREAM_ROW, STREAM_COLUMN, STREAM_PERTURBATION, STREAM_WEIGHTS = range(1, 7)


def mix64(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser (Steele, Lea & Flood 2014), a bijection of uint64, elementwise."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash64(*words: int | np.ndarray) -> np.ndarray:
    """Hash non-negative integers or uint64 arrays, which broadcast together, to uint64."""
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64 by design
        state = np.zeros((), np.uint64)
        for word in words:
            state = mix64((state ^ np.asarray(word, dtype=np.uint64)) + _GOLDEN)
    return state


def name_key(name: str) -> int:
    """A 64-bit number for a name (an image, a benchmark), the same on every machine and run."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def permute(index: np.ndarray, count: int, key: np.ndarray | np.uint64) -> np.ndarray:
    """Send each index in [0, count) to its place in a pseudo-random permutation of [0, count).

    A Feistel network on the smallest even number of bits that holds `count`, walked along its
    cycles until it lands below `count` (Black & Rogaway 2002): no table, at most four tries on average.

    index: int array. key: uint64 array or scalar that broadcasts with it, one permutation a key.
    """
    half_bits = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half_bits)) - 1)
    value, key = np.broadcast_arrays(np.asarray(index, np.uint64), np.asarray(key, np.uint64))
    value = value.copy()  # broadcast arrays are read-only
    walking = np.ones(value.shape, bool)
    round_keys = hash64(np.arange(_FEISTEL_ROUNDS))
    while walking.any():  # numpy arrays wrap silently, as modular arithmetic should
        left, right = value[walking] >> half_bits, value[walking] & mask
        for turn in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (mix64((right ^ key[walking]) + round_keys[turn]) & mask)
        value[walking] = left << half_bits | right
        walking = value >= np.uint64(count)
    return value.astype(np.int64)


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


def pixel_keys(
    seed: int, image_keys: np.ndarray, rows: np.ndarray, columns: np.ndarray, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the frozen noise of pixels: their XOR names a pixel of a source image (dali_noise.PixelBits).

    image_keys: uint64 [B]. rows: int [B, H], columns: int [B, W], in the source image. Returns uint32
    [B, C, H], the same for each channel, and uint32 [B, C, W].
    """
    image_keys = image_keys[:, None, None]
    subpixels = columns[:, None, :] * channels + np.arange(channels)[:, None]
    down = hash64(image_keys, seed, STREAM_ROW, rows[:, None, :]).repeat(channels, axis=1)
    across = hash64(image_keys, seed, STREAM_COLUMN, subpixels)
    return (down >> np.uint64(32)).astype(np.uint32), (across >> np.uint64(32)).astype(np.uint32)


def rank_positions(step: int, global_batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Global positions that one rank trains on in one optimizer step: int64 [global_batch_size // world_size]."""
    share, rest = divmod(global_batch_size, world_size)
    assert rest == 0, "the global batch must divide evenly over the ranks"
    return np.arange(share) + step * global_batch_size + rank * share
