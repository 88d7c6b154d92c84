"""What small differences are made from is convolved in all of float32, and nobody else's setting changes."""

import threading

import numpy as np
import pytest
import torch

from n2s_dist.distributed.precision import full_precision
from n2s_dist.inference import noise_estimation, tiling, total_variation, uncertainty
from n2s_dist.models.resunet import ResUNet
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.specification import parse_noise, parse_training_noise

NOISE = parse_noise("gaussian:25")


@pytest.fixture(autouse=True)
def restored():
    before = setting()
    yield
    torch.backends.cudnn.conv.fp32_precision = before


def setting() -> str:
    return torch.backends.cudnn.conv.fp32_precision


class Recording(torch.nn.Module):
    """A network that notes with which setting it is called."""

    multiple, receptive_radius = 4, 8

    def __init__(self) -> None:
        super().__init__()
        self.network, self.seen = ResUNet(8, 3, [8, 8], 1), set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add(setting())
        return self.network(x)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, image: tiling.denoise_whole(model, image, NOISE),
        lambda model, image: tiling.denoise_tiled(model, image, NOISE, 32),
        lambda model, image: uncertainty.posterior_tiled(model, image, NOISE, 32),
        lambda model, image: noise_estimation.estimate_noise(model, image),
        lambda model, image: total_variation.scan_total_variation(model, image, "gaussian", 3),
    ],
    ids=["whole", "tiled", "posterior", "estimate", "scan"],
)
@pytest.mark.parametrize("before", ["tf32", "ieee"])
def test_inference_rounds_nothing_to_tf32(call, before):
    torch.backends.cudnn.conv.fp32_precision = before
    network = Recording()
    ranges = "gaussian:5-55,poisson:0.005-0.1,gamma:20-200"
    model = ScoreModel(network, parse_training_noise(ranges), "stable").eval()
    call(model, np.random.default_rng(0).random((40, 48, 3)).astype(np.float32))
    assert network.seen == {"ieee"}
    assert setting() == before


def test_an_error_leaves_the_setting_as_it_was():
    before = setting()
    with pytest.raises(ZeroDivisionError), full_precision:
        raise ZeroDivisionError
    assert setting() == before


def test_the_last_thread_that_leaves_turns_it_back():
    before, inside, leave = setting(), threading.Event(), threading.Event()
    assert before != "ieee"

    def stay() -> None:
        with full_precision:
            inside.set()
            leave.wait(20)

    other = threading.Thread(target=stay)
    other.start()
    assert inside.wait(20)
    with full_precision:
        pass
    assert setting() == "ieee"
    leave.set()
    other.join()
    assert setting() == before
