"""Attributions are complete where the method says so, agree with Captum, and find what matters."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.core import relevance
from agents.core.network import Head, Network, NetworkConfig

BOX = spaces.Box(-np.inf, np.inf, (5,))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network_of(*hidden, biased=False, heads=None, **options):
    heads = heads or {"policy": 3, "value": "scalar"}
    network = Network(BOX, heads, NetworkConfig(hidden, **options), generator())
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            with torch.no_grad():
                parameter.normal_(generator=generator(2)).mul_(float(biased))
    return network


X = torch.randn(32, 5, generator=generator(1))
ZERO = torch.zeros_like(X)


def value(network):
    return lambda x: network(x)["value"]


def test_of_a_linear_function_all_methods_say_the_same():
    network = network_of()
    head: Any = network.heads["value"]
    expected = X * head.weight.detach()
    f = value(network)
    every = torch.ones(32, 1)
    for found in (
        relevance.gradient_times_input(f, X),
        relevance.integrated_gradients(f, X, ZERO, 3),
        relevance.layerwise_relevance(network, X, "value", every, 1e-9),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("shared", [True, False])
def test_integrated_gradients_add_up_to_the_change(activation, shared):
    network = network_of(32, 32, activation=activation, shared_trunk=shared, biased=True)
    f, baseline = value(network), X.roll(1, 0)
    found = relevance.integrated_gradients(f, X, baseline)
    torch.testing.assert_close(found.sum(1), (f(X) - f(baseline)).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("options", [{}, {"shared_trunk": False}, {"residual": True}], ids=str)
@pytest.mark.parametrize("head", ["policy", "value"])
def test_relevance_is_conserved_without_biases(activation, options, head):
    network = network_of(16, 16, activation=activation, **options)
    select = torch.zeros(32, 3 if head == "policy" else 1)
    select[:, 0] = 1.0
    output = network(X)[head].detach().reshape(32, -1)[:, 0]
    found = relevance.layerwise_relevance(network, X, head, select)
    error = (found.sum(1) - output).abs() / output.abs().clamp_min(1e-3)
    assert float(error.max()) < 1e-3


def test_relevance_of_a_relu_network_is_gradient_times_input():
    """Without biases and as ε goes to 0 (Ancona et al. 2018, proposition 1)."""
    network = network_of(16, 16, activation="relu")
    found = relevance.layerwise_relevance(network, X, "value", torch.ones(32, 1), 1e-9)
    expected = relevance.gradient_times_input(value(network), X)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_an_ignored_input_owes_nothing_and_selections_are_linear():
    network: Any = network_of(16, biased=True)
    with torch.no_grad():
        network.trunk[0].weight[:, 2] = 0.0
    one, other = torch.eye(3)[0].expand(32, -1), torch.eye(3)[1].expand(32, -1)
    found = [relevance.layerwise_relevance(network, X, "policy", s) for s in (one, other)]
    assert all(bool((part[:, 2] == 0).all()) for part in found)
    both = relevance.layerwise_relevance(network, X, "policy", one - 2 * other)
    torch.testing.assert_close(both, found[0] - 2 * found[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "heads"),
    [
        ({"norm": "layer"}, {"q": 2}),
        ({"recurrent": "gru"}, {"q": 2}),
        ({"recurrent": "lstm"}, {"q": 2}),
        ({}, {"q": Head(2, dueling=True)}),
        ({}, {"q": Head(2, atoms=5)}),
        ({}, {"q": Head(2, members=3)}),
    ],
)
def test_other_layers_are_refused(options, heads):
    network = network_of(8, heads=heads, **options)
    with pytest.raises(ValueError, match="use integrated gradients"):
        relevance.layerwise_relevance(network, X, "q", torch.ones(32, 2))


def test_captum_says_the_same():
    captum = pytest.importorskip("captum.attr")
    network = network_of(16, 16, activation="tanh", biased=True)
    f = value(network)
    ours = relevance.integrated_gradients(f, X, ZERO, 50)
    theirs = captum.IntegratedGradients(f).attribute(X, ZERO, n_steps=50, method="gausslegendre")
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-3, atol=1e-5)
    theirs = captum.InputXGradient(f).attribute(X.clone().requires_grad_())
    torch.testing.assert_close(relevance.gradient_times_input(f, X), theirs.detach())


def test_captum_passes_relevance_back_the_same_way():
    captum = pytest.importorskip("captum.attr")
    network: Any = network_of(16, 16, activation="relu", biased=True)
    first, second = network.trunk
    last = network.heads["value"]
    plain: Any = torch.nn.Sequential(
        torch.nn.Linear(5, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 1),
    )
    with torch.no_grad():
        for ours, theirs in zip((first, second, last), plain[::2], strict=True):
            theirs.weight.copy_(ours.weight)
            theirs.bias.copy_(ours.bias)
    found = relevance.layerwise_relevance(network, X, "value", torch.ones(32, 1), 1e-9)
    expected = captum.LRP(plain).attribute(X.clone().requires_grad_(), target=0).detach()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_concave_function_is_maximised_inside_and_a_linear_one_in_a_corner():
    peak = torch.tensor([0.3, -0.7, 0.1, 0.9, 0.0])
    low, high = -torch.ones(5), torch.ones(5)
    found = relevance.maximise(lambda x: -(x - peak).square().sum(-1), X, low, high)
    assert float((found - peak).abs().max()) < 0.02
    corner = relevance.maximise(lambda x: (x * (peak + 0.05)).sum(-1), X, low, high)
    assert corner.sign().equal((peak + 0.05).sign().expand_as(corner))
    assert bool((corner.abs() == 1).all())


def test_what_is_found_is_never_worse_than_the_start():
    network = network_of(16, 16)
    f = value(network)
    found = relevance.maximise(f, X, X.amin(0), X.amax(0), 20)
    assert bool((f(found) >= f(X)).all())
    assert bool((found >= X.amin(0)).all())
    assert bool((found <= X.amax(0)).all())
