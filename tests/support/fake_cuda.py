"""A GPU without a GPU: fake tensors of "cuda:0" go through real code, which is watched as it handles them.

Shapes, dtypes, devices and memory layouts are true; values don't exist. An operation on tensors of two devices raises,
as it would on a GPU. `Observer` notes what a GPU's host would wait for, what crosses the bus, and how convolutions run.
"""

import contextlib
import copy
import ctypes
import subprocess
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import cpp_extension
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from n2s_dist.models import equivariance

DEVICE = torch.device("cuda:0")
PACKAGE = "n2s_dist"

# Operations that start no kernel besides views: they allocate, or give what exists another name.
_FREE = frozenset(
    {
        "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view",
        "lift_fresh", "device",
    }
)  # fmt: skip
# Their result's shape is a value, so a host waits for it.
_SHAPED_BY_VALUES = frozenset({"nonzero", "masked_select", "unique_dim", "_unique2", "_local_scalar_dense", "equal"})
_NUMPY = {
    torch.float32: np.float32, torch.float64: np.float64, torch.int64: np.int64, torch.int32: np.int32,
    torch.int8: np.int8, torch.uint8: np.uint8, torch.bool: np.bool_,
}  # fmt: skip


def build_library(folder: Path) -> Path:
    """Compile the device, or take what an earlier call left in the folder. Nothing is needed in a CUDA build."""
    library = folder / f"fake_cuda-{torch.__version__}.so"
    source = Path(__file__).with_suffix(".cpp")
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
        includes = [f"-I{path}" for path in cpp_extension.include_paths()]
        libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-lc10"]
        partial = library.with_suffix(".partial")
        command = ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", abi, *includes, str(source), "-o", str(partial)]
        subprocess.run([*command, *libraries], check=True)
        partial.replace(library)
    return library


def load_library(library: Path) -> None:
    """Add the device to this process."""
    if not torch.version.cuda:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _place() -> str:
    """The innermost function of the package that is being called: "module:function"."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(PACKAGE):
            return f"{module.removeprefix(PACKAGE + '.')}:{frame.f_code.co_qualname}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


def _layout(tensor: Tensor) -> str:
    channels_last = tensor.is_contiguous(memory_format=torch.channels_last)
    if channels_last and tensor.is_contiguous():
        return "either"
    return "NHWC" if channels_last else "NCHW"


@dataclass
class Observed:
    """What was seen. Places are functions of the package.

    host_reads: (what, where) of each time the host waited for a value of the GPU.
    copies: (direction, whether the host waits, where) of each copy between host and GPU.
    convolutions: "dtype" and memory layouts of input, weight and output, with counts.
    """

    operations: int = 0
    by_place: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    by_name: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    host_reads: list[tuple[str, str]] = field(default_factory=list)
    copies: list[tuple[str, str, str]] = field(default_factory=list)
    convolutions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    error: str = ""


class Observer(TorchDispatchMode):
    """Notes every operation on the GPU. Enter it inside the fake mode."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Observed()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in [*given, *made]}
        if "cuda" not in devices or func.is_view or name in _FREE:
            return out
        self.seen.operations += 1
        self.seen.by_name[name] += 1
        self.seen.by_place[_place()] += 1
        if name in _SHAPED_BY_VALUES:
            self.seen.host_reads.append((name, _place()))
        if name in ("copy_", "_to_copy") and len(devices) > 1:
            source = given[1] if name == "copy_" else given[0]
            direction = "to the host" if source.is_cuda else "to the GPU"
            waits = "queued" if (kwargs or {}).get("non_blocking") or True in args[2:] else "waits"
            self.seen.copies.append((direction, waits, _place()))
        if name in ("convolution", "convolution_backward"):
            source, weight = given[:2] if name == "convolution" else given[1:3]
            what = f"{name} {str(source.dtype).removeprefix('torch.')}"
            layouts = f"input {_layout(source)}, weight {_layout(weight)}, output {_layout(made[0])}"
            self.seen.convolutions[f"{what}: {layouts}"] += 1
        return out


def _array(tensor: Tensor, number: float) -> np.ndarray:
    value = True if tensor.dtype == torch.bool else number  # what is asked is whether values are finite
    return np.full(tuple(tensor.shape), value, _NUMPY[tensor.dtype])


