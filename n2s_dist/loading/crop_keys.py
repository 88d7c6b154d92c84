"""The noise keys of many crops at once: those of noise/frozen.py, worked out in little memory.

A crop has one line of words for its rows and one a channel for its columns. Each line counts up or down in equal
steps, whichever way the crop is flipped. Its words are hashed in place, as many crops at a time as stay in the
processor's cache: fresh memory for each operation would take longer than the arithmetic.
"""

import numpy as np

from n2s_dist.utils import hashing

_WORDS_TOGETHER = 2**15


def crop_keys(
    image_keys: np.ndarray, origins: np.ndarray, flips: np.ndarray, crop_size: int, channels: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Noise keys along the two sides of crops as they will lie after flips: uint32 [B, C, S, 1] and [B, C, 1, S].

    image_keys: uint64 [B], whose noise it is. origins: int64 [B, 2], the crops' first rows and columns in their
    images. flips: bool [3, B], left-right, up-down, transpose.
    """
    count, transposed = len(origins), flips[2]
    states, first, step = _lines(image_keys, origins, flips, crop_size, channels, seed)
    places = np.arange(crop_size, dtype=np.uint64)
    down, across = np.empty((2, count, channels, crop_size), np.uint32)
    together = min(count, max(1, _WORDS_TOGETHER // ((channels + 1) * crop_size)))
    words, scratch = np.empty((2, together, channels + 1, crop_size), np.uint64)
    for begin in range(0, count, together):
        part = slice(begin, begin + together)
        hashes, spare = words[: count - begin], scratch[: count - begin]
        np.multiply(step[part], places, out=hashes)  # modulo 2**64, so that steps may be negative
        np.add(hashes, first[part], out=hashes)
        hashing.hash_on(states[part], hashes, spare)
        # The upper halves, made odd: an odd factor permutes the words, so none is likelier than another.
        np.right_shift(hashes, np.uint64(32), out=hashes)
        np.bitwise_or(hashes, np.uint64(1), out=hashes)
        down[part], across[part] = hashes[:, channels:], hashes[:, :channels]
        swap = begin + np.flatnonzero(transposed[part])
        down[swap], across[swap] = across[swap], down[swap]
    return down[:, :, :, None], across[:, :, None, :]


def _lines(
    image_keys: np.ndarray, origins: np.ndarray, flips: np.ndarray, crop_size: int, channels: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the columns' lines and of the rows', which is last: the hash so far, the first word, the step.

    uint64 [B, C + 1, 1] each.
    """
    states, first, step = np.empty((3, len(origins), channels + 1, 1), np.uint64)
    image_keys = np.asarray(image_keys, np.uint64)[:, None, None]
    states[:, :channels] = hashing.hash64(image_keys, seed, hashing.STREAM_COLUMN)
    states[:, channels:] = hashing.hash64(image_keys, seed, hashing.STREAM_ROW)
    backwards = np.stack([flips[1], flips[0]], axis=1)  # up-down turns rows, left-right columns
    (rows, columns), (row_step, column_step) = (origins + backwards * (crop_size - 1)).T, (1 - 2 * backwards).T
    first[:, :channels, 0] = columns[:, None] * channels + np.arange(channels)
    first[:, channels, 0] = rows
    step[:, :channels, 0] = (column_step * channels)[:, None]
    step[:, channels, 0] = row_step
    return states, first, step
