#!/usr/bin/env python3
"""Prove the order of a set of any size, and what each node has to fetch for it, without any data.

Every rank of every world size walks its own positions of one epoch, one that begins within a batch.
The program fails unless each sample was read exactly once, by one rank, and unless all world sizes
saw the same global batches.

    tools/simulate_order.py --samples 10_000_000 --shards 10_000 --ranks 1 8 64 1024 --lanes 128 --global-batch 8192
"""

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from scipy import stats

from n2s_dist.loading import sample_order, windowed_order
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import RunFailed, UserError, run_command
from n2s_dist.utils.files import path_option

_EPOCH = 1  # the second: it begins within a batch, unless the batch divides the samples
_BLOCK = 2**18  # positions worked out at a time
_TIMED, _CALLS = 512, 400  # positions of one call by the loader (32 batches of 16), and how many are timed
_PAIRS = 64  # neighbouring batches compared
_CORRELATED = 1_000_000  # samples whose ranks are compared

SampleIndex = Callable[[np.ndarray], np.ndarray]


def shard_sizes(samples: int, shards: int, seed: int) -> np.ndarray:
    """Unequal sizes, at most a quarter off their mean, as tiles of unequal images give them: int64 [shards]."""
    share = 0.75 + 0.5 * (hashing.hash64(seed, np.arange(shards)) >> np.uint64(11)) / 2**53
    ends = np.rint(np.cumsum(share) / share.sum() * samples).astype(np.int64)
    return np.diff(ends, prepend=0)


