"""Permutations and hashes: bijections, whatever the size, and always the same."""

import tracemalloc

import numpy as np
import pytest

from n2s_dist.utils import hashing


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 16, 17, 255, 1000, 4097])
def test_permute_is_a_bijection(count):
    for key in range(5):
        places = hashing.permute(np.arange(count), count, hashing.hash64(key))
        np.testing.assert_array_equal(np.sort(places), np.arange(count))


def test_permute_takes_one_key_a_position():
    """Positions of different epochs share one call; each must get what its own key gives alone."""
    index, keys = np.arange(50) % 10, hashing.hash64(np.arange(50) // 10)
    alone = [hashing.permute(i, 10, key) for i, key in zip(index, keys, strict=True)]
    np.testing.assert_array_equal(hashing.permute(index, 10, keys), alone)


def test_permute_takes_one_count_a_position():
    counts = np.repeat([1, 2, 7, 64, 65], 70)
    index, keys = np.arange(350) % counts, hashing.hash64(counts)
    alone = [hashing.permute(*each) for each in zip(index, counts.tolist(), keys, strict=True)]
    np.testing.assert_array_equal(hashing.permute(index, counts, keys), alone)


def test_permute_needs_no_table():
    count = 10**12
    index = np.concatenate([np.arange(500), count - 1 - np.arange(500)])
    tracemalloc.start()
    places = hashing.permute(index, count, np.uint64(5))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(places.tolist())) == 1000 and places.min() >= 0 and places.max() < count
    assert places.max() > 0.99 * count and places.min() < 0.01 * count  # spread over the whole range
    assert peak < 2**20


def test_hash_arguments_are_not_interchangeable():
    words = [
        hashing.hash64(1, 2),
        hashing.hash64(2, 1),
        hashing.hash64(1),
        hashing.hash64(1, 0),
        hashing.hash64(0, 1, 2),
    ]
    assert len({int(word) for word in words}) == len(words)


def test_mix64_is_splitmix64():
    """The reference outputs of splitmix64 with seed 1234567 (Vigna's splitmix64.c)."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + (i + 1) * golden) % 2**64 for i in range(3)], np.uint64)
    assert hashing.mix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
