"""What an operator watches: step times, stragglers, FLOP utilisation, memory, and a profile on demand.

    begin ── data ── forward ── backward ── gradients_ready ── wait for other ranks ── exchanged ── optimizer ── end

Ranks leave a step together, so the time of whole steps doesn't show which of them is slow. A rank's own time does: its
step without the wait between the moment its last gradient was there and the end of the exchange.
"""

import copy
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from n2s_dist.config.schema import Config
from n2s_dist.distributed.ranks import Ranks
from n2s_dist.losses.base import loss_of, method_loss
from n2s_dist.losses.loss import Batch
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.utils.errors import print_rank0
from n2s_dist.utils.files import atomic_write

# What differs between a run and its repeat; all else that is logged follows from configuration and samples_seen.
CLOCKS = frozenset(
    {
        "samples_per_sec",
        "samples_per_sec_per_rank",
        "data_wait_frac",
        "checkpoint_pause_sec",
        "exchange_wait_frac",
        "step_ms_p50",
        "step_ms_p90",
        "step_ms_p99",
        "step_ms_by_rank",
        "slowest_rank",
        "straggler_ratio",
        "mfu",
        "memory_mib",
    }
)
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PEAK_SEC = 0.12  # for the matmul peak; with warm-up it stays below 0.3 s
_BEFORE_PROFILE = 3  # steps that are not worth recording: allocators, compilers and caches fill
_PROFILER_WARMUP = 2
_PROFILED_RANKS = 8  # a node's worth


def percentiles(step_ms: list[float]) -> dict[str, float]:
    """step_ms_p50, p90 and p99, with linear interpolation between steps."""
    return {f"step_ms_p{p}": float(v) for p, v in zip((50, 90, 99), np.percentile(step_ms, (50, 90, 99)), strict=True)}


def stragglers(own_ms: list[float]) -> dict[str, float | list[float]]:
    """Each rank's own time a step, which rank is slowest, and how much slower it is than the median rank."""
    slowest = int(np.argmax(own_ms))
    return {
        "step_ms_by_rank": [round(ms, 3) for ms in own_ms],
        "slowest_rank": slowest,
        "straggler_ratio": float(own_ms[slowest] / np.median(own_ms)),
    }


def flops_per_sample(model: ScoreModel, channels: int, crop_size: int, method: str = Config.method) -> float:
    """FLOPs of convolutions and matrix products in the loss and its gradient for one crop.

    Counted on tensors that have shapes and no values, which costs milliseconds.
    """
    twin = copy.deepcopy(model).to("meta").requires_grad_(True)
    noise = model.noise.ranges[0].low
    y = torch.empty(1, channels, crop_size, crop_size, device="meta")
    aux = torch.empty_like(y, dtype=loss_of(method).aux_dtype)
    sigma_a = torch.empty(1, 1, 1, 1, device="meta")
    with FlopCounterMode(display=False) as counter:
        method_loss(method, twin, twin, Batch(np.zeros(1), y, noise, aux, sigma_a)).mean().backward()
    return float(counter.get_total_flops())


def _flops_or_none(model: ScoreModel, channels: int, crop_size: int, method: str) -> float | None:
    """The same; None, with a word on it, for a network or a loss that looks at values, which such tensors lack."""
    try:
        return flops_per_sample(model, channels, crop_size, method)
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        print_rank0(f"note: FLOPs can't be counted, so mfu is not logged ({reason})")
        return None


@lru_cache
def matmul_peak(device: torch.device, dtype: torch.dtype, num_threads: int) -> float:
    """The most FLOP/s that this device reaches in a product of square matrices of a data type.

    num_threads: what the CPU computes with; a part of the cache's key. Leaves global random states alone.
    """
    assert device.type == "cuda" or num_threads == torch.get_num_threads()
    side = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(side, side, generator=torch.Generator(device).manual_seed(0), device=device).to(dtype)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # as the convolutions have it
    clock, best, until = _clock(device), float("inf"), time.perf_counter() + _PEAK_SEC
    try:
        for _ in range(2):
            matrix @ matrix
        while time.perf_counter() < until or best == float("inf"):
            before = clock.mark()
            matrix @ matrix
            best = min(best, clock.elapsed_ms(before, clock.mark()))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    if device.type == "cuda":  # what is watched later is training's own memory
        del matrix
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2 * side**3 / best * 1e3


def memory_mib(device: torch.device) -> float:
    """The most that a GPU has had to hold, or this process's resident set on the CPU.

    On a GPU: the most that PyTorch allocated, and all that is not PyTorch's, such as DALI's pool and CUDA itself. What
    PyTorch keeps for later does not count.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
        return (torch.cuda.max_memory_allocated(device) + others) / 2**20
    return psutil.Process().memory_info().rss / 2**20


class _CpuClock:
    def mark(self) -> Any:
        return time.perf_counter()

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        return (end - begin) * 1e3


class _CudaClock(_CpuClock):
    """Marks in the device's queue: the host runs ahead of it, and must not wait."""

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        end.synchronize()
        return begin.elapsed_time(end)


