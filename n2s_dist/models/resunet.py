"""A bias-free residual U-Net."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

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


def _put_into(weight: Tensor, smaller: Tensor, inputs_dim: int) -> None:
    """Set a weight's first outputs and inputs to a smaller one's. New inputs say nothing to these outputs."""
    inputs, outputs = (smaller.shape[dim] for dim in (inputs_dim, 1 - inputs_dim))
    those_outputs = weight.narrow(1 - inputs_dim, 0, outputs)
    those_outputs.zero_()
    those_outputs.narrow(inputs_dim, 0, inputs).copy_(smaller)


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

    def enlarged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of one with fewer channels or blocks: what is new keeps its drawn weights, but has no say yet."""
        own = {name: weight.clone() for name, weight in self.state_dict().items()}
        if not self._is_smaller(weights, own):
            return weights
        for name, weight in own.items():
            if name in weights:
                _put_into(weight, weights[name], self._inputs_dim(name))
            elif ".second." in name:
                weight.zero_()
        return own

    def _is_smaller(self, weights: dict[str, Tensor], own: dict[str, Tensor]) -> bool:
        """Whether they are of such a network with as many planes at both ends, and no more of anything in between."""
        head, *_, tail = own
        ends = ((head, self._inputs_dim(head)), (tail, 1 - self._inputs_dim(tail)))
        return (
            {head, tail} <= weights.keys() <= own.keys()
            and all(
                old.ndim == own[name].ndim and all(a <= b for a, b in zip(old.shape, own[name].shape, strict=True))
                for name, old in weights.items()
            )
            and all(weights[name].shape[dim] == own[name].shape[dim] for name, dim in ends)
        )

    def _inputs_dim(self, name: str) -> int:
        """The dimension of a trained weight that stands for a layer's inputs."""
        layer = self.get_submodule(name.partition(".parametrizations.")[0].removesuffix(".weight"))
        is_symmetric = parametrize.is_parametrized(layer, "weight")
        return 0 if isinstance(layer, nn.ConvTranspose2d) or (is_symmetric and layer is self.tail) else 1

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
