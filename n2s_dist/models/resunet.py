"""A bias-free residual U-Net."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from n2s_dist.models.equivariance import SYMMETRY_ORDER, make_symmetric
from n2s_dist.models.network import Network
from n2s_dist.utils.errors import UserError


@dataclass(frozen=True)
class ResUNetOptions:
    """What can be chosen about a ResUNet.

    Args:
        widths: channels of each level, fine to coarse
        blocks: residual blocks a level
        symmetric: whether it commutes with flips and quarter turns, its weights being copies of an eighth of them;
            takes widths that are multiples of 8
    """

    widths: list[int] = field(default_factory=lambda: [32, 64, 128])
    blocks: int = 2
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) <= 0:
            raise UserError(f"network.widths is {self.widths}: give one positive width a level")
        if self.blocks <= 0:
            raise UserError(f"network.blocks is {self.blocks}: it must be a number above 0")
        if self.symmetric and any(width % SYMMETRY_ORDER for width in self.widths):
            raise UserError(f"network.widths is {self.widths}: network.symmetric takes multiples of {SYMMETRY_ORDER}")


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class ResUNet(Network):
    """Bias-free residual U-Net on pixel-unshuffled input, in the manner of DRUNet (Zhang et al. 2021).

    Without biases the network is homogeneous, f(a x) = a f(x), which carries over to noise levels it
    never saw (Mohan et al. 2020). Unshuffling by 2 first makes every layer four times cheaper.

    widths: channels at each level, from fine to coarse. blocks: residual blocks at each level on the
    way down, and again on the way up; the coarsest level has them once. symmetric: whether it commutes with flips and
    quarter turns (equivariance.py), for which widths must be multiples of 8.
    """

    name = "resunet"
    options: ClassVar[type[Any]] = ResUNetOptions

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
