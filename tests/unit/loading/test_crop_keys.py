"""Noise keys of many crops at once against those that noise/frozen.py gives one crop after the other."""

import numpy as np
import pytest

from n2s_dist.loading import crop_keys as module
from n2s_dist.loading.crop_keys import crop_keys
from n2s_dist.noise import frozen

SEED = 5


def expected(image_key: int, origin: np.ndarray, flips: np.ndarray, size: int, channels: int) -> list[np.ndarray]:
    """The keys of one crop, by way of its pixels' places."""
    left_right, up_down, transposed = flips
    rows, columns = (start + np.arange(size) for start in origin)
    rows, columns = rows[:: -1 if up_down else 1], columns[:: -1 if left_right else 1]
    down, across = frozen.pixel_keys(np.array([image_key]), SEED, rows[None], columns[None], channels)
    if transposed:
        down, across = across, down
    return [down[0, :, :, None], across[0, :, None, :]]


@pytest.mark.parametrize("together", [1, 700, module._WORDS_TOGETHER])
@pytest.mark.parametrize("size, channels", [(1, 1), (24, 1), (24, 3), (64, 3)])
def test_keys_are_those_of_the_pixels(monkeypatch, size, channels, together):
    """In all eight orientations, at the origin and far from it, however many crops are worked out at a time."""
    monkeypatch.setattr(module, "_WORDS_TOGETHER", together)
    rng = np.random.default_rng(0)
    count = 37
    keys = rng.integers(0, 2**64, count, np.uint64)
    origins = rng.integers(0, 2**31 - size, (count, 2))
    origins[:8] = 0
    flips = np.array([np.arange(count) >> bit & 1 for bit in range(3)], bool)
    down, across = crop_keys(keys, origins, flips, size, channels, SEED)
    assert down.dtype == across.dtype == np.uint32
    assert down.shape == (count, channels, size, 1) and across.shape == (count, channels, 1, size)
    for at in range(count):
        for found, wanted in zip(
            (down, across), expected(keys[at], origins[at], flips[:, at], size, channels), strict=True
        ):
            np.testing.assert_array_equal(found[at], wanted)
