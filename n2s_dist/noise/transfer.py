"""How what the host works out comes to the device that computes with it."""

import numpy as np
import torch
from torch import Tensor


def to_device(values: np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """An array's values as a tensor of its own on a device.

    To a GPU they go from pinned memory, in the order of its stream: the host waits for nothing.
    """
    tensor = torch.tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
