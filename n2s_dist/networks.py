"""Networks from tensor to tensor, [B, C_in, H, W] to [B, C_out, H, W]; they know nothing of noise, loss or rank.

Each says by `multiple` which sides it can take; `run_padded` lets it take any.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from n2s_dist.symmetry import make_symmetric


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


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(convolution.weight, a=0.1)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.LeakyReLU(0.1))


class UNetN2N(nn.Module):
    """The U-Net of Noise2Noise's appendix (Lehtinen et al. 2018, Table 2), each level with its own weights.

    Five max-poolings, nearest-neighbour upsampling with skip connections, 0.99 M parameters. The
    output is linear: a score has both signs.
    """

    multiple = 32
    # Pixels that one output pixel can depend on, to each side: 3x3 convolutions at steps 1, 1, 2, 4, 8, 16 and
    # 32 on the way down, two at each step on the way up, one more at the end, and the poolings' own width.
    receptive_radius = (1 + 1 + 2 + 4 + 8 + 16 + 32) + 2 * (16 + 8 + 4 + 2 + 1) + 1 + 31 + 31

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.encoder0 = _convolution(in_channels, 48)
        self.encoders = nn.ModuleList(_convolution(48, 48) for _ in range(5))
        self.bottom = _convolution(48, 48)
        skips = [48, 48, 48, 48, in_channels]
        inputs = [48, 96, 96, 96, 96]
        self.decoders = nn.ModuleList(
            nn.Sequential(_convolution(below + skip, 96), _convolution(96, 96))
            if skip == 48
            else nn.Sequential(_convolution(below + skip, 64), _convolution(64, 32))
            for below, skip in zip(inputs, skips, strict=True)
        )
        self.output = nn.Conv2d(32, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [x]
        x = self.encoder0(x)
        for encoder in self.encoders:
            x = F.max_pool2d(encoder(x), 2)
            skips.append(x)
        x = self.bottom(skips.pop())
        for decoder in self.decoders:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = decoder(torch.cat([x, skips.pop()], dim=1))
        return self.output(x)


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class ResUNet(nn.Module):
    """Bias-free residual U-Net on pixel-unshuffled input, in the manner of DRUNet (Zhang et al. 2021).

    Without biases the network is homogeneous, f(a x) = a f(x), which carries over to noise levels it
    never saw (Mohan et al. 2020). Unshuffling by 2 first makes every layer four times cheaper.

    widths: channels at each level, from fine to coarse. blocks: residual blocks at each level on the
    way down, and again on the way up; the coarsest level has them once. symmetric: whether it commutes with flips and
    quarter turns (symmetry.py), for which widths must be multiples of 8.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 2,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** len(widths)
        # Pixels that one output pixel can depend on, to each side: a level's 3x3 convolutions reach
        # 2 x blocks of its pixels, down and up again; resampling and the first and last layer reach a pixel each.
        steps = [2 ** (level + 1) for level in range(len(widths))]
        self.receptive_radius = sum(4 * blocks * step for step in steps) + 2 * sum(steps) + 2 * steps[0]
        pairs = list(pairwise(widths))

        def level(width: int) -> nn.Sequential:
            return nn.Sequential(*(_ResidualBlock(width) for _ in range(blocks)))

        self.head = nn.Conv2d(4 * in_channels, widths[0], 3, padding=1, bias=False)
        self.down_levels = nn.ModuleList(level(fine) for fine, _ in pairs)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2, bias=False) for fine, coarse in pairs)
        self.bottom = level(widths[-1])
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False) for fine, coarse in pairs[::-1]
        )
        self.up_levels = nn.ModuleList(level(fine) for fine, _ in pairs[::-1])
        self.tail = nn.Conv2d(widths[0], 4 * out_channels, 3, padding=1, bias=False)
        if symmetric:
            make_symmetric(self, first=self.head, last=self.tail)

    def forward(self, x: Tensor) -> Tensor:
        x = head = self.head(F.pixel_unshuffle(x, 2))
        skips = []
        for level, down in zip(self.down_levels, self.downs, strict=True):
            x = level(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        for up, level in zip(self.ups, self.up_levels, strict=True):
            x = level(up(x) + skips.pop())
        return F.pixel_shuffle(self.tail(x + head), 2)


def hidden_weights(network: nn.Module) -> list[nn.Parameter]:
    """Weights of all layers but the first and the last, which a network registers first and last."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    return weights[1:-1]
