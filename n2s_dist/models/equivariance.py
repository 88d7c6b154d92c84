"""Convolutions that commute with flips and quarter turns (Cohen & Welling 2016), and train an eighth of the weights.

Noise and photographs know no direction, so the score of a flipped or turned image is that of the image, flipped or
turned. Channels come in groups of eight, a feature seen in each of the eight positions of the square; of a group's
weights one copy is trained and the others are made from it. A step takes as many FLOPs as a plain network's, and each
weight learns from eight times as much.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from n2s_dist.models.memory_order import in_memory, places_in_memory

# Of the square's symmetry group: quarter turns, with or without a flip before. A symmetric network's channels come in
# groups of so many.
SYMMETRY_ORDER = 8
_Strides = tuple[int, ...]


class _Layouts(NamedTuple):
    """How a whole weight, what is trained of it, and the latter's gradient lie in memory."""

    whole: _Strides
    trained: _Strides
    gradient: _Strides


def _strides(shape: torch.Size, layout: torch.memory_format) -> _Strides:
    return torch.empty(shape, device="meta", memory_format=layout).stride()


_SQUARE = torch.arange(9).view(3, 3)


def moved(x: Tensor, element: int, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """x flipped and turned in two of its dimensions by one of the group's elements; 0 leaves it as it is."""
    if element >= 4:
        x = x.flip(dims[1])
    return x.rot90(element % 4, dims)


def _element(square: Tensor) -> int:
    return next(g for g in range(SYMMETRY_ORDER) if torch.equal(moved(_SQUARE, g), square))


# _BEFORE[g][a] is the element g^-1 a: where what element g takes to place a was before.
_INVERSE = [
    next(h for h in range(SYMMETRY_ORDER) if torch.equal(moved(moved(_SQUARE, h), g), _SQUARE))
    for g in range(SYMMETRY_ORDER)
]
_BEFORE = [
    [_element(moved(moved(_SQUARE, a), _INVERSE[g])) for a in range(SYMMETRY_ORDER)] for g in range(SYMMETRY_ORDER)
]


def _places(groups: int, channels: int, side: int, pixels: bool) -> Tensor:
    """For each weight from groups of eight to other channels the trained one that it copies.

    int64 [groups * 8, channels, side, side]. The other channels are groups too or, with `pixels`, the 2x2 pixels that
    pixel_unshuffle stacks.
    """
    trained = torch.arange(groups * channels * side**2).view(groups, channels, side, side)
    copies = []
    for element in range(SYMMETRY_ORDER):
        if pixels:
            copy = moved(trained.view(groups, -1, 2, 2, side, side), element, (2, 3))
        else:
            copy = trained.view(groups, -1, SYMMETRY_ORDER, side, side)[:, :, _BEFORE[element]]
        copies.append(moved(copy, element).reshape(groups, channels, side, side))
    return torch.stack(copies, dim=1).flatten(0, 1)


def _spread(values: Tensor, trained: torch.Size, groups_dim: int, pixels: bool) -> Tensor:
    """Values of trained weights of a shape, copied to the whole weight's."""
    groups, channels, side, _ = trained
    return values.flatten()[_places(groups, channels, side, pixels).transpose(0, groups_dim)]


@lru_cache(64)  # networks have many layers of one shape, and to sort the places of one takes a tenth of a second
def _tables(trained: torch.Size, groups_dim: int, pixels: bool, layouts: _Layouts) -> tuple[Tensor, Tensor]:
    """For each weight in memory the trained one that it copies, int32 [N]; for each of those its copies, int32 [8, T].

    Layers share them: nobody writes to them.
    """
    places, sums = (
        in_memory(_spread(places_in_memory(trained, strides), trained, groups_dim, pixels), layouts.whole)
        for strides in (layouts.trained, layouts.gradient)
    )
    return places.int(), sums.argsort(stable=True).view(-1, SYMMETRY_ORDER).T.contiguous().int()


class _Copy(torch.autograd.Function):
    """Weights from trained ones. Gradients of copies are added in a fixed order, so they repeat to the last bit."""

    @staticmethod
    def forward(
        context: Any, trained: Tensor, places: Tensor, copies: Tensor, shape: torch.Size, layouts: _Layouts
    ) -> Tensor:
        context.save_for_backward(copies)
        context.shape, context.layouts = trained.shape, layouts
        return in_memory(trained, layouts.trained).index_select(0, places).as_strided(shape, layouts.whole)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (copies,), layouts = context.saved_tensors, context.layouts
        of_copies = in_memory(gradient, layouts.whole).index_select(0, copies.view(-1)).view(SYMMETRY_ORDER, -1)
        return of_copies.sum(0).as_strided(context.shape, layouts.gradient), None, None, None, None


class Symmetric(nn.Module):
    """A convolution's weight, [outputs, inputs, side, side], from the eighth of it that is trained.

    Outputs and inputs change places for a transposed convolution, as in PyTorch.
    """

    def __init__(self, weight: Tensor, groups_dim: int, pixels: bool) -> None:
        super().__init__()
        self.groups_dim, self.pixels, self.shape = groups_dim, pixels, weight.shape
        for name in ("places", "copies"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int32), persistent=False)
        self.lay_out(self.right_inverse(weight), torch.contiguous_format)

    def lay_out(self, trained: Tensor, whole: torch.memory_format) -> None:
        """Choose how the whole weight is to lie in memory, and expect trained weights to lie as these do."""
        own = trained.stride()
        # Gradients take their weights' layout by themselves, for the price of a copy. Sums over copies are rounded as
        # their order has it, and on the CPU that stays as it was.
        gradient = own if whole == torch.channels_last else trained.contiguous().stride()
        self._layouts = layouts = _Layouts(_strides(self.shape, whole), own, gradient)
        places, copies = _tables(trained.shape, self.groups_dim, self.pixels, layouts)
        self.places, self.copies = places.to(trained.device), copies.to(trained.device)

    def spread(self, values: Tensor) -> Tensor:
        """A value for each trained weight, of any type, copied to all that are made from it: of the whole's shape."""
        return _spread(
            values, self.right_inverse(torch.empty(self.shape, device="meta")).shape, self.groups_dim, self.pixels
        )

    def forward(self, trained: Tensor) -> Tensor:
        return _Copy.apply(trained, self.places, self.copies, self.shape, self._layouts)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The copies in the square's own position, groups first."""
        return weight.transpose(0, self.groups_dim)[::SYMMETRY_ORDER].contiguous()


def make_symmetric(network: nn.Module, first: nn.Module, last: nn.Module) -> None:
    """Let a network of convolutions without biases commute with the group, and train an eighth of each weight.

    first: the convolution that takes what pixel_unshuffle gives, by 2. last: the one that gives what pixel_shuffle
    takes. All channels between are groups of eight. Initial weights keep their distribution.
    """
    for layer in [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]:
        symmetric = Symmetric(layer.weight, groups_dim=1 if layer is last else 0, pixels=layer in (first, last))
        parametrize.register_parametrization(layer, "weight", symmetric)


def make_plain(network: nn.Module) -> None:
    """Write copies out as weights of their own: the same function, by a network in which each weight may be trained."""
    for layer in [layer for layer in network.modules() if parametrize.is_parametrized(layer, "weight")]:
        parametrize.remove_parametrizations(layer, "weight")


def symmetric_weights(network: nn.Module) -> dict[nn.Parameter, Symmetric]:
    """Those of a network's trained weights that others are copies of, and what makes the copies."""
    found = {}
    for layer in network.modules():
        if isinstance(layer, parametrize.ParametrizationList) and isinstance(layer[0], Symmetric):
            assert isinstance(layer.original, nn.Parameter)
            found[layer.original] = layer[0]
    return found
