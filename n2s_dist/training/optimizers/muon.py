"""Muon: momentum whose matrices are made orthogonal before each step (Jordan et al. 2024).

torch.optim.Muon takes matrices alone and iterates in bf16, which CPUs without it emulate some ten times slower.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from n2s_dist.models.equivariance import Symmetric

# Jordan's quintic: five rounds bring all singular values from [0.01, 1] to within a third of 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


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
        alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:  # AdamW, which reads states back, expects a step in each
                state.update(step=torch.zeros(()), momentum_buffer=torch.zeros_like(weight))
            state["step"] += 1
            average = state["momentum_buffer"]
            average.lerp_(weight.grad, 1 - group["momentum"])
            ahead = weight.grad.lerp(average, group["momentum"])
            if weight in self._symmetric:
                ahead = self._symmetric[weight](ahead)
            alike[ahead.flatten(1).shape].append((weight, ahead))  # type: ignore[index]
            weight.grad = None  # so AdamW leaves it alone
        for shape, members in alike.items():
            scale = group["lr"] * 0.2 * max(shape) ** 0.5
            updates = orthogonalised(torch.stack([ahead.flatten(1) for _, ahead in members]))
            for (weight, ahead), update in zip(members, updates, strict=True):
                update = update.view_as(ahead)
                if weight in self._symmetric:
                    update = self._symmetric[weight].right_inverse(update)
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)
