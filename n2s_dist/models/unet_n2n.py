"""The U-Net of Noise2Noise."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from n2s_dist.models.network import Network


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(convolution.weight, a=0.1)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.LeakyReLU(0.1))


class UNetN2N(Network):
    """The U-Net of Noise2Noise's appendix (Lehtinen et al. 2018, Table 2), each level with its own weights.

    Five max-poolings, nearest-neighbour upsampling with skip connections, 0.99 M parameters. The
    output is linear: a score has both signs.
    """

    name = "unet_n2n"
    ignored = ("widths", "blocks", "symmetric")  # of resunet, which once stood beside every name
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
