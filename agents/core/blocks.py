"""What a trunk is made of: dense layers with normalisation, activation, dropout and residual.

A layer may be a *stack* of E independent members (the separate trunks of an actor and a critic,
an ensemble of critics). A stack is one batched product instead of E small ones: on a CPU the
forward and backward pass through two 64-wide trunks takes half the time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.core.initialization import Init, initialize

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}


SPREAD = 0.5
"""Spread of a noisy layer at the start, times √inputs (Fortunato et al. 2018, σ₀)."""


class Dense(nn.Module):
    """y = W x + b, for one member `(..., in) -> (..., out)` or a stack `(E, B, in) -> (E, B, out)`.

    `names` are what the gradient statistics call the members: one name, or one for each of E. The
    weight is `(out, in)`; a stack's lies as its batched product reads it, `(E, in, out)`.

    A `noisy` layer (one member) has a trained spread beside every weight and bias, and adds to them
    spread × noise: factorised Gaussian noise f(ε_out) f(ε_in)ᵀ with f(x) = sgn(x) √|x| (Fortunato
    et al. 2018, eq. 10). It draws nothing itself: `noise` comes in, `(in + out,)` numbers f(ε),
    and without it the layer is a plain one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        names: tuple[str, ...],
        init: Init,
        gain: float,
        generator: torch.Generator,
        noisy: bool = False,
    ) -> None:
        super().__init__()
        self.layer_names = names
        self.inputs, self.outputs = inputs, outputs
        self.members = len(names)
        if self.members == 1:
            self.weight = nn.Parameter(torch.empty(outputs, inputs))
            self.bias = nn.Parameter(torch.zeros(outputs))
            initialize(self.weight, init, gain, generator)
        else:
            self.weight = nn.Parameter(torch.empty(self.members, inputs, outputs))
            self.bias = nn.Parameter(torch.zeros(self.members, 1, outputs))
            initialize(self.weight.mT, init, gain, generator)
        self.spread = self.bias_spread = None
        if noisy:
            start = SPREAD / inputs**0.5
            self.spread = nn.Parameter(torch.full_like(self.weight, start))
            self.bias_spread = nn.Parameter(torch.full_like(self.bias, start))

    def affine(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """W x + b."""
        if noise is not None and self.spread is not None and self.bias_spread is not None:
            into, out = noise.split([self.inputs, self.outputs])
            weight = torch.addcmul(self.weight, self.spread, torch.outer(out, into))
            return F.linear(x, weight, torch.addcmul(self.bias, self.bias_spread, out))
        if self.members == 1:
            return F.linear(x, self.weight, self.bias)
        return torch.baddbmm(self.bias, x, self.weight)

    forward = affine


class HiddenLayer(Dense):
    """Dense, then layer normalisation, activation, dropout and a skip connection as configured.

    Dropout draws nothing itself: the uniform noise comes in as an input, so that a loss stays a
    pure function. Without noise (acting, targets, evaluation) nothing is dropped. A noisy layer has
    no dropout, and `noise` is what `Dense` says.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        names: tuple[str, ...],
        init: Init,
        gain: float,
        generator: torch.Generator,
        *,
        activation: str,
        layer_norm: bool,
        residual: bool,
        dropout: float,
        noisy: bool,
    ) -> None:
        super().__init__(inputs, outputs, names, init, gain, generator, noisy)
        self.activation = ACTIVATIONS[activation]
        self.residual = residual
        self.dropout = dropout
        self.norm_scale = self.norm_bias = None
        if layer_norm:
            self.norm_scale = nn.Parameter(torch.ones_like(self.bias))
            self.norm_bias = nn.Parameter(torch.zeros_like(self.bias))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        h = self.affine(x, noise if self.spread is not None else None)
        if self.norm_scale is not None and self.norm_bias is not None:
            h = F.layer_norm(h, h.shape[-1:]) * self.norm_scale + self.norm_bias
        h = self.activation(h)
        if noise is not None and self.dropout:
            h = h * (noise >= self.dropout) / (1.0 - self.dropout)
        return x + h if self.residual else h