_READS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda values: values,
    "tolist": lambda values: values.tolist(),
    "item": lambda values: values.item(),
    "__float__": float,
    "__int__": int,
    "__bool__": bool,
}


@contextlib.contextmanager
def values_read(observer: Observer, number: float) -> Iterator[None]:
    """Fake tensors give some value where the host reads one, so that what follows runs. Reads of a GPU are noted.

    number: what the GPU's tensors hold; the CPU's hold 0.5.
    """

    def reading(name: str, give: Callable[[np.ndarray], Any], original: Callable) -> Callable:
        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(self, FakeTensor):
                return original(self, *args, **kwargs)
            if self.is_cuda:
                observer.seen.host_reads.append((name, _place()))
            return give(_array(self, number if self.is_cuda else 0.5))

        return read

    with contextlib.ExitStack() as stack:
        for name, give in _READS.items():
            read = reading(name, give, getattr(Tensor, name))
            stack.enter_context(mock.patch.object(Tensor, name, read))
        yield


class _Event:
    """As torch.cuda.Event, of a GPU on which everything takes a millisecond."""

    def __init__(self, enable_timing: bool = False) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: "_Event") -> float:
        return 1.0


def _apply(self: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """nn.Module._apply that replaces parameters: fake ones can be given neither other data nor another's place."""
    if recurse:
        for module in self.children():
            module._apply(function)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                applied = function(parameter)
            if applied is not parameter:
                self._parameters[name] = nn.Parameter(applied, parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = function(buffer)
    return self


_true_tables, _true_places = equivariance._tables, cache(equivariance._places)


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """In here torch.cuda is there and new tensors are fake."""
    properties = types.SimpleNamespace(major=9, minor=0, name="fake", total_memory=2**37)
    empty_like, deepcopy = torch.empty_like, copy.deepcopy
    functions: dict[str, Callable] = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "current_stream": lambda *_: None,
        "device_count": lambda: 1,
        "get_device_properties": lambda *_: properties,
        "get_device_name": lambda *_: "fake",
        "is_bf16_supported": lambda *_, **__: True,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda *_: None,
        "max_memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "mem_get_info": lambda *_: (2**36, 2**37),
        "Event": _Event,
    }
    with FakeTensorMode(shape_env=ShapeEnv()) as mode, contextlib.ExitStack() as stack:

        def copied(x: Any, memo: dict | None = None, _nil: Any = ()) -> Any:
            memo = {} if memo is None else memo
            memo.setdefault(id(mode), mode)  # copies of fake tensors stay in the same mode
            return deepcopy(x, memo)

        def tables(*key: Any) -> tuple[Tensor, ...]:
            with unset_fake_temporarily(), mock.patch.object(equivariance, "_places", _true_places):
                true = _true_tables(*key)
            return tuple(mode.from_tensor(table, static_shapes=True) for table in true)

        def places(*key: Any) -> Tensor:
            with unset_fake_temporarily():
                true = _true_places(*key)
            return mode.from_tensor(true, static_shapes=True)

        patches = [
            mock.patch.object(FakeTensorMode, "avoid_device_init", property(lambda self: True)),
            *(mock.patch.object(torch.cuda, name, function) for name, function in functions.items()),
            mock.patch.object(nn.Module, "_apply", _apply),
            mock.patch.object(copy, "deepcopy", copied),
            # Tables that symmetric networks share: true ones are kept, since each mode takes only fakes of its own.
            mock.patch.object(equivariance, "_tables", tables),
            mock.patch.object(equivariance, "_places", places),
            # Memory is pinned by a driver, which is not there.
            mock.patch.object(torch, "empty_like", lambda x, pin_memory=False, **how: empty_like(x, **how)),
            mock.patch.object(Tensor, "pin_memory", lambda self: self),
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            # One operation on lists of tensors, as on a GPU; PyTorch takes it only for types that it knows.
            mock.patch("torch.optim.optimizer._foreach_supported_types", [Tensor, nn.Parameter, FakeTensor]),
            mock.patch("torch.utils._foreach_utils._foreach_supported_types", [Tensor, FakeTensor]),
            mock.patch.dict("os.environ", ACCELERATE_TORCH_DEVICE=str(DEVICE)),
        ]
        for patch in patches:
            stack.enter_context(patch)
        yield mode
