"""Networks from tensor to tensor, [B, C_in, H, W] to [B, C_out, H, W]; they know nothing of noise, loss or rank.

Each says by `multiple` which sides it can take; `run_padded` lets it take any.
"""

import numpy as np
import torch
from torch import Tensor, nn


def reflect(length: int, padded: int, device: torch.device) -> Tensor:
    """Indices that extend `length` pixels to `padded` by reflection, again and again for short sides."""
    period = max(1, 2 * (length - 1))
    index = torch.arange(padded, device=device) % period
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)


def run_padded(network: nn.Module, x: Tensor) -> Tensor:
    """Run a network that needs sides divisible by `network.multiple` on an image of any size.

    The image is reflected at its bottom and right border, and the result cut back.
    """
    height, width = x.shape[-2:]
    multiple: int = network.multiple  # type: ignore[assignment]
    tall, wide = (-(-side // multiple) * multiple for side in (height, width))
    if tall > height:
        x = x.index_select(-2, reflect(height, tall, x.device))
    if wide > width:
        x = x.index_select(-1, reflect(width, wide, x.device))
    return network(x)[..., :height, :width]


def hidden_weights(network: nn.Module) -> list[nn.Parameter]:
    """Weights of all layers but the first and the last, which a network registers first and last."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    return weights[1:-1]


def to_batch(images: np.ndarray, device: torch.device) -> Tensor:
    """Floats [H, W, C] or [B, H, W, C] to float32 [B, C, H, W] on a device."""
    batch = torch.from_numpy(np.ascontiguousarray(images, np.float32)).reshape(-1, *images.shape[-3:])
    return batch.permute(0, 3, 1, 2).to(device)


def from_batch(batch: Tensor) -> np.ndarray:
    """A tensor [B, C, H, W] to an array [B, H, W, C]."""
    return batch.permute(0, 2, 3, 1).cpu().numpy()
