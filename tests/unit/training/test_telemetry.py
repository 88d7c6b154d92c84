"""What operators watch, against hand counts and closed forms."""

import itertools
import mmap

import numpy as np
import pytest
import torch
from torch import nn

from n2s_dist.distributed.ranks import Ranks
from n2s_dist.models.score_model import ScoreModel, build_score_model
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.training import telemetry
from n2s_dist.training.command_line import read_config
from n2s_dist.training.telemetry import flops_per_sample, matmul_peak, memory_mib, percentiles, stragglers

pytestmark = pytest.mark.usefixtures("cpu")


# --- arithmetic -------------------------------------------------------------------------------------------


def test_percentiles_of_known_steps():
    """1 to 101 ms in any order: the percentiles fall on steps. Between two steps they are interpolated."""
    steps = [float(ms) for ms in np.random.default_rng(0).permutation(np.arange(1, 102))]
    assert percentiles(steps) == {"step_ms_p50": 51.0, "step_ms_p90": 91.0, "step_ms_p99": 100.0}
    assert percentiles([10.0, 20.0]) == pytest.approx({"step_ms_p50": 15.0, "step_ms_p90": 19.0, "step_ms_p99": 19.9})
    assert percentiles([7.0]) == {"step_ms_p50": 7.0, "step_ms_p90": 7.0, "step_ms_p99": 7.0}


def test_the_slowest_rank_is_named_against_the_median_of_all():
    assert stragglers([10.0, 11.0, 33.0, 12.0, 9.0]) == {
        "step_ms_by_rank": [10.0, 11.0, 33.0, 12.0, 9.0],
        "slowest_rank": 2,
        "straggler_ratio": 3.0,
    }
    assert stragglers([5.0]) == {"step_ms_by_rank": [5.0], "slowest_rank": 0, "straggler_ratio": 1.0}


class _TwoLayers(nn.Module):
    multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1, bias=False)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(w)))


def test_flops_of_a_small_network_are_those_counted_by_hand():
    """Two FLOPs a product: forward, gradient of weights, and gradient of inputs where something is below."""
    first, second = 2 * 16 * 16 * 3 * 8 * 9, 2 * 16 * 16 * 8 * 3
    model = ScoreModel(_TwoLayers(), NoiseDistribution.of(Gaussian(0.1)), "image")
    assert flops_per_sample(model, 3, 16) == 2 * first + 3 * second


def test_flops_of_the_score_model_are_those_of_its_layers():
    """Every convolution of a small residual U-Net, from its shapes; sides halve by unshuffling and at each level."""
    config = read_config(["--network.widths=[12,24]", "--network.blocks=1"])
    side, c, d = 32, 12, 24  # pixels a side, channels of the two levels
    fine, coarse = (side // 2) ** 2, (side // 4) ** 2
    head = 2 * fine * 9 * (4 * 5) * c  # 3 colors and 2 constants, unshuffled by 2
    rest = 2 * (
        fine * 9 * 2 * c * c  # down level
        + coarse * 4 * c * d  # down
        + coarse * 9 * 2 * d * d  # bottom
        + coarse * 4 * d * c  # up: each coarse pixel makes 2 x 2 fine ones
        + fine * 9 * 2 * c * c  # up level
        + fine * 9 * c * (4 * 3)  # tail
    )
    assert flops_per_sample(build_score_model(config, 3), 3, side) == 2 * head + 3 * rest


def test_the_peak_is_measured_once_and_draws_no_random_numbers():
    matmul_peak.cache_clear()
    state = torch.get_rng_state()
    peak = matmul_peak(torch.device("cpu"), torch.float32, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert matmul_peak(torch.device("cpu"), torch.float32, 1) == peak
    found_again, measured, *_ = matmul_peak.cache_info()
    assert (found_again, measured) == (1, 1)


def test_the_peak_is_of_the_quickest_product(monkeypatch):
    """Other programs may have the cores in some moments. Products are of 1024 x 1024, and take what the clock says."""

    class Clock:
        times_ms = itertools.cycle([2.0, 1.5, 3.0])

        def mark(self) -> None: ...

        def elapsed_ms(self, before: None, after: None) -> float:
            return next(self.times_ms)

    monkeypatch.setattr(telemetry, "_clock", lambda device: Clock())
    monkeypatch.setattr(telemetry.time, "perf_counter", itertools.count(step=telemetry._PEAK_SEC / 10).__next__)
    matmul_peak.cache_clear()
    assert matmul_peak(torch.device("cpu"), torch.float32, 1) == pytest.approx(2 * 1024**3 / 1.5e-3)
    matmul_peak.cache_clear()


def test_memory_grows_by_what_is_held():
    before = memory_mib(torch.device("cpu"))
    with mmap.mmap(-1, 64 * 2**20) as held:  # the allocator may have as much left over from another test
        held.write(bytes(len(held)))
        assert memory_mib(torch.device("cpu")) - before == pytest.approx(64, abs=4)


# --- on a GPU ---------------------------------------------------------------------------------------------


def test_a_gpus_memory_is_pytorchs_and_what_others_hold(monkeypatch):
    """8 GiB in all, 1 GiB of it free: PyTorch has 5 GiB, of which it needed 3; DALI and CUDA have the other 2."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 * gib, 8 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * gib)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * gib)
    assert memory_mib(torch.device("cuda", 0)) == 5 * 1024


class _Queue:
    """The clock of a GPU whose host runs ahead: a mark is passed once all work before it is done."""

    def __init__(self) -> None:
        self.host_ms = self.idle_from_ms = 0.0

    def work(self, ms: float) -> None:
        self.idle_from_ms = max(self.host_ms, self.idle_from_ms) + ms

    def mark(self) -> float:
        return max(self.host_ms, self.idle_from_ms)

    def elapsed_ms(self, begin: float, end: float) -> float:
        return end - begin


def test_a_gpu_waits_for_data_only_while_it_has_no_work(monkeypatch, tmp_path):
    queue = _Queue()
    monkeypatch.setattr(telemetry, "_clock", lambda device: queue)
    monkeypatch.setattr(telemetry, "flops_per_sample", lambda *_: 1.0)
    monkeypatch.setattr(telemetry, "matmul_peak", lambda *_: 1.0)
    watch = telemetry.StepTelemetry(
        Ranks(), ScoreModel(_TwoLayers(), NoiseDistribution.of(Gaussian(0.1)), "image"), _TwoLayers(),
        channels=3, crop_size=8, method="ardae", mixed_precision="no", profile_dir=tmp_path, profile_steps=0,
    )  # fmt: skip
    # Data of the first step takes 5 ms, in which the GPU has nothing to do; then it always has.
    for data_ms in (5.0, 8.0, 11.0):
        watch.begin()
        watch.wait_for_data()
        queue.host_ms += data_ms
        watch.data_came()
        queue.work(15.0)
        watch.exchanged()
        watch.end()
    report = watch.report(1.0, 0)
    assert report["data_wait_frac"] == pytest.approx(5 / 50)
    assert report["step_ms_p50"] == 15.0
