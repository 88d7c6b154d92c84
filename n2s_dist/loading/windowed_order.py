"""The order of a set larger than a node's cache: from few shards at a time, still a pure function of (seed, position).

Kept in memory are some bytes a shard, and none a sample.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from n2s_dist.utils.errors import UserError
from n2s_dist.utils.hashing import GOLDEN, STREAM_SHARDS, STREAM_WINDOW, hash64, permute

_WINDOW_ROUNDS = 12  # 4 favour some places where fewer than about 40 are permuted, as shards may be
_MAX_LANES = 64  # that are chosen unasked: more nodes than lanes would fetch some shards more than once


def choose_lanes(global_batch_size: int, num_shards: int, window_shards: int, lanes: int = 0) -> int:
    """`lanes`, if the shards fill their windows; 0 takes the largest power of two to 64 that batch and shards allow."""
    most = num_shards // window_shards
    if not most:
        raise UserError(
            f"data.window_shards is {window_shards}, but there are only {num_shards} shards: take fewer, or 0 to "
            "shuffle the whole set"
        )
    if lanes > most:
        raise UserError(
            f"data.lanes {lanes} with windows of {window_shards} shards each need more than the {num_shards} shards "
            f"there are: take at most {most} lanes, or data.window_shards 0 to shuffle the whole set"
        )
    powers = [2**i for i in range(_MAX_LANES.bit_length())]
    return lanes or max(power for power in powers if global_batch_size % power == 0 and power <= most)


class WindowedOrder:
    """Each epoch every sample once, from few shards at a time; still a pure function of (seed, position).

        epoch ──► the shards in a new random order, end to end: a ring of N samples, cut into L lanes
        slot j of each global batch ──► lane j * L // B ──► its window of W average shards ──► Feistel permutation

    Slots of a node are neighbours, so it reads few lanes and about (its lanes) x (W + 1) shards at a time.
    L and W are part of the order, the number of ranks is not. Where a batch ends one epoch and begins
    the next, each slot stays in its lane, and the lanes' lengths make the counts come out.

    Kept: 8 bytes a shard, and 16 bytes a shard for each of the two epochs used last.

    shard_samples: of each shard, in the manifest's order. Raises UserError when the shards do not fill the lanes.
    """

    def __init__(
        self,
        seed: int,
        shard_samples: Sequence[int] | np.ndarray,
        global_batch_size: int,
        window_shards: int,
        lanes: int = 0,
    ) -> None:
        samples = np.asarray(shard_samples, np.int64)
        self.lanes = choose_lanes(global_batch_size, len(samples), window_shards, lanes)
        assert global_batch_size % self.lanes == 0, "lanes must divide the global batch evenly"
        self.seed, self.batch_size, self.window_shards = seed, global_batch_size, window_shards
        self._ends = np.cumsum(samples)
        self.num_samples = int(self._ends[-1])
        self._window = -(-window_shards * self.num_samples // len(samples))  # samples
        self._ring = lru_cache(maxsize=2)(self._lay_out)

    @property
    def num_shards(self) -> int:
        return len(self._ends)

    def _lay_out(self, epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
        """One epoch's ring: its shards, where each of them ends (int64 [shards] both), and where the first lane begins.

        That is anywhere, so that each sample is equally likely at each place of the epoch, though shards
        are of unequal sizes and windows cut them.
        """
        key = hash64(self.seed, STREAM_SHARDS, epoch)
        shards = permute(np.arange(self.num_shards), self.num_shards, key, _WINDOW_ROUNDS)
        turn = int(hash64(self.seed, STREAM_SHARDS, epoch, 1)) % self.num_samples
        return shards, np.cumsum(np.diff(self._ends, prepend=0)[shards]), turn

    def lane(self, position: np.ndarray) -> np.ndarray:
        return np.asarray(position, np.int64) % self.batch_size * self.lanes // self.batch_size

    def _ring_place(self, position: np.ndarray) -> np.ndarray:
        """Place on its epoch's ring, from the first lane on, of the sample at each position: a bijection of [0, N)."""
        batch, group = self.batch_size, self.batch_size // self.lanes
        epoch, lane = position // self.num_samples, self.lane(position)
        row, slot = np.divmod(position, batch)
        low = lane * group  # the lane's slots are [low, low + group)

        def count(end: np.ndarray, slots: np.ndarray) -> np.ndarray:
            """Positions below `end` whose slot is below `slots`."""
            rows, rest = np.divmod(end, batch)
            return rows * slots + np.minimum(rest, slots)

        begin, end = epoch * self.num_samples, (epoch + 1) * self.num_samples
        lane_begin = count(end, low) - count(begin, low)
        before = count(begin, low + group) - count(begin, low)  # of this lane, in the epochs before
        lane_length = count(end, low + group) - count(end, low) - before
        in_lane = row * group + slot - low - before

        # Windows begin at other times in each lane, so that a node never changes all its shards at once. The
        # first and the last of a lane have half a window to one and a half: short ones would mix badly.
        size = self._window
        share = (lane.astype(np.uint64) * GOLDEN >> np.uint64(40)).astype(np.int64)  # evenly spread over [0, 2**24)
        shift = (share * size >> 24) - size // 2
        windows = np.maximum((lane_length + shift + size // 2) // size, 1)
        window = np.clip((in_lane + shift) // size, 0, windows - 1)
        window_begin = np.where(window == 0, 0, window * size - shift)
        window_end = np.where(window == windows - 1, lane_length, (window + 1) * size - shift)
        key = hash64(self.seed, STREAM_WINDOW, epoch, lane, window)
        place = permute(in_lane - window_begin, window_end - window_begin, key, _WINDOW_ROUNDS)
        return lane_begin + window_begin + place

    def locate(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard, by its place in the manifest, and number in the shard of the sample at each position: int64 both."""
        position = np.asarray(position, np.int64)
        place, epoch = self._ring_place(position), position // self.num_samples
        shard = np.empty_like(place)
        for each in np.unique(epoch):
            of_epoch = epoch == each
            shards, ends, turn = self._ring(int(each))
            on_ring = (place[of_epoch] + turn) % self.num_samples
            slot = np.searchsorted(ends, on_ring, side="right")
            shard[of_epoch] = shards[slot]
            place[of_epoch] = on_ring - np.where(slot, ends[slot - 1], 0)
        return shard, place

    def sample_index(self, position: np.ndarray) -> np.ndarray:
        """Index in [0, num_samples), in the manifest's order, of the sample at each global position."""
        shard, number = self.locate(position)
        return np.where(shard, self._ends[shard - 1], 0) + number
