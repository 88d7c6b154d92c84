"""What training should reach on 8, 64 and 1,024 GPUs: arithmetic on stated assumptions, no measurement.

bench_scaling.py --model prints it; docs/scaling.md explains it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

GPUS = (8, 64, 1024)
BANDWIDTHS = (50e9, 150e9, 450e9)  # bytes/s a GPU sends and receives: between nodes, mixed, within a node
GPUS_A_NODE = 8


@dataclass(frozen=True)
class Assumptions:
    """What the model rests on. Counted from the configuration: parameters, flops_per_crop, crop and tile bytes.

    Args:
        parameters: of the network
        flops_per_crop: forward and backward
        crop_bytes: a crop's 8-bit pixels; noise is drawn on the GPU
        tile_bytes: the stored tile that it is cut from
        flops_per_sec: what a GPU reaches on this network, far below its peak with 32 to 128 channels
        floor_sec: what a step takes however few its crops: some hundred kernels' launches
        hop_sec: latency of one hop of an exchange
        total_crops: length of a run
        fewest_steps: optimizer steps that a run needs, whatever the batch
    """

    parameters: float
    flops_per_crop: float
    crop_bytes: int
    tile_bytes: int
    flops_per_sec: float = 100e12
    floor_sec: float = 2e-3
    hop_sec: float = 5e-6
    total_crops: int = 2_400_000
    fewest_steps: int = 2_500


def ring_sec(num_bytes: float, gpus: int, bandwidth: float, hop_sec: float) -> float:
    """All-reduce around a ring: 2 (N - 1) hops, each of a share 1/N of the bytes (Patarasuk & Yuan 2009)."""
    return 2 * (gpus - 1) * (num_bytes / gpus / bandwidth + hop_sec)


def tree_sec(num_bytes: float, gpus: int, bandwidth: float, hop_sec: float) -> float:
    """All-reduce up and down a binary tree, in a pipeline: the bytes twice, and a latency for each level."""
    return 2 * (num_bytes / bandwidth + math.ceil(math.log2(gpus)) * hop_sec)


def exchange_sec(num_bytes: float, gpus: int, bandwidth: float, hop_sec: float) -> float:
    """The faster of the two, as libraries choose."""
    return min(way(num_bytes, gpus, bandwidth, hop_sec) for way in (ring_sec, tree_sec))


def compute_sec(given: Assumptions, crops: float) -> float:
    """One GPU's step without the exchange."""
    return max(given.floor_sec, crops * given.flops_per_crop / given.flops_per_sec)


def full_crops(given: Assumptions) -> float:
    """Crops a GPU needs in each step, or its time goes into launching kernels."""
    return given.floor_sec * given.flops_per_sec / given.flops_per_crop


def efficiency(given: Assumptions, crops: float, gpus: int, bandwidth: float, gradient_bytes: int) -> float:
    """Crops/s of all GPUs over N times those of one that is kept full; the exchange hides behind nothing."""
    exchange = exchange_sec(given.parameters * gradient_bytes, gpus, bandwidth, given.hop_sec)
    full = full_crops(given) / given.floor_sec  # crops/s
    return crops / (compute_sec(given, crops) + exchange) / full


def largest_batch(given: Assumptions) -> float:
    """The global batch beyond which a run of total_crops has too few steps."""
    return given.total_crops / given.fewest_steps


def lines(given: Assumptions) -> Iterator[str]:
    """The model as Markdown."""
    for name, value, unit in [
        ("gradients, float32", 4 * given.parameters / 1e6, "MB"),
        ("gradients, bf16", 2 * given.parameters / 1e6, "MB"),
        ("counted work a crop, forward and backward", given.flops_per_crop / 1e9, "GFLOP"),
        ("assumed rate of a GPU", given.flops_per_sec / 1e12, "TFLOP/s"),
        ("crops/s of a GPU that is kept full", given.flops_per_sec / given.flops_per_crop, ""),
        ("assumed least time of a step", given.floor_sec * 1e3, "ms"),
        ("crops a GPU needs a step to be full", full_crops(given), ""),
        ("assumed latency of a hop", given.hop_sec * 1e6, "us"),
    ]:
        yield f"- {name}: {value:{',.0f' if value > 1000 else '.4g'}} {unit}".rstrip()

    yield "\nAll-reduce of the gradients, ms (ring, tree):\n"
    heads = [f"{b / 1e9:.0f} GB/s, {p}" for p in ("float32", "bf16") for b in BANDWIDTHS]
    yield "| GPUs | " + " | ".join(heads) + " |"
    yield "|---|" + "---|" * len(heads)
    for gpus in GPUS:
        cells = [
            ", ".join(f"{way(n * given.parameters, gpus, b, given.hop_sec) * 1e3:.2f}" for way in (ring_sec, tree_sec))
            for n in (4, 2)
            for b in BANDWIDTHS
        ]
        yield f"| {gpus:,} | " + " | ".join(cells) + " |"

    yield "\nThe machine alone: every GPU full, float32 gradients, nothing overlapped:\n"
    yield "| GPUs | global batch | step ms | efficiency at 50 / 450 GB/s | crops/s | loader a node, crops | tiles |"
    yield "|---|---|---|---|---|---|---|"
    full = full_crops(given)
    for gpus in GPUS:
        slow, fast = (efficiency(given, full, gpus, b, 4) for b in (BANDWIDTHS[0], BANDWIDTHS[-1]))
        rate = slow * gpus * full / given.floor_sec
        node = rate / gpus * GPUS_A_NODE
        step = full * gpus / rate
        yield (
            f"| {gpus:,} | {full * gpus:,.0f} | {step * 1e3:.2f} | {slow:.0%} / {fast:.0%} | {rate:,.0f} | "
            f"{node * given.crop_bytes / 1e9:.1f} GB/s | {node * given.tile_bytes / 1e9:.0f} GB/s |"
        )

    most = largest_batch(given)
    yield (
        f"\nThe batch as the limit: {given.total_crops:,} crops in at least {given.fewest_steps:,} steps allow a "
        f"global batch of {most:,.0f}:\n"
    )
    yield "| GPUs | crops a GPU | step ms | efficiency at 50 / 450 GB/s | seconds for the run at 50 GB/s | limit |"
    yield "|---|---|---|---|---|---|"
    for gpus in GPUS:
        crops = most / gpus
        if crops < 1:
            yield f"| {gpus:,} | {crops:.2f} | | | | fewer crops than GPUs |"
            continue
        slow, fast = (efficiency(given, crops, gpus, b, 4) for b in (BANDWIDTHS[0], BANDWIDTHS[-1]))
        step = most / (slow * gpus * full / given.floor_sec)
        limit = "the machine" if crops >= full else "the global batch"
        yield (
            f"| {gpus:,} | {crops:.0f} | {step * 1e3:.2f} | {slow:.0%} / {fast:.0%} | "
            f"{given.fewest_steps * step:.1f} | {limit} |"
        )
    yield (
        f"\nFrom {most / full:.1f} GPUs on the global batch is the limit: more of them need a longer run, larger "
        "crops or a larger network to be of use."
    )
