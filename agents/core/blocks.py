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


class Dense(nn.Module):
    """y = W x + b, for one member `(..., in) -> (..., out)` or a stack `(E, B, in) -> (E, B, out)`.

    `names` are what the gradient statistics call the members: one name, or one for each of E.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        names: tuple[str, ...],
        init: Init,
        gain: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layer_names = names
        stack = (len(names),) if len(names) > 1 else ()
        self.weight = nn.Parameter(torch.empty(*stack, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(*stack, *((1,) if stack else ()), outputs))
        initialize(self.weight, init, gain, generator)

    def affine(self, x: Tensor) -> Tensor:
        """W x + b."""
        weight = self.weight
        if weight.ndim == 2:
            return F.linear(x, weight, self.bias)
        return torch.baddbmm(self.bias, x, weight.mT)

    forward = affine


class HiddenLayer(Dense):
    """Dense, then layer normalisation, activation, dropout and a skip connection as configured.

    Dropout draws nothing itself: the uniform noise comes in as an input, so that a loss stays a
    pure function. Without noise (acting, targets, evaluation) nothing is dropped.
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
    ) -> None:
        super().__init__(inputs, outputs, names, init, gain, generator)
        self.activation = ACTIVATIONS[activation]
        self.residual = residual
        self.dropout = dropout
        self.norm_scale = self.norm_bias = None
        if layer_norm:
            self.norm_scale = nn.Parameter(torch.ones_like(self.bias))
            self.norm_bias = nn.Parameter(torch.zeros_like(self.bias))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        h = self.affine(x)
        scale, shift = self.norm_scale, self.norm_bias
        if scale is not None and shift is not None:
            if scale.ndim == 1:  # one kernel; of a stack every member has a scale of its own
                h = torch.layer_norm(h, h.shape[-1:], scale, shift)
            else:
                h = torch.layer_norm(h, h.shape[-1:]) * scale + shift
        h = self.activation(h)
        if noise is not None:
            h = h * (noise >= self.dropout) / (1.0 - self.dropout)
        return x + h if self.residual else h
