"""DnCNN (Zhang et al. 2017) without batch normalization: convolutions in a row."""

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from n2s_dist.models.base import register
from n2s_dist.models.network import Network
from n2s_dist.utils.errors import UserError


@dataclass(frozen=True)
class DnCNNOptions:
    """What can be chosen about a DnCNN.

    Args:
        depth: number of convolutions
        features: channels between them
    """

    depth: int = 8
    features: int = 32

    def __post_init__(self):
        if self.depth < 2 or self.features < 1:
            raise UserError(f"network.depth is {self.depth} and network.features {self.features}: give 2 and 1 or more")


@register
class DnCNN(Network):
    """Convolutions in a row (Zhang et al. 2017)."""

    name = "dncnn"
    options = DnCNNOptions

    def __init__(self, in_channels, out_channels, depth=8, features=32):
        super().__init__()
        self.receptive_radius = depth
        channels = [in_channels, *[features] * (depth - 1), out_channels]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(channels))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
