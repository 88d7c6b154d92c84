"""What a user is told of the noise that was estimated."""

import pytest

from n2s_dist.inference.denoiser import Info
from n2s_dist.inference.files import remark
from n2s_dist.models import checkpoint
from n2s_dist.noise.specification import parse_noise


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gaussian:20", "gaussian:20 (estimated)"),
        ("poisson-gaussian:0.01:5", "poisson-gaussian:0.01:5 (estimated)"),
        ("curve:0=0.02_1=0.1", "noise of 5.1 to 25.5 levels of 255 by brightness (estimated)"),
        (
            "curve:0=0.04:0.04:0.04_1=0.04:0.04:0.04+blur:0.7",
            "noise of 10.2 to 10.2 levels of 255 by brightness, correlated over 0.7 pixels (estimated)",
        ),
    ],
)
def test_estimated_noise_is_said_in_a_line_that_can_be_read(text, said):
    network = checkpoint.load(checkpoint.locate("instrument-color"))
    assert remark(Info(parse_noise(text), True, None, 0.0, network)) == said
