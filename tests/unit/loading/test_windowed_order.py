"""Windows: every sample once an epoch, the same on any number of ranks, few shards at a time, never another order."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from n2s_dist.loading import sample_order, windowed_order
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError

# Shard sizes, global batch, window, lanes: unequal, empty and single-sample shards; batches that divide the samples
# and that do not; lanes longer and shorter than their windows; more slots and more lanes than samples.
AWKWARD = [
    ([10] * 10, 20, 2, 5),
    ([7, 1, 13, 0, 5, 29, 2, 11], 8, 2, 4),
    ([7, 1, 13, 0, 5, 29, 2, 11], 6, 1, 3),
    ([40, 37, 41, 39, 3], 16, 5, 1),
    ([1] * 50, 10, 1, 10),
    ([3, 2, 2], 16, 1, 2),
    ([3, 2, 2], 16, 3, 1),
    ([1, 1, 1, 1, 1, 1, 1, 1], 8, 1, 8),
    ([1], 4, 1, 1),
    ([97, 103, 60, 81, 99, 100, 5, 77, 91, 120, 33, 64], 24, 2, 6),
]


def case_name(case) -> str:
    sizes, batch, window, lanes = case
    return f"{sum(sizes)}-samples-batch-{batch}-{lanes}-lanes-of-{window}"


@pytest.fixture(params=AWKWARD, ids=case_name)
def windows(request) -> windowed_order.WindowedOrder:
    sizes, batch, window, lanes = request.param
    return windowed_order.WindowedOrder(3, sizes, batch, window, lanes)


def shard_of(sizes, index: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(sizes), index, side="right")


def walk(seed: int, sizes: list[int], batch: int, window: int, lanes: int, epochs: int) -> list[int]:
    """The law of windows, one position at a time: what WindowedOrder computes in closed form."""
    count, out = sum(sizes), []
    size = -(-window * count // len(sizes))
    for epoch in range(epochs):
        key = hashing.hash64(seed, hashing.STREAM_SHARDS, epoch)
        shards = hashing.permute(np.arange(len(sizes)), len(sizes), key, rounds=12).tolist()
        line = [sum(sizes[:shard]) + number for shard in shards for number in range(sizes[shard])]
        turn = int(hashing.hash64(seed, hashing.STREAM_SHARDS, epoch, 1)) % count
        ring = iter(line[turn:] + line[:turn])
        lane_of = [p % batch * lanes // batch for p in range(epoch * count, (epoch + 1) * count)]
        readers = []
        for lane in range(lanes):
            segment = list(itertools.islice(ring, lane_of.count(lane)))
            fraction = (lane * 0x9E3779B97F4A7C15 % 2**64 >> 40) / 2**24
            begins = list(range(size + size // 2 - int(fraction * size), len(segment), size))
            if begins and len(segment) - begins[-1] < (size + 1) // 2:
                begins.pop()  # too short a window joins the one before
            shuffled = []
            for number, (begin, end) in enumerate(itertools.pairwise([0, *begins, len(segment)])):
                key = hashing.hash64(seed, hashing.STREAM_WINDOW, epoch, lane, number)
                if end > begin:
                    places = hashing.permute(np.arange(end - begin), end - begin, key, rounds=12)
                    shuffled += [segment[begin + place] for place in places]
            readers.append(iter(shuffled))
        out += [next(readers[lane]) for lane in lane_of]
    return out


@pytest.mark.parametrize("case", AWKWARD, ids=case_name)
def test_windows_follow_their_law(case):
    sizes, batch, window, lanes = case
    windows = windowed_order.WindowedOrder(3, sizes, batch, window, lanes)
    expected = walk(3, sizes, batch, window, lanes, epochs=4)
    assert windows.sample_index(np.arange(4 * sum(sizes))).tolist() == expected


def test_every_epoch_of_windows_sees_each_sample_exactly_once(windows):
    count = windows.num_samples
    epochs = windows.sample_index(np.arange(5 * count)).reshape(5, count)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(count), (5, 1)))
    far = windows.sample_index(np.arange(count) + 10**9 * count)
    np.testing.assert_array_equal(np.sort(far), np.arange(count))


def test_any_position_of_windows_alone_equals_the_batch(windows):
    at = np.random.default_rng(0).permutation(3 * windows.num_samples)
    alone = [windows.sample_index(np.array([position]))[0] for position in at[:60].tolist()]
    np.testing.assert_array_equal(windows.sample_index(at)[:60], alone)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_any_number_of_ranks_reads_the_same_windows(world_size):
    """Each rank with an order of its own, started at a step in the middle of the second epoch."""
    sizes, batch = AWKWARD[-1][0], 24
    whole = (
        windowed_order.WindowedOrder(3, sizes, batch, 2, 6)
        .sample_index(np.arange(60 * batch, 70 * batch))
        .reshape(10, -1)
    )
    parts = []
    for rank in range(world_size):
        own = windowed_order.WindowedOrder(3, sizes, batch, 2, 6)
        steps = [own.sample_index(sample_order.rank_positions(step, batch, rank, world_size)) for step in range(60, 70)]
        parts.append(np.stack(steps))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_windows_of_other_epochs_and_seeds_differ():
    sizes = [50] * 40
    first, second = windowed_order.WindowedOrder(0, sizes, 20, 3, 4).sample_index(np.arange(4000)).reshape(2, 2000)
    other_seed = windowed_order.WindowedOrder(1, sizes, 20, 3, 4).sample_index(np.arange(2000))
    for one, two in ((first, second), (first, other_seed), (second, other_seed), (first, np.arange(2000))):
        assert (one == two).mean() < 0.01


def test_a_lane_holds_few_shards_at_a_time_and_nodes_share_the_rest():
    """Between the first and the last use of each shard; where one window ends, the next one begins."""
    sizes = (200 + 100 * np.sin(np.arange(400))).astype(int)
    count, batch, window, lanes = int(sizes.sum()), 64, 4, 16
    windows = windowed_order.WindowedOrder(5, sizes, batch, window, lanes)
    at = np.arange(count, 2 * count)
    shard, lane, row = shard_of(sizes, windows.sample_index(at)), windows.lane(at), at // batch - count // batch
    held = np.zeros((lanes, row[-1] + 2), int)
    fetched = np.zeros(lanes, int)
    for each in range(lanes):
        for name in np.unique(shard[lane == each]):
            use = row[(lane == each) & (shard == name)]
            held[each, use[0] : use[-1] + 1] += 1
            fetched[each] += sizes[name]
    assert held.max() <= 2 * window + 4  # windows of average shards hold more of small ones
    assert np.median(held) <= window + 2
    assert held.sum(0).max() <= lanes * (window + 2)  # lanes change windows at different times
    assert fetched.max() < 1.2 * count / lanes


def test_each_sample_is_equally_likely_everywhere_in_windows():
    """At fixed places of many epochs: the first, one in the middle, the last."""
    count, epochs = 36, 250
    windows = windowed_order.WindowedOrder(0, [1, 11, 6, 8, 4, 6], 8, 2, 2)
    at = np.arange(epochs)[:, None] * count + [0, 17, count - 1]
    for index in windows.sample_index(at).T:
        assert stats.chisquare(np.bincount(index, minlength=count)).pvalue > 1e-4


def test_a_window_is_an_unbiased_shuffle():
    """Of 100 samples, in 40,000 windows: where each begins, ends and how neighbours lie."""
    size, many = 100, 40_000
    windows = windowed_order.WindowedOrder(0, [size] * many, 1, 1, 1)
    begins = size + size // 2 + np.arange(many - 3)[:, None] * size  # the lane's first window has half of one more
    place = windows._ring_place(begins + np.array([0, 1, 49, 50, 99])) - begins
    for column in place.T:
        assert stats.chisquare(np.bincount(column, minlength=size)).pvalue > 1e-4
    pairs = place[:, 0] // 10 * 10 + place[:, 1] // 10
    same, other = 10 * 9 / (100 * 99), 10 * 10 / (100 * 99)  # drawn without replacement
    expected = np.where(np.eye(10, dtype=bool), same, other).ravel() * len(place)
    assert stats.chisquare(np.bincount(pairs, minlength=100), expected).pvalue > 1e-4


def test_windows_are_pinned():
    """Of every run with data.window_shards that was ever resumed: a change of them is a change of format."""
    windows = windowed_order.WindowedOrder(0, [5, 3, 9, 1, 6], 8, 2, 2)
    expected = [5, 15, 6, 21, 3, 1, 12, 4, 19, 22, 23, 16, 8, 0, 2, 13, 20, 14, 18, 17, 9, 10, 7, 11]
    assert windows.sample_index(np.arange(24)).tolist() == expected
    large = windowed_order.WindowedOrder(7, np.arange(1000) % 100 + 950, 1024, 4, 64)
    far = np.array([0, 1, 15, 16, 999_499, 999_500, 10**6, 123_456_789_012])
    expected = [542389, 542241, 624325, 374397, 655958, 556775, 306364, 165941]
    assert large.sample_index(far).tolist() == expected


@pytest.mark.parametrize(
    ("batch", "shards", "window", "lanes"),
    [(8192, 10_000, 4, 64), (24, 10_000, 4, 8), (8192, 100, 4, 16), (16, 4, 4, 1), (15, 90, 1, 1), (512, 3, 1, 2)],
)
def test_lanes_are_chosen_from_batch_and_shards(batch, shards, window, lanes):
    assert windowed_order.choose_lanes(batch, shards, window) == lanes
    assert windowed_order.WindowedOrder(0, [2] * shards, batch, window).lanes == lanes


def test_more_windows_than_shards_are_refused():
    with pytest.raises(UserError, match=r"data\.window_shards is 5, .* 4 shards"):
        windowed_order.WindowedOrder(0, [9] * 4, 8, 5)
    with pytest.raises(UserError, match=r"data\.lanes 4 .* 2 shards .* 7 shards .* most 3 lanes"):
        windowed_order.WindowedOrder(0, [9] * 7, 8, 2, 4)


def test_windows_keep_nothing_a_sample():
    """The same memory for a thousand and for a hundred million samples a shard, and little of it."""
    peaks = []
    for samples in (10**3, 10**8):
        tracemalloc.start()
        windows = windowed_order.WindowedOrder(0, np.full(10_000, samples), 1024, 4, 64)
        boundary = windows.num_samples
        assert len(set(windows.sample_index(np.arange(boundary - 256, boundary + 256)).tolist())) > 500
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1) and peaks[1] < 2 * 2**20
