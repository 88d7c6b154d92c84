"""Muon against torch's own, which takes matrices alone and iterates in bf16."""

import pytest
import torch
from torch import nn

from n2s_dist.models.equivariance import symmetric_weights
from n2s_dist.models.resunet import ResUNet
from n2s_dist.models.unet_n2n import UNetN2N
from n2s_dist.training.optimizers.muon import Muon, orthogonalised, stacks

OPTIONS = {"lr": 0.01, "weight_decay": 0.1}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(3, 8, 30), (2, 30, 8), (1, 16, 16)])
def test_singular_values_become_alike_and_singular_vectors_stay(shape):
    matrices = torch.randn(shape, generator=generator())
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    values = u.mT @ orthogonalised(matrices) @ v.mT
    diagonal = torch.diagonal(values, dim1=-2, dim2=-1)
    assert diagonal.min() > 0.4 and diagonal.max() < 1.3
    torch.testing.assert_close(values, torch.diag_embed(diagonal), rtol=0, atol=1e-4)
    torch.testing.assert_close(orthogonalised(1e6 * matrices), orthogonalised(matrices), rtol=1e-3, atol=1e-3)
    assert not orthogonalised(torch.zeros(shape)).any()


@pytest.mark.parametrize("shape", [(12, 5, 3, 3), (40, 2, 2, 2), (6, 24)])
def test_steps_are_those_of_torchs_own_on_the_flattened_weight(shape):
    weight, bias = nn.Parameter(torch.randn(shape, generator=generator())), nn.Parameter(torch.ones(4))
    matrix, same_bias = nn.Parameter(weight.detach().flatten(1).clone()), nn.Parameter(torch.ones(4))
    ours = Muon([weight], [bias], momentum=0.9, betas=(0.9, 0.99), **OPTIONS)
    torchs = torch.optim.Muon([matrix], momentum=0.9, adjust_lr_fn="match_rms_adamw", **OPTIONS)
    adamw = torch.optim.AdamW([same_bias], betas=(0.9, 0.99), **OPTIONS)
    start, draws = weight.detach().clone(), generator()
    for _ in range(4):
        weight.grad, bias.grad = torch.randn(shape, generator=draws), torch.randn(4, generator=draws)
        matrix.grad, same_bias.grad = weight.grad.flatten(1).clone(), bias.grad.clone()
        for optimizer in (ours, torchs, adamw):
            optimizer.step()
    moved, expected = weight - start, matrix.view(shape) - start
    assert (moved - expected).norm() < 0.03 * expected.norm()  # bf16 resolves 0.4 % of a value, for five rounds
    torch.testing.assert_close(bias, same_bias)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("symmetric", [False, True])
def test_stacks_of_all_sizes_give_what_stacks_of_one_size_give(symmetric, layout):
    """A GPU's few stacks, filled up with zeros, against one stack for each shape, on weights in any layout."""
    torch.manual_seed(0)
    network = ResUNet(5, 3, (8, 16, 64), 1, symmetric=symmetric).to(memory_format=layout)
    weights, copies = network.hidden_weights(), symmetric_weights(network)
    for weight, symmetry in copies.items():
        symmetry.lay_out(weight, layout)
    ahead = {weight: torch.randn_like(weight) for weight in weights}
    found: list[dict] = []
    for merged in (False, True):
        made = stacks(weights, copies, merged)
        assert len(made) == 1 if merged else len(made) > 1
        found.append({})
        for stack in made:
            assert len(set(stack.scales)) > 1 if merged else len(set(stack.scales)) == 1
            updates = stack.updates([ahead[weight] for weight in stack.weights])
            found[-1] |= dict(zip(stack.weights, updates, strict=True))
    for weight in weights:
        assert found[0][weight].stride() == found[1][weight].stride() == weight.stride()
        torch.testing.assert_close(found[0][weight], found[1][weight], rtol=1e-4, atol=1e-5)
        whole = copies[weight](ahead[weight]) if symmetric else ahead[weight]
        expected = orthogonalised(whole.flatten(1)[None])[0].view(whole.shape)
        expected = copies[weight].right_inverse(expected) if symmetric else expected
        torch.testing.assert_close(found[0][weight], expected, rtol=1e-4, atol=1e-5)


def test_large_matrices_are_not_filled_up_by_much():
    network = ResUNet(5, 3, (64, 256, 512), 1)
    sides = [stack._shape[1] for stack in stacks(network.hidden_weights(), {}, merged=True)]
    assert sorted(sides) == [64, 256, 512]


@pytest.mark.parametrize("network", [ResUNet(5, 3, (4, 6, 8)), UNetN2N(4, 3)])
def test_the_first_and_last_layer_are_left_to_adamw(network):
    hidden = {id(weight) for weight in network.hidden_weights()}
    others = [name for name, p in network.named_parameters() if id(p) not in hidden and p.ndim > 1]
    assert others == (
        ["head.weight", "tail.weight"] if isinstance(network, ResUNet) else ["encoder0.0.weight", "output.weight"]
    )
