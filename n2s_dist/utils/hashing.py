"""Randomness as a pure function of integers: hashes, permutations and generators that hold no state.

No generator's state is ever saved: whoever needs a random number makes it from a seed and from what it is for.
"""

import hashlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FEISTEL_ROUNDS = 4
# One number for each independent use of randomness, so that no two uses share a stream.
STREAM_ORDER, STREAM_CROP, STREAM_ROW, STREAM_COLUMN, STREAM_PERTURBATION, STREAM_WEIGHTS = range(1, 7)
STREAM_SHARDS, STREAM_WINDOW, STREAM_LEVEL, STREAM_SECOND_NOISE, STREAM_PROBE = 7, 8, 9, 10, 11
STREAM_CAMERA, STREAM_SAMPLE, STREAM_LINES = 12, 13, 14


def mix64(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser (Steele, Lea & Flood 2014), a bijection of uint64, elementwise."""
    x = np.array(x, np.uint64)
    _mix(x, np.empty_like(x))
    return x[()]


def hash64(*words: int | np.ndarray) -> np.ndarray:
    """Hash non-negative integers or uint64 arrays, which broadcast together, to uint64."""
    state = np.zeros((), np.uint64)
    for word in words:
        state = np.asarray(state ^ np.asarray(word, dtype=np.uint64))
        np.add(state, GOLDEN, out=state)  # modulo 2**64, as arrays are silently
        _mix(state, np.empty_like(state))
    return state[()]


def hash_on(state: np.ndarray, words: np.ndarray, scratch: np.ndarray) -> None:
    """Put hash64(*before, words) in the place of `words`, uint64, where `state` is hash64(*before).

    scratch: memory of the same size.
    """
    np.bitwise_xor(words, state, out=words)
    np.add(words, GOLDEN, out=words)
    _mix(words, scratch)


def _mix(x: np.ndarray, scratch: np.ndarray) -> None:
    """`mix64` in place: for large arrays fresh memory would take most of the time."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(x, np.uint64(shift), out=scratch)
        np.bitwise_xor(x, scratch, out=x)
        np.multiply(x, np.uint64(factor), out=x)
    np.right_shift(x, np.uint64(31), out=scratch)
    np.bitwise_xor(x, scratch, out=x)


def name_key(name: str) -> int:
    """A 64-bit number for a name (an image, a benchmark), the same on every machine and run, UTF-8 or not."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def permute(
    index: np.ndarray, count: int | np.ndarray, key: np.ndarray | np.uint64, rounds: int = _FEISTEL_ROUNDS
) -> np.ndarray:
    """Send each index in [0, count) to its place in a pseudo-random permutation of [0, count).

    A Feistel network on the smallest even number of bits that holds `count`, walked along its
    cycles until it lands below `count` (Black & Rogaway 2002): no table, at most four tries on average.

    index: int array. count: int, below 2^53, and key: uint64, arrays or scalars that broadcast with it,
    one permutation a count and key.
    """
    count = np.asarray(count, np.uint64)
    half_bits = np.maximum((np.frexp(count - 1.0)[1] + 1) // 2, 1).astype(np.uint64)
    arrays = np.broadcast_arrays(np.asarray(index, np.uint64), count, half_bits, np.asarray(key, np.uint64))
    value, (count, half_bits, key) = arrays[0].copy(), arrays[1:]  # broadcast arrays are read-only
    walking = np.ones(value.shape, bool)
    round_keys = hash64(np.arange(rounds))
    while walking.any():  # numpy arrays wrap silently, as modular arithmetic should
        bits, keys = half_bits[walking], key[walking]
        mask = (np.uint64(1) << bits) - np.uint64(1)
        left, right = value[walking] >> bits, value[walking] & mask
        for turn in range(rounds):
            left, right = right, left ^ (mix64((right ^ keys) + round_keys[turn]) & mask)
        value[walking] = left << bits | right
        walking = value >= count
    return value.astype(np.int64)


def frozen_rng(*key: int) -> np.random.Generator:
    """A NumPy generator that depends on the key's non-negative integers alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
