"""Networks: shapes, sizes, homogeneity, and how far an output pixel can see."""

import numpy as np
import pytest
import torch
from torch import nn

from n2s_dist.models.network import reflect, run_padded
from n2s_dist.models.resunet import ResUNet
from n2s_dist.models.unet_n2n import UNetN2N

SIZES = [(1, 1), (1, 37), (37, 1), (2, 3), (33, 65), (64, 64)]


def fill(network: nn.Module, seed: int, positive: bool = False) -> nn.Module:
    """Weights that are all random; blocks start as the identity otherwise, and hide what they could do."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.normal_(0, scale)
            if positive:
                parameter.abs_()
    return network


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("network", [ResUNet(5, 3, (4, 6, 8), 1), UNetN2N(3, 3)], ids=["resunet", "unet_n2n"])
def test_any_size_is_padded_by_reflection_and_cut_back(network, size):
    height, width = size
    x = torch.rand(2, network.head.in_channels // 4 if isinstance(network, ResUNet) else 3, height, width)
    with torch.no_grad():
        out = run_padded(network, x)
        pads = [(0, 0), (0, 0), (0, -height % network.multiple), (0, -width % network.multiple)]
        expected = network(torch.from_numpy(np.pad(x.numpy(), pads, mode="reflect")))[..., :height, :width]
    assert out.shape == (2, 3, height, width)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


@pytest.mark.parametrize("length", range(1, 9))
def test_reflect_is_numpys(length):
    for padded in range(length, 41):
        expected = np.pad(np.arange(length), (0, padded - length), mode="reflect")
        np.testing.assert_array_equal(reflect(length, padded, torch.device("cpu")), expected)


def test_parameter_counts():
    """991,203 is what Noise2Noise's Table 2 adds up to; 1,049,600 the default on 3 channels and 2 constants."""
    counts = [sum(p.numel() for p in network.parameters()) for network in (UNetN2N(3, 3), ResUNet(5, 3))]
    assert counts == [991_203, 1_049_600]


@pytest.mark.parametrize("factor", [0.1, 3.0, 1000.0])
def test_resunet_is_homogeneous(factor):
    network = fill(ResUNet(3, 3, (8, 16), 2), seed=0).double()
    x = torch.randn(1, 3, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(factor * x) / factor, network(x), rtol=1e-9, atol=1e-9)


def test_unet_n2n_takes_both_signs():
    """A score does; the public reproduction ends in a ReLU and can't."""
    torch.manual_seed(0)
    network = UNetN2N(3, 3)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        out = network(x)
        assert out.min() < -0.01 and out.max() > 0.01
        network.output.weight.neg_()
        network.output.bias.neg_()
        torch.testing.assert_close(network(x), -out, rtol=0, atol=0)


@pytest.mark.parametrize(
    "network",
    [ResUNet(1, 1, (2, 2), 1), ResUNet(1, 1, (2, 2, 2), 2), UNetN2N(1, 1)],
    ids=["resunet-2-levels", "resunet-3-levels", "unet_n2n"],
)
def test_receptive_radius_bounds_what_a_pixel_sees(network):
    """By gradients in a strip, at pixels in different places of the network's grid; positive weights can't cancel."""
    fill(network, seed=1, positive=True)
    grid = network.multiple
    centre = -(-network.receptive_radius // grid) * grid + grid
    x = torch.rand(1, 1, grid, 2 * centre + grid, requires_grad=True)
    found = 0
    for axes in ((2, 3), (3, 2)):  # rows, then columns
        out = network(x.permute(0, 1, *axes)).permute(0, 1, *axes)
        for column in (centre, centre + grid // 2, centre + grid - 1):
            (gradient,) = torch.autograd.grad(out[0, 0, 0, column], x, retain_graph=True)
            seen = gradient[0, 0].abs().amax(0).nonzero()[:, 0]
            found = max(found, int((seen - column).abs().max()))
    assert network.receptive_radius / 2 < found <= network.receptive_radius