def rank_epoch(samples: int, batch: int, rank: int, world_size: int) -> np.ndarray:
    """All positions of one epoch that a rank trains on, in its order."""
    begin, end = _EPOCH * samples, (_EPOCH + 1) * samples
    first = sample_order.rank_positions(0, batch, rank, world_size)
    at = (np.arange(begin // batch, -(-end // batch))[:, None] * batch + first).ravel()
    return at[(at >= begin) & (at < end)]


def read_epoch(
    sample_index: SampleIndex, samples: int, batch: int, world_size: int, expected: np.ndarray | None
) -> np.ndarray:
    """Samples in global order as the ranks together read them; RunFailed when they do not share the epoch out.

    int32 or int64 [samples], equal to `expected`, that of another world size, if given.
    """
    seen = np.full(samples, -1, np.int32 if samples < 2**31 else np.int64)
    readers = np.zeros(samples, np.uint8)
    for rank in range(world_size):
        at = rank_epoch(samples, batch, rank, world_size)
        for block in np.split(at, range(_BLOCK, len(at), _BLOCK)):
            index = sample_index(block)
            seen[block - _EPOCH * samples] = index
            np.add.at(readers, index, 1)
    wrong = np.flatnonzero(readers != 1)
    if len(wrong):
        raise RunFailed(f"{world_size} ranks: sample {wrong[0]} was read {readers[wrong[0]]} times in one epoch")
    if expected is not None and not np.array_equal(seen, expected):
        first = int(np.flatnonzero(seen != expected)[0])
        raise RunFailed(
            f"{world_size} ranks: place {first} of the epoch holds sample {seen[first]}, not {expected[first]}"
        )
    return seen


def node_load(
    shard: np.ndarray, slots_of_node: int, lanes: int, batch: int, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each node touches. shard: int [samples], of each place of the epoch in global order.

    Returns for each node the samples in the shards that it fetches, the most shards that it holds at one
    time, from first to last use, and the most samples in those. A shard that two of its lanes need is
    fetched for each.
    """
    samples, num_shards = len(shard), len(sizes)
    offset = _EPOCH * samples % batch
    nodes = batch // slots_of_node
    row, slot = np.divmod(offset + np.arange(samples), batch)
    # Slots of one node and one lane share what they fetch; lanes and nodes may cut each other.
    cuts = np.unique(np.r_[np.arange(0, batch, slots_of_node), np.arange(0, batch, batch // lanes)])
    visit = (np.searchsorted(cuts, slot, side="right") - 1) * num_shards + shard
    last = np.full(len(cuts) * num_shards, -1, np.int32)
    last[visit] = row  # the last of equal indices stays
    first = np.full(len(cuts) * num_shards, -1, np.int32)
    first[visit[::-1]] = row[::-1]
    used = np.flatnonzero(first >= 0)
    node, which = cuts[used // num_shards] // slots_of_node, used % num_shards
    rows = int(row[-1]) + 2
    fetched = np.bincount(node, sizes[which], minlength=nodes).astype(np.int64)
    most, most_samples = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    for number in range(nodes):
        mine = node == number if nodes > 1 else np.ones(len(node), bool)
        opened, closed = first[used[mine]], last[used[mine]] + 1
        weight = sizes[which[mine]]
        change = np.bincount(opened, minlength=rows) - np.bincount(closed, minlength=rows)
        held = np.bincount(opened, weight, minlength=rows) - np.bincount(closed, weight, minlength=rows)
        most[number], most_samples[number] = np.cumsum(change).max(), np.cumsum(held).max()
    return fetched, most, most_samples


def mixing(seen: np.ndarray, shard: np.ndarray, batch: int, num_shards: int) -> dict[str, float]:
    """How well an epoch is shuffled.

    shards_in_batch: different shards in a batch, on average.
    neighbour_correlation: of two neighbouring batches' counts of samples from each shard: 0 when each
    batch comes from the whole set, 1 when both come from the same few shards in equal parts.
    rank_correlation: Spearman's, between place in the epoch and place in the set.
    """
    batches = len(shard) // batch
    distinct, correlations = [], []
    for at in np.unique(np.linspace(0, batches - 2, _PAIRS).astype(int)) if batches > 1 else []:
        one, two = (np.bincount(shard[b * batch : (b + 1) * batch], minlength=num_shards) for b in (at, at + 1))
        distinct.append(np.count_nonzero(one))
        correlations.append(np.corrcoef(one, two)[0, 1])
    every = -(-len(seen) // _CORRELATED)
    return {
        "shards_in_batch": float(np.mean(distinct)) if distinct else float(len(np.unique(shard))),
        "neighbour_correlation": float(np.mean(correlations)) if correlations else 0.0,
        "rank_correlation": float(stats.spearmanr(np.arange(len(seen))[::every], seen[::every]).statistic),
    }


def cost(make: Callable[[], SampleIndex], samples: int) -> dict[str, float]:
    """Microseconds an index in calls as large as the loader's, and the most KiB allocated at a time for them.

    peak_kib counts what the order keeps, for two epochs, and what it works with.
    """
    tracemalloc.start()
    sample_index = make()
    boundary = (_EPOCH + 1) * samples  # a block around it needs the epochs on both sides
    sample_index(np.arange(boundary - _TIMED // 2, boundary + _TIMED // 2))
    peak_kib = tracemalloc.get_traced_memory()[1] / 2**10
    tracemalloc.stop()
    begins = np.linspace(_EPOCH * samples, (_EPOCH + 1) * samples, _CALLS, endpoint=False).astype(np.int64)
    blocks = begins[:, None] + np.arange(_TIMED)
    calls_sec = []
    for block in blocks:
        started = time.perf_counter()
        sample_index(block)
        calls_sec.append(time.perf_counter() - started)
    return {"us_per_index": statistics.median(calls_sec) / _TIMED * 1e6, "peak_kib": peak_kib}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--shards", type=int, default=1_000, help="(%(default)s)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 64], metavar="N", help="(%(default)s)")
    parser.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="(%(default)s)")
    parser.add_argument("--window", type=int, default=4, metavar="W", help="data.window_shards (%(default)s)")
    parser.add_argument("--lanes", type=int, default=0, metavar="L", help="data.lanes (%(default)s: chosen)")
    parser.add_argument("--global-batch", type=int, default=512, metavar="B", help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=1000, help="samples a second on each GPU (%(default)s)")
    parser.add_argument("--sample-kib", type=float, default=192, help="size of a stored tile (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--json", type=path_option, metavar="FILE", help="write all figures here")
    args = parser.parse_args()
    for name in ("samples", "shards", "gpus_per_node", "global_batch", "rate", "sample_kib"):
        if not getattr(args, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: it must be above 0")
    for name in ("window", "lanes", "seed"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} is {getattr(args, name)}: it must not be negative")
    for ranks in args.ranks:
        if ranks < 1 or args.global_batch % ranks:
            raise UserError(f"--ranks {ranks} must divide --global-batch {args.global_batch}")
        if ranks > args.gpus_per_node and ranks % args.gpus_per_node:
            raise UserError(f"--ranks {ranks} does not fill nodes of --gpus-per-node {args.gpus_per_node}")
    if args.lanes and args.global_batch % args.lanes:
        raise UserError(f"--lanes {args.lanes} must divide --global-batch {args.global_batch}")
    if args.shards > args.samples:
        raise UserError(f"--shards {args.shards} is more than --samples {args.samples}: a shard holds one or more")
    return args


def main() -> None:
    args = parse()
    samples, batch = args.samples, args.global_batch
    sizes = shard_sizes(samples, args.shards, args.seed)
    lanes = windowed_order.choose_lanes(batch, args.shards, args.window, args.lanes) if args.window else 1

    def make() -> SampleIndex:
        if args.window:
            return windowed_order.WindowedOrder(args.seed, sizes, batch, args.window, lanes).sample_index
        return lambda position: sample_order.sample_index(args.seed, position, samples)

    sample_index, gib = make(), args.sample_kib / 2**20
    shuffle = f"{lanes} lanes with windows of {args.window} shards" if args.window else "the whole set shuffled"
    print(f"{samples:,} samples of {args.sample_kib:g} KiB in {args.shards:,} shards, {samples * gib:,.0f} GiB in all")
    print(f"batches of {batch:,}; {shuffle}; {args.rate:g} samples/s a GPU\n")
    print("                 the busiest node fetches          and holds at one time")
    print("  ranks  nodes   GiB/epoch  x its share  GiB/hour    shards       GiB")
    rows: list[dict] = []
    seen, shard = None, np.empty(0, np.int64)
    for ranks in args.ranks:
        seen = read_epoch(sample_index, samples, batch, ranks, seen)
        if not rows:
            shard = np.searchsorted(np.cumsum(sizes), seen, side="right")
        nodes = -(-ranks // args.gpus_per_node)
        fetched, most, most_samples = node_load(shard, batch // nodes, lanes, batch, sizes)
        row = {
            "ranks": ranks,
            "nodes": nodes,
            "epoch_gib": float(fetched.max() * gib),
            "of_share": float(fetched.max() / (samples / nodes)),
            "hour_gib": float(fetched.max() * gib / (samples / (args.rate * ranks) / 3600)),
            "open_shards": int(most.max()),
            "open_gib": float(most_samples.max() * gib),
        }
        rows.append(row)
        print(
            f"{ranks:7,} {nodes:6,} {row['epoch_gib']:11,.1f} {row['of_share']:12.2f} {row['hour_gib']:9,.0f} "
            f"{row['open_shards']:9,} {row['open_gib']:9,.1f}",
            flush=True,
        )
    assert seen is not None
    figures = mixing(seen, shard, batch, args.shards) | cost(make, samples)
    print(f"""
Read exactly once, in the same global batches: all {samples:,} samples.
{figures["shards_in_batch"]:12,.0f}  shards in a batch, on average
{figures["neighbour_correlation"]:12.3f}  correlation of neighbouring batches' counts of each shard
{figures["rank_correlation"]:+12.4f}  rank correlation of place in the epoch and place in the set
{figures["us_per_index"]:12.2f}  microseconds an index
{figures["peak_kib"]:12,.0f}  KiB of memory at most, for all that the order keeps and works with""")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {key: value for key, value in vars(args).items() if key != "json"} | {"lanes": lanes}
        args.json.write_text(json.dumps({"settings": settings, "rows": rows, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
