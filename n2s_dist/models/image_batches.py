"""Images as NumPy has them, and as networks take them."""

import numpy as np
import torch
from torch import Tensor


def to_batch(images: np.ndarray, device: torch.device) -> Tensor:
    """Floats [H, W, C] or [B, H, W, C] to float32 [B, C, H, W] on a device."""
    batch = torch.from_numpy(np.ascontiguousarray(images, np.float32)).reshape(-1, *images.shape[-3:])
    return batch.permute(0, 3, 1, 2).to(device)


def from_batch(batch: Tensor) -> np.ndarray:
    """A tensor [B, C, H, W] to an array [B, H, W, C]."""
    return batch.permute(0, 2, 3, 1).cpu().numpy()
