"""What an output of a network owes to each of its inputs, and which inputs make it largest.

`f` maps inputs `(B, size)` to one number each, `(B,)`. All are functions of the same gradients that
training follows, taken with respect to the input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.core.blocks import Dense, HiddenLayer
from agents.core.network import Network

Output = Callable[[Tensor], Tensor]


def input_gradient(f: Output, x: Tensor) -> Tensor:
    """∂f/∂x, `(B, size)`."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(f(x).sum(), x)
    return gradient


def gradient_times_input(f: Output, x: Tensor, baseline: Tensor | None = None) -> Tensor:
    """(x - x') ∂f/∂x, `(B, size)`; x' is 0 if not given.

    Of a function that is linear in x, exactly f(x) - f(x').
    """
    return (x if baseline is None else x - baseline) * input_gradient(f, x)


def integrated_gradients(f: Output, x: Tensor, baseline: Tensor, points: int = 64) -> Tensor:
    """(x - x') ∫₀¹ ∂f/∂x (x' + α (x - x')) dα, `(B, size)` (Sundararajan et al. 2017).

    They add up to f(x) - f(x'). The integral is taken at Gauss and Legendre's points.
    """
    where, weights = np.polynomial.legendre.leggauss(points)
    change = x - baseline
    total = torch.zeros_like(x)
    for at, weight in zip((where + 1.0) / 2.0, weights / 2.0, strict=True):
        total += float(weight) * input_gradient(f, baseline + float(at) * change)
    return change * total


def layerwise_relevance(
    network: Network, x: Tensor, head: str, select: Tensor, epsilon: float = 1e-9
) -> Tensor:
    """Relevance `(B, features)` of each input for Σ_k select_k output_k of a head.

    The ε-rule (Bach et al. 2015): from a layer z = W a + b, input i gets of output j's relevance
    the share a_i W_ji / (z_j + ε sgn z_j); what a bias would get is lost, so without biases the sum
    is kept. `x` `(B, features)` are what the first layer reads, `select` is `(B, outputs)`. In
    float64, for shares of sums that nearly cancel.

    Raises ValueError for a network of other layers than dense ones.
    """
    layers, last = _dense_layers(network, head)
    a, taken = x.double(), []
    for weight, bias, layer in layers:
        z = a @ weight.T + bias
        h = layer.activation(z)
        taken.append((a, weight, z, h, layer.residual))
        a = a + h if layer.residual else h
    weight, bias = last
    z = a @ weight.T + bias
    relevance = _back(a, weight, z, select * z, epsilon)
    for a, weight, z, h, residual in reversed(taken):
        if residual:
            share = relevance / _off_zero(a + h, epsilon)
            relevance = a * share + _back(a, weight, z, h * share, epsilon)
        else:
            relevance = _back(a, weight, z, relevance, epsilon)
    return relevance.detach().to(x.dtype)


def _back(a: Tensor, weight: Tensor, z: Tensor, relevance: Tensor, epsilon: float) -> Tensor:
    return a * ((relevance / _off_zero(z, epsilon)) @ weight)


def _off_zero(z: Tensor, epsilon: float) -> Tensor:
    return z + epsilon * torch.where(z >= 0, 1.0, -1.0)


Affine = tuple[Tensor, Tensor]


def _dense_layers(
    network: Network, head: str
) -> tuple[list[tuple[Tensor, Tensor, HiddenLayer]], Affine]:
    """Weight `(out, in)`, bias and module of each hidden layer before a head, and its own."""
    if network.memory is not None:
        raise ValueError(
            f"relevance is passed back through dense layers, not through a {network.memory.cell}: "
            "use integrated gradients"
        )
    last: Any = network.heads[head]
    spec = last.head
    odd = spec.dueling or spec.atoms or spec.cosines
    heads: list[Any] = list(network.heads.values())
    # Members of an ensemble lie in the same stack.
    odd = odd or any(other.head.members for other in heads)
    if odd or network.conv is not None or not isinstance(network.trunk, nn.ModuleList):
        raise ValueError(
            f"relevance is passed back through dense layers to a plain head: {head!r} has others, "
            "use integrated gradients"
        )
    member = 0 if network.shared else list(network.heads).index(head)
    found = []
    for layer in network.trunk:
        if not isinstance(layer, HiddenLayer) or layer.norm_scale is not None:
            raise ValueError(
                "relevance is passed back through dense layers without normalisation: use "
                "integrated gradients"
            )
        found.append((*_affine(layer, member), layer))
    assert isinstance(last, Dense)
    return found, _affine(last, 0)


def _affine(layer: Dense, member: int) -> Affine:
    if layer.members == 1:
        return layer.weight.detach().double(), layer.bias.detach().double()
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    return weight[member].T, bias[member, 0]


def maximise(
    f: Output, start: Tensor, low: Tensor, high: Tensor, steps: int = 200, rate: float = 0.05
) -> Tensor:
    """Inputs `(B, size)` in the box [low, high] at which f is large, by ascent from `start`.

    Each step goes `rate` times the box's size along the gradient, less and less; the best point met
    is given. For the input at which f is smallest, maximise -f.
    """
    span = high - low
    x = best = torch.minimum(torch.maximum(start, low), high)
    value = f(best).detach()
    for step in range(steps):
        uphill = input_gradient(f, x) * span
        out = ((x <= low) & (uphill < 0)) | ((x >= high) & (uphill > 0))
        uphill = torch.where(out, 0.0, uphill)
        size = torch.linalg.vector_norm(uphill, dim=-1, keepdim=True).clamp_min(1e-12)
        x = x + rate * (1.0 - step / steps) * span * uphill / size
        x = torch.minimum(torch.maximum(x, low), high)
        now = f(x).detach()
        best = torch.where((now > value).unsqueeze(-1), x, best)
        value = torch.maximum(now, value)
    return best
