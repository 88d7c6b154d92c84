"""Muon: momentum whose matrices are made orthogonal before each step (Jordan et al. 2024).

torch.optim.Muon takes matrices alone and iterates in bf16, which CPUs without it emulate some ten times slower.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from n2s_dist.models.equivariance import Symmetric
from n2s_dist.models.memory_order import in_memory, places_in_memory

# Jordan's quintic: five rounds bring all singular values from [0.01, 1] to within a third of 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_SMALL = 192  # rows up to which matrices of all sizes go together on a GPU


def orthogonalised(matrices: Tensor) -> Tensor:
    """U V^T of each U S V^T, [K, M, N] float32: all singular values but tiny ones come near 1, from 0.7 to 1.2.

    A round takes X to (a + b G + c G^2) X with G = X X^T. These polynomials of the first G commute, so rounds need G
    alone, and X is multiplied once: a third of the arithmetic for convolutions, whose matrices are long.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    product = factor = _polynomial(gram)
    for _ in range(_ROUNDS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    x = product @ x
    return x.mT if tall else x


def _polynomial(gram: Tensor) -> Tensor:
    """a + b G + c G^2, what one round multiplies by."""
    a, b, c = _QUINTIC
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor


class _Stack:
    """Weights whose matrices are made orthogonal together: [K, M, N].

    What goes into the matrices, and what comes out of them, is taken by index from all weights' values one after
    another, as memory holds them. So no weight is copied for the sake of its shape, its layout or its symmetry.
    Matrices that are smaller than M x N are filled up with zeros, which changes them by rounding alone.
    """

    def __init__(self, weights: list[Tensor], matrices: list["_Matrix"]) -> None:
        self.weights, self.scales = weights, [matrix.scale for matrix in matrices]
        rows, columns = (max(matrix.places.shape[dim] for matrix in matrices) for dim in (0, 1))
        self._shape = len(weights), rows, columns
        ends = list(accumulate(weight.numel() for weight in weights))
        source = torch.full(self._shape, ends[-1])  # where a zero is appended
        target = []
        for number, matrix in enumerate(matrices):
            height, width = matrix.places.shape
            source[number, :height, :width] = matrix.places + (ends[number - 1] if number else 0)
            row, column = matrix.entries.div(width, rounding_mode="floor"), matrix.entries % width
            target.append((number * rows + row) * columns + column)
        device = weights[0].device
        self._source, self._target = source.view(-1).int().to(device), torch.cat(target).int().to(device)
        self._zero = torch.zeros(1, device=device)

    def updates(self, ahead: list[Tensor]) -> list[Tensor]:
        """Each weight's update, laid out as the weight is."""
        values = [in_memory(each, weight.stride()) for each, weight in zip(ahead, self.weights, strict=True)]
        matrices = torch.cat([*values, self._zero]).index_select(0, self._source).view(self._shape)
        flat = orthogonalised(matrices).flatten().index_select(0, self._target)
        parts = flat.split([weight.numel() for weight in self.weights])
        return [part.as_strided(w.shape, w.stride()) for part, w in zip(parts, self.weights, strict=True)]


class _Matrix(NamedTuple):
    """The matrix that a weight is to Muon.

    places: where each entry lies in the weight's memory, int64 [M, N]. entries: for each value in the weight's memory
    the entry of the flattened matrix that is its update, int64 [numel]. scale: of an update, for a learning rate of 1.
    """

    places: Tensor
    entries: Tensor
    scale: float

    @staticmethod
    def of(weight: Tensor, symmetric: Symmetric | None) -> "_Matrix":
        places = places_in_memory(weight.shape, weight.stride())
        if symmetric is None:
            entries = torch.arange(weight.numel()).view(weight.shape)
        else:
            places = symmetric.spread(places)
            entries = symmetric.right_inverse(torch.arange(places.numel()).view(places.shape))
        places = places.flatten(1)
        return _Matrix(places, in_memory(entries, weight.stride()), 0.2 * max(places.shape) ** 0.5)

    def lying(self) -> "_Matrix":
        """The same or, if it is taller than wide, its transpose."""
        height, width = self.places.shape
        if height <= width:
            return self
        entries = self.entries % width * height + self.entries.div(width, rounding_mode="floor")
        return _Matrix(self.places.T, entries, self.scale)


def stacks(weights: list[Tensor], symmetric: Mapping[Any, Symmetric], merged: bool) -> list[_Stack]:
    """Stacks of all weights. merged: few of them, as a GPU wants; else one for each shape, without filling up."""
    alike: dict[Any, tuple[list[Tensor], list[_Matrix]]] = defaultdict(lambda: ([], []))
    for weight in weights:
        matrix = _Matrix.of(weight, symmetric.get(weight))
        matrix = matrix.lying() if merged else matrix
        # Products take K M^2 (N + 34 M) operations or so: small M are launches and nothing else.
        key = max(len(matrix.places), _SMALL) if merged else tuple(matrix.places.shape)
        alike[key][0].append(weight)
        alike[key][1].append(matrix)
    return [_Stack(*members) for members in alike.values()]


class Muon(torch.optim.AdamW):
    """Muon for `hidden` weights, each a matrix of outputs by all else; AdamW for the rest.

    A step has the root mean square of Adam's usual one, 0.2 (Liu et al. 2025), so learning rates carry over. Where a
    matrix is made of copies of its trained weights (`symmetric`), the whole of it takes the step: what is orthogonal to
    a symmetric matrix is symmetric as well.
    """

    def __init__(
        self, hidden: Iterable[nn.Parameter], rest: Iterable[nn.Parameter], *, momentum: float, lr: float,
        betas: tuple[float, float], weight_decay: float, symmetric: Mapping[nn.Parameter, Symmetric] | None = None,
    ) -> None:  # fmt: skip
        self._symmetric = symmetric or {}
        self._stacks: list[_Stack] = []
        groups: list[dict[str, Any]] = [
            {"params": list(hidden), "momentum": momentum},
            {"params": list(rest), "momentum": None},
        ]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            if group["momentum"] is not None:
                self._step_hidden(group)
        super().step()

    def _step_hidden(self, group: dict[str, Any]) -> None:
        weights: list[Tensor] = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        if {id(weight) for stack in self._stacks for weight in stack.weights} != set(map(id, weights)):
            self._stacks = stacks(weights, self._symmetric, merged=weights[0].is_cuda)
        for weight in weights:
            if not self.state[weight]:  # AdamW, which reads states back, expects a step in each
                self.state[weight].update(step=torch.zeros(()), momentum_buffer=torch.zeros_like(weight))
        torch._foreach_add_([self.state[weight]["step"] for weight in weights], 1)
        averages = [self.state[weight]["momentum_buffer"] for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        ahead = dict(zip(weights, torch._foreach_lerp(gradients, averages, group["momentum"]), strict=True))
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for stack in self._stacks:
            updates = stack.updates([ahead[weight] for weight in stack.weights])
            rates = [group["lr"] * scale for scale in stack.scales]
            if len(set(rates)) > 1:
                torch._foreach_mul_(updates, rates)
                rates = [1.0]
            torch._foreach_sub_(stack.weights, updates, alpha=rates[0])
        for weight in weights:
            weight.grad = None  # so AdamW leaves it alone