def _clock(device: torch.device) -> _CpuClock:
    return _CudaClock() if device.type == "cuda" else _CpuClock()


class StepTelemetry:
    """Clocks the steps of one rank, and says for all ranks what happened since it was last asked.

    model: a plain score model, before data parallelism or compilation. training_model: the one that trains; the
    gradient of its first layer is the last to be there. mixed_precision: the peak is that of this data type.
    """

    def __init__(
        self,
        ranks: Ranks,
        model: ScoreModel,
        training_model: nn.Module,
        *,
        channels: int,
        crop_size: int,
        method: str,
        mixed_precision: str,
        profile_dir: Path,
        profile_steps: int,
    ) -> None:
        self._ranks, self._clock = ranks, _clock(ranks.device)
        self._flops = _flops_or_none(model, channels, crop_size, method)
        self._peak = matmul_peak(ranks.device, _DTYPES[mixed_precision], torch.get_num_threads())
        self._steps: list[list[Any]] = []  # four marks a step
        self._data_waits: list[tuple[Any, Any]] = []
        self._begun = self._gradients_ready = self._exchanged = self._waiting = None
        self._trace = profile_dir / f"rank-{ranks.rank}.json"
        wanted = profile_steps > 0 and ranks.rank < _PROFILED_RANKS
        self._profiler = self._start_profiler(profile_steps) if wanted else None
        if ranks.world_size > 1:
            next(training_model.parameters()).register_post_accumulate_grad_hook(self._on_last_gradient)

    def _on_last_gradient(self, _: Tensor) -> None:
        self._gradients_ready = self._clock.mark()

    def begin(self) -> None:
        """A step begins."""
        self._begun = self._clock.mark()

    def wait_for_data(self) -> None:
        """The step asks for a batch."""
        self._waiting = self._clock.mark()

    def data_came(self) -> None:
        """The batch is there. A GPU that had work left until now has not waited: it passes both marks at once."""
        self._data_waits.append((self._waiting, self._clock.mark()))

    def exchanged(self) -> None:
        """Gradients of all ranks are summed."""
        self._exchanged = self._clock.mark()

    def end(self) -> None:
        """A step is over."""
        ready = self._exchanged if self._gradients_ready is None else self._gradients_ready
        self._steps.append([self._begun, ready, self._exchanged, self._clock.mark()])
        self._gradients_ready = None
        if self._profiler:
            self._profiler.step()

    def report(self, samples_per_sec: float, samples_to_go: int) -> dict[str, float | list[float]]:
        """Metrics of the steps since the last report. A collective."""
        whole = [self._clock.elapsed_ms(step[0], step[3]) for step in self._steps]
        waits = [self._clock.elapsed_ms(step[1], step[2]) for step in self._steps]
        data_waits = [self._clock.elapsed_ms(begin, end) for begin, end in self._data_waits]
        self._steps, self._data_waits = [], []
        own = float(np.median(np.subtract(whole, waits)))
        shares = sum(data_waits) / sum(whole), sum(waits) / sum(whole)
        rows = self._ranks.gather([(own, *shares, memory_mib(self._ranks.device), self._peak)])
        own_ms, data_frac, wait_frac, memory, peaks = (list(column) for column in zip(*rows, strict=True))
        scale = self._ranks.scaler_state.get("scale")
        return {
            "samples_per_sec_per_rank": samples_per_sec / self._ranks.world_size,
            "samples_to_go": samples_to_go,
            "data_wait_frac": float(np.mean(data_frac)),
            **percentiles(whole),
            **stragglers(own_ms),
            "exchange_wait_frac": float(np.mean(wait_frac)),
            **({} if self._flops is None else {"mfu": self._flops * samples_per_sec / sum(peaks)}),
            "memory_mib": max(memory),
            **({} if scale is None else {"loss_scale": scale}),
        }

    def _start_profiler(self, steps: int) -> torch.profiler.profile:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._ranks.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        plan = torch.profiler.schedule(wait=_BEFORE_PROFILE, warmup=_PROFILER_WARMUP, active=steps, repeat=1)
        profiler = torch.profiler.profile(activities=activities, schedule=plan, on_trace_ready=self._write_trace)
        profiler.start()
        return profiler

    def _write_trace(self, profiler: torch.profiler.profile) -> None:
        self._trace.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._trace) as partial:
            profiler.export_chrome_trace(str(partial))
        self._profiler = None
        print(f"wrote {self._trace}")

    def close(self) -> None:
        """Write the profile of a run that ended before all its steps were recorded."""
        if self._profiler:
            self._profiler.stop()
        if self._profiler:
            print(f"train.profile_steps: the run was over before the profile began, so {self._trace} was not written")
