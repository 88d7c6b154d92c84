"""Ranks: the only module that imports accelerate. It works alike when nothing was launched."""

import atexit
import contextlib
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, distributed, nn

from n2s_dist.config.schema import DeviceChoice
from n2s_dist.distributed.devices import choose_device
from n2s_dist.distributed.meeting import Meeting
from n2s_dist.distributed.precision import choose_precision
from n2s_dist.utils.cores import usable_cores
from n2s_dist.utils.errors import RunFailed, UserError

FOREVER = timedelta(days=7)  # in milliseconds an int32, which sockets wait for at most


class Ranks:
    """This process's place among its equals, and what they do together.

    On GPUs where there are any, else on the CPU (gloo between ranks). Every method but the properties is
    a collective: all ranks call it in the same order.
    """

    def __init__(
        self,
        mixed_precision: str = "no",
        num_threads: int = 0,
        meeting: Meeting | None = None,
        device: DeviceChoice = "auto",
        patience: timedelta = FOREVER,
    ) -> None:
        """meeting: where ranks have met; by default they do so here. patience: how long one rank waits for another."""
        meeting = meeting or Meeting()
        on_gpu = choose_device(device) == "cuda"
        self.precision = choose_precision(mixed_precision, on_gpu)
        _join(meeting, on_gpu, self.precision, patience)
        # Buffers say which weights are copies of which, and are the same on all ranks from the start.
        alike = DistributedDataParallelKwargs(broadcast_buffers=False)
        self._accelerator = Accelerator(cpu=not on_gpu, mixed_precision=self.precision, kwargs_handlers=[alike])
        # Launchers set OMP_NUM_THREADS to 1 for the sake of GPU ranks; CPU ranks share the cores they were given.
        self.local_world_size = meeting.launch.local_world_size
        torch.set_num_threads(num_threads or max(1, usable_cores() // self.local_world_size))
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.local_rank: int = self._accelerator.local_process_index
        self.world_size: int = self._accelerator.num_processes
        atexit.register(_leave)
        # Small things go past the GPU, which need not be waited for then. On the CPU this is the usual way as well.
        several = on_gpu and self.world_size > 1
        self._aside = distributed.new_group(backend="gloo", timeout=patience) if several else None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Wrap for data parallelism and mixed precision. The optimizer keeps working on the same parameters."""
        return self._accelerator.prepare(model, optimizer)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Mixed precision for a model that was not prepared, such as the weights' average."""
        return self._accelerator.autocast()

    @contextlib.contextmanager
    def accumulating(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Gradients are exchanged only in the last micro-batch of a batch."""
        with contextlib.nullcontext() if last else self._accelerator.no_sync(model):
            yield

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def gradient_norm(self, model: nn.Module, clip_norm: float) -> Tensor:
        """Norm of all gradients before they are clipped to clip_norm; 0 only measures."""
        self._accelerator.unscale_gradients()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        # On the CPU, looking at the norm costs nothing and spares a pass over all gradients; a GPU would have to wait.
        if clip_norm and (norm.is_cuda or norm > clip_norm):
            nn.utils.clip_grads_with_norm_(model.parameters(), clip_norm, norm)
        return norm

    @property
    def scaler_state(self) -> dict[str, Any]:
        """State of the fp16 loss scale; empty in other precisions."""
        return self._accelerator.scaler.state_dict() if self._accelerator.scaler is not None else {}

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        if state and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state)

    def sum(self, values: list[float]) -> list[float]:
        """Elementwise sums over ranks, added in rank order in float64, so that all ranks agree to the last bit."""
        return [sum(column) for column in zip(*self.gather([values]), strict=True)]

    def all_reduce_max(self, values: list[float]) -> list[float]:
        """Elementwise maxima over ranks, in one exchange of a tenth of a millisecond that no GPU is waited for."""
        if self.world_size == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self._aside)
        return tensor.tolist()

    def gather(self, rows: list[Any]) -> list[Any]:
        """All ranks' rows, in rank order, on every rank."""
        if self.world_size == 1:
            return rows
        parts: list[Any] = [None] * self.world_size
        distributed.all_gather_object(parts, rows, group=self._aside)
        return [row for part in parts for row in part]

    def barrier(self) -> None:
        if self.world_size > 1:
            distributed.barrier(group=self._aside)

    def close(self) -> None:
        """Leave the process group, when all is done; without it the launcher warns of leaked resources."""
        self._accelerator.end_training()


def _join(meeting: Meeting, on_gpu: bool, precision: str, patience: timedelta) -> None:
    """Take this rank's GPU and enter the process group, once all ranks can.

    Raises UserError without a GPU for it, or when ranks would work on devices of two kinds or in two precisions.
    """
    launch = meeting.launch
    if launch.is_alone or distributed.is_initialized():
        return
    if on_gpu:
        if launch.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"{launch.local_world_size} ranks were started on {socket.gethostname()}, which has "
                f"{torch.cuda.device_count()} GPU(s): start one for each GPU"
            )
        torch.cuda.set_device(launch.local_rank)
    meeting.compare(
        "devices",
        lambda: {"kind": "GPU" if on_gpu else "CPU", "precision": precision},
        "use nodes of one kind, and look for lost GPUs",
    )
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=meeting.store("ranks"),
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=patience,
    )


def _leave() -> None:
    """Leave the process group after an error: a process that ends inside it may be aborted by its own threads.

    NCCL's is aborted, since destroying it waits for exchanges that other ranks will never join.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if "nccl" in distributed.get_backend():
        distributed.distributed_c10d._abort_process_group()
    else:
        distributed.destroy_process_group()


@contextlib.contextmanager
def lost_ranks_named() -> Iterator[None]:
    """An exchange that fails because another rank has ended becomes one line that says so."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        reason = str(error).strip().splitlines()[0]
        raise RunFailed(
            "lost another rank, whose own message says why it ended, unless it was killed: "
            f"run the same command again ({reason})"
        ) from None
