"""Symmetric networks against what symmetry means, against autograd, and against Muon on whole weights."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from n2s_dist.models.equivariance import SYMMETRY_ORDER, moved, symmetric_weights
from n2s_dist.models.resunet import ResUNet
from n2s_dist.training.optimizers.muon import Muon

WIDTHS = (8, 16, 24)


def network(**options) -> ResUNet:
    torch.manual_seed(0)
    return ResUNet(5, 3, WIDTHS, 1, **options).double()


def whole_weights(symmetric: nn.Module, like: nn.Module | None = None) -> dict[str, torch.Tensor]:
    """All weights of the convolutions, copies included, under a plain network's names."""
    names = [name for name, _ in (like or network()).named_parameters()]
    return {name: symmetric.get_submodule(name.removesuffix(".weight")).weight for name in names}


def test_the_eight_elements_are_the_squares_symmetries():
    square = torch.arange(16).view(1, 4, 4)
    assert len({tuple(moved(square, element).flatten().tolist()) for element in range(SYMMETRY_ORDER)}) == 8
    assert torch.equal(moved(square, 0), square)
    assert torch.equal(moved(square, 1), square.rot90(1, (1, 2)))
    assert torch.equal(moved(square, 4), square.flip(2))


@pytest.mark.parametrize("element", range(SYMMETRY_ORDER))
def test_a_symmetric_network_commutes_with_flips_and_turns(element):
    symmetric = network(symmetric=True)
    x = torch.randn(2, 5, 32, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = moved(symmetric(x), element)
        torch.testing.assert_close(symmetric(moved(x, element)), expected, rtol=1e-9, atol=1e-9)
        if element:  # a plain network doesn't, so this test can fail
            plain = network()
            assert (plain(moved(x, element)) - moved(plain(x), element)).std() > 0.1 * plain(x).std()


def test_an_eighth_of_the_weights_is_trained_and_each_is_found_eight_times():
    symmetric, plain = network(symmetric=True), network()
    trained = list(symmetric.parameters())
    assert sum(p.numel() for p in trained) * SYMMETRY_ORDER == sum(p.numel() for p in plain.parameters())
    whole = list(whole_weights(symmetric).values())
    assert [w.shape for w in whole] == [p.shape for p in plain.parameters()]
    for part, weight in zip(trained, whole, strict=True):
        torch.testing.assert_close(
            part.flatten().sort()[0].repeat_interleave(SYMMETRY_ORDER), weight.flatten().sort()[0]
        )


def test_fresh_weights_are_spread_as_a_plain_networks():
    torch.manual_seed(0)
    symmetric, plain = (ResUNet(5, 3, (64, 128), 1, symmetric=choice) for choice in (True, False))
    whole = whole_weights(symmetric, like=plain)
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(whole[name].std(), weight.std(), rtol=0.1, atol=0)


def test_gradients_are_those_through_the_whole_weights_added_over_copies():
    symmetric = network(symmetric=True)
    x = torch.randn(1, 5, 16, 16, dtype=torch.float64)
    symmetric(x).square().sum().backward()
    whole = {name: weight.detach().requires_grad_() for name, weight in whole_weights(symmetric).items()}
    functional_call(network(), whole, x).square().sum().backward()
    for weight, copies in symmetric_weights(symmetric).items():
        step = torch.zeros_like(weight)
        step.view(-1)[0] = 1
        where = copies(step) != 0  # the eight copies of the first trained weight
        (name,) = [n for n, w in whole_weights(symmetric).items() if torch.equal(copies(weight), w)]
        torch.testing.assert_close(weight.grad.view(-1)[0], whole[name].grad[where].sum())
    layer = symmetric.tail.parametrizations.weight
    assert torch.autograd.gradcheck(layer[0], (layer.original,))


def test_weights_can_be_made_with_channels_innermost_and_so_can_their_gradients():
    plain, laid_out = network(symmetric=True), network(symmetric=True).to(memory_format=torch.channels_last)
    for trained, symmetric in symmetric_weights(laid_out).items():
        symmetric.lay_out(trained, torch.channels_last)
    x = torch.randn(2, 5, 16, 16, dtype=torch.float64)
    for each in (plain, laid_out):
        each(x).square().mean().backward()
    for name, weight in whole_weights(laid_out).items():
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(weight, whole_weights(plain)[name])
    for weight, expected in zip(laid_out.parameters(), plain.parameters(), strict=True):
        assert weight.grad.stride() == weight.stride()
        torch.testing.assert_close(weight.grad, expected.grad)


def test_weights_that_lie_in_another_way_than_was_said_are_the_same():
    symmetric = network(symmetric=True)
    before = whole_weights(symmetric)
    after = whole_weights(symmetric.to(memory_format=torch.channels_last))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_muon_steps_as_on_the_whole_weights_which_stay_symmetric():
    """Muon on the whole weights, with gradients averaged over copies, must give the same weights."""
    symmetric = network(symmetric=True).float()
    plain = network().float()
    plain.load_state_dict(whole_weights(symmetric))
    options = {"momentum": 0.9, "lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
    ours = Muon(symmetric.hidden_weights(), [], symmetric=symmetric_weights(symmetric), **options)
    theirs = Muon(plain.hidden_weights(), [], **options)
    for _ in range(3):
        ours.zero_grad()
        symmetric(torch.randn(1, 5, 16, 16)).square().mean().backward()
        copies = symmetric_weights(symmetric)
        for weight, whole in zip(symmetric.hidden_weights(), plain.hidden_weights(), strict=True):
            whole.grad = copies[weight](weight.grad) / SYMMETRY_ORDER
        ours.step()
        theirs.step()
    before = whole_weights(network(symmetric=True).float())
    after = whole_weights(symmetric)
    for name, expected in list(plain.named_parameters())[1:-1]:
        assert (after[name] - before[name]).norm() > 0.01 * before[name].norm()
        torch.testing.assert_close(after[name], expected, rtol=0, atol=2e-4)


def test_a_copy_of_a_symmetric_network_moves_on_its_own():
    first = network(symmetric=True)
    second = copy.deepcopy(first)
    x = torch.randn(1, 5, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        second.load_state_dict({name: 2 * value for name, value in first.state_dict().items()})
        assert torch.equal(whole_weights(second)["head.weight"], 2 * whole_weights(first)["head.weight"])
        assert not torch.equal(first(x), second(x))
    assert not [name for name in first.state_dict() if "original" not in name]  # what is copied where is not stored
