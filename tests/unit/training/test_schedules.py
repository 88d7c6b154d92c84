"""Schedules as functions of samples_seen."""

import math
from itertools import pairwise

import pytest

from n2s_dist.training.schedules import ema_decay, is_due, step_decay, warmup_cosine


def test_warmup_is_linear_and_ends_at_the_peak():
    shares = [warmup_cosine(seen, 10_000, 1_000) for seen in range(0, 1_001)]
    assert shares == pytest.approx([seen / 1_000 for seen in range(0, 1_001)], abs=1e-12)


def test_cosine_has_its_ends_its_middle_and_never_rises():
    shares = [warmup_cosine(seen, 10_000, 1_000) for seen in range(1_000, 10_001)]
    assert shares[0] == 1 and shares[-1] == pytest.approx(0, abs=1e-12)
    assert shares[4_500] == pytest.approx(0.5) and shares[3_000] == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
    assert all(after < before for before, after in pairwise(shares))
    assert warmup_cosine(10_007, 10_000, 1_000) == 0  # the last batch may overshoot


def test_warmup_takes_at_most_a_quarter_of_the_run():
    shares = [warmup_cosine(seen, 1_000, 5_000) for seen in range(1_001)]
    assert shares.index(max(shares)) == 250 and shares[250] == 1


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("warmup", [0, 1, 1_000])
def test_the_shortest_runs_have_a_rate(total, warmup):
    assert all(0 <= warmup_cosine(seen, total, warmup) <= 1 for seen in range(total + 3))


def test_step_decay_multiplies_at_each_multiple():
    assert [step_decay(seen, 20, 0.1) for seen in (0, 19, 20, 39, 40)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("batch", [1, 3, 7, 16, 48])
@pytest.mark.parametrize("every", [1, 5, 16, 40, 1_000])
@pytest.mark.parametrize("total", [1, 47, 200])
def test_is_due_fires_once_for_every_multiple_and_at_the_end(batch, every, total):
    steps = range(batch, total + batch, batch)
    multiples = {every * n for n in range(1, steps[-1] // every + 1)}
    for seen in steps:
        crossed = {m for m in multiples if seen - batch < m <= seen}
        assert is_due(seen, batch, every, total) == (bool(crossed) or seen == steps[-1])
        multiples -= crossed
    assert not multiples


@pytest.mark.parametrize("batch", [1, 16, 64])
def test_half_the_average_is_forgotten_in_a_half_life(batch):
    """Long after the start, where the half-life no longer grows: the old weights' share halves every 6400 samples."""
    kept = math.prod(ema_decay(seen, batch, 6_400) for seen in range(1_000_000, 1_006_400, batch))
    assert kept == pytest.approx(0.5, rel=1e-9)


def test_the_average_follows_at_once_at_the_start():
    """While the half-life is 5 % of samples_seen, doubling those keeps about 0.5^(log(2) / 0.05) = 7e-5 of the old."""
    assert ema_decay(0, 16, 2_000) == 0
    kept = math.prod(ema_decay(seen, 1, 10**9) for seen in range(1_000, 2_000))
    assert kept == pytest.approx(0.5 ** (math.log(2) / 0.05), rel=0.02)
    decays = [ema_decay(seen, 16, 2_000) for seen in range(0, 100_000, 16)]
    assert decays == sorted(decays) and max(decays) == 0.5 ** (16 / 2_000)


def test_no_half_life_means_no_average():
    assert ema_decay(100_000, 16, 0) == 0
