"""Linear models at the least of the AR-DAE loss, where its gradient is next to nothing."""

import torch
from torch import Tensor

from n2s_dist.losses.ardae import ardae_loss
from n2s_dist.models.score_model import ScoreModel


def train_to_the_least(model: ScoreModel, w: Tensor, u: Tensor, sigma_a: Tensor, condition: Tensor, **lbfgs) -> None:
    """By L-BFGS on one batch; arguments as ardae_loss's. lbfgs: options of torch.optim.LBFGS."""
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", **lbfgs)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ardae_loss(model, w, u, sigma_a, condition).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
