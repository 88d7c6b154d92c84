"""Switches that change how fast a step is and its rounding, and nothing else: precision, compilation, memory layout.

None changes the names or the order of saved weights, so a run may be continued with other ones.
"""

import os
import shutil
from typing import Any, TypeVar

import torch
from torch import nn

from n2s_dist.config.schema import CompileMode
from n2s_dist.models.equivariance import symmetric_weights
from n2s_dist.utils.errors import UserError

Model = TypeVar("Model", bound=nn.Module)


def place(model: Model, device: torch.device, channels_last: bool) -> Model:
    """Bring a model to a device, its weights laid out as asked; what convolutions return follows their weights.

    Symmetric weights are made anew in each step, in that layout.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device, memory_format=layout)  # type: ignore[call-overload]  # which knows not all that it takes
    for trained, symmetric in symmetric_weights(model).items():
        symmetric.lay_out(trained, layout)
    return model


def compile_model(model: nn.Module, mode: CompileMode) -> None:
    """Let torch.compile run a model's calls, in place: it stays the same object, and so do its weights' names."""
    if mode != "no":
        model.compile(mode=mode, dynamic=False)


def check_compiler(mode: CompileMode) -> None:
    """UserError without a C++ compiler, which torch.compile needs on the CPU and on a GPU alike."""
    if mode == "no":
        return
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if not any(shutil.which(name) for name in compilers if name):
        raise UserError(
            f"train.compile is {mode}, which needs a C++ compiler: install g++ or name one in CXX, or give no"
        )


def match_layout(optimizer: Any) -> None:
    """Lay the optimizer's moments out as its weights are: a checkpoint keeps the layout that it was saved with.

    The fused optimizer walks through weights and moments in the order in which they lie in memory.
    """
    for weight, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                moments[name] = torch.empty_like(weight).copy_(value)
