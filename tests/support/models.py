"""Networks to test with."""

from functools import cache

import torch

from n2s_dist.config.schema import Config
from n2s_dist.models.score_model import ScoreModel, build_score_model
from n2s_dist.training.command_line import read_config


@cache
def _config(*options: str) -> Config:
    """Read once: to read one takes as long as a small network does."""
    return read_config([*options])


def random_model(*options: str, channels: int = 3) -> ScoreModel:
    """A network whose every weight counts, with an output of a sensible size."""
    model = build_score_model(_config(*options), channels).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1)
    return model
