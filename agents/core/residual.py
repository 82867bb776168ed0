"""The residual, layer-normalised trunk of SimBa.

Lee et al. 2024, "SimBa: simplicity bias for scaling up parameters in deep reinforcement learning":
a linear projection, blocks x + W₂ a(W₁ LN(x)) that widen fourfold inside, and a layer normalisation
at the end. What is added up passes every block untouched, so that a wide and deep network begins as
a nearly linear one. Nauman et al. 2024 (BRO) found the same of a similar block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.core.blocks import Dense, HiddenLayer
from agents.core.initialization import Init

EXPANSION = 4
"""Units inside a block for each unit outside."""


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) of `(..., F)`, or of a stack `(E, B, F)`."""

    def __init__(self, features: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.layer_names = names
        shape = (features,) if len(names) == 1 else (len(names), 1, features)
        self.norm_scale = nn.Parameter(torch.ones(shape))
        self.norm_bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.norm_scale, self.norm_bias
        if scale.ndim == 1:
            return torch.layer_norm(x, x.shape[-1:], scale, shift)
        return torch.layer_norm(x, x.shape[-1:]) * scale + shift


class ResidualBlock(nn.Module):
    """x + W₂ a(W₁ LN(x)), with a the activation, `(..., F)` or a stack `(E, B, F)`.

    Dropout is of what the block adds; its noise comes in, as `HiddenLayer` says.
    """

    def __init__(
        self,
        features: int,
        names: tuple[str, ...],
        init: Init,
        gain: float,
        generator: torch.Generator,
        *,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        inner = tuple(f"{name}.inner" for name in names)
        outer = tuple(f"{name}.outer" for name in names)
        wide = EXPANSION * features
        self.norm = LayerNorm(features, inner)
        self.inner = HiddenLayer(
            features,
            wide,
            inner,
            init,
            gain,
            generator,
            activation=activation,
            layer_norm=False,
            residual=False,
            dropout=0.0,
            noisy=False,
        )
        self.outer = Dense(wide, features, outer, init, gain, generator)
        self.dropout = dropout

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        h = self.outer(self.inner(self.norm(x)))
        if noise is not None:
            h = h * (noise >= self.dropout) / (1.0 - self.dropout)
        return x + h
