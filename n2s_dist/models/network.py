"""The contract of a network: from tensor to tensor, [B, C_in, H, W] to [B, C_out, H, W], and what it says of itself.

A network is one file of this folder or of a module that N2S_PLUGINS names. It knows nothing of noise, loss or rank.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class NoOptions:
    """Of a network that has none."""


class Network(nn.Module):
    """A network, made by Class(in_channels, out_channels, **options).

    Args of a network's class:
        name: what the configuration's `network.name` calls it
        options: a frozen dataclass of what can be chosen about it. Its fields are the constructor's further arguments
            and have defaults; its docstring says under "Args:" what each means. They are the configuration's
            `network.NAME`. Values that go wrong raise UserError in its __post_init__
        ignored: keys that files written before have beside its name and that mean nothing to it
        multiple: the sides of its input are multiples of this; images are padded to it
        receptive_radius: pixels to each side that one output pixel depends on at most, by which large images go through
            in tiles; None where it depends on all of an image, which then goes through whole
    """

    name: ClassVar[str]
    options: ClassVar[type[Any]] = NoOptions
    ignored: ClassVar[tuple[str, ...]] = ()
    multiple: int = 1
    receptive_radius: int | None = None

    def hidden_weights(self) -> list[nn.Parameter]:
        """What the optimizer muon makes orthogonal: weights of all layers but the first and the last.

        By default the first and the last are those that the network registers first and last.
        """
        weights = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        return weights[1:-1]

    def enlarged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A smaller network's weights as this one's, which is then the same function and can learn more.

        By default, and where the other is not a smaller one, the weights as they are.
        """
        return weights


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
