"""Order: every sample once an epoch, the same on any number of ranks, and never silently another one."""

import numpy as np
import pytest
from scipy import stats

from n2s_dist.loading import sample_order
from n2s_dist.utils import hashing


def test_each_sample_is_equally_likely_at_each_place():
    epochs, count = 2000, 1000
    keys = hashing.hash64(0, hashing.STREAM_ORDER, np.arange(epochs))[:, None]
    places = hashing.permute(np.arange(count)[None], count, keys)
    index = np.broadcast_to(np.arange(count), places.shape)
    table = np.histogram2d(index.ravel(), places.ravel(), bins=10)[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-4
    neighbours = np.corrcoef(places[:, :-1].ravel(), places[:, 1:].ravel())[0, 1]
    assert abs(neighbours + 1 / count) < 5 / np.sqrt(places.size)  # -1/(count-1): drawn without replacement


@pytest.mark.parametrize("count", [1, 6, 100])
def test_every_epoch_sees_each_sample_exactly_once(count):
    epochs = sample_order.sample_index(3, np.arange(4 * count), count).reshape(4, count)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(count), (4, 1)))


def test_epochs_and_seeds_differ():
    first, second = sample_order.sample_index(0, np.arange(200), 100).reshape(2, 100)
    other_seed = sample_order.sample_index(1, np.arange(100), 100)
    for one, two in ((first, second), (first, other_seed), (second, other_seed), (first, np.arange(100))):
        assert (one == two).mean() < 0.1


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_one_global_order(world_size):
    for step in (0, 1, 7):
        parts = [sample_order.rank_positions(step, 8, rank, world_size) for rank in range(world_size)]
        assert {len(part) for part in parts} == {8 // world_size}
        np.testing.assert_array_equal(np.concatenate(parts), np.arange(8 * step, 8 * step + 8))


def test_the_global_batch_divides_over_the_ranks():
    with pytest.raises(AssertionError):
        sample_order.rank_positions(0, 8, 0, 3)


def test_order_is_pinned():
    """These values are in every run that was ever resumed: a change of them is a change of format."""
    assert sample_order.sample_index(0, np.arange(12), 5).tolist() == [1, 3, 0, 2, 4, 0, 3, 2, 4, 1, 2, 1]
    assert hashing.permute(np.arange(10), 10, np.uint64(7)).tolist() == [4, 2, 1, 9, 5, 3, 7, 8, 0, 6]
    far = hashing.permute(np.array([0, 1, 10**12 - 1]), 10**12, np.uint64(5))
    assert far.tolist() == [808725314443, 998840078329, 689906471003]
    assert sample_order.crop_choice(0, np.array([1])).tolist() == [
        [13766154714751083392, 8926643892764739002, 10309894372081931025, 3578504115025692570, 13427796846654541029]
    ]
    assert int(hashing.hash64(1, 2, 3)) == 0xD0734750FDE362B3
    assert hashing.name_key("a.png") == 6266261796961190882


def test_crop_choice_bits_are_fair_and_independent():
    positions = 4096
    words = sample_order.crop_choice(0, np.arange(positions))
    bits = (words[:, :, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).reshape(positions, -1)
    signs = 1 - 2 * bits.astype(np.float64)
    bias = signs.sum(0) / np.sqrt(positions)
    assert stats.chi2.sf((bias**2).sum(), bias.size) > 1e-4
    between = (signs.T @ signs / np.sqrt(positions))[np.triu_indices(bias.size, 1)]
    assert stats.chi2.sf((between**2).sum(), between.size) > 1e-4
    following = (signs[1:] * signs[:-1]).sum(0) / np.sqrt(positions - 1)
    assert stats.chi2.sf((following**2).sum(), following.size) > 1e-4


def test_crop_choice_is_a_function_of_seed_and_position():
    all_at_once = sample_order.crop_choice(4, np.arange(20))
    np.testing.assert_array_equal(sample_order.crop_choice(4, np.array([13, 2])), all_at_once[[13, 2]])
    assert not (sample_order.crop_choice(5, np.arange(20)) == all_at_once).any()
