"""What a trunk is made of: dense layers with normalisation, activation, dropout and residual.

Before them, where observations are images, convolutions.

A layer may be a *stack* of E independent members (the separate trunks of an actor and a critic,
an ensemble of critics). A stack is one batched product instead of E small ones: on a CPU the
forward and backward pass through two 64-wide trunks takes half the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.core.initialization import Init, initialize
from agents.core.spaces import Image

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
    """Dense, layer normalisation, activation, dropout and a skip connection as configured.

    With normalisation dropout comes before it (Hiraoka et al. 2022). It draws nothing itself: the
    uniform noise comes in as an input, so that a loss stays a pure function. Without noise, as in
    acting and evaluation, nothing is dropped. A noisy layer has no dropout, and `noise` is what
    `Dense` says.
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
        scale, shift = self.norm_scale, self.norm_bias
        if scale is None or shift is None:
            h = self._dropped(self.activation(h), noise)
        else:
            h = self._dropped(h, noise)
            if scale.ndim == 1:  # one kernel; of a stack every member has a scale of its own
                h = torch.layer_norm(h, h.shape[-1:], scale, shift)
            else:
                h = torch.layer_norm(h, h.shape[-1:]) * scale + shift
            h = self.activation(h)
        return x + h if self.residual else h

    def _dropped(self, h: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None or not self.dropout:
            return h
        return h * (noise >= self.dropout) / (1.0 - self.dropout)


class ConvLayer(nn.Module):
    """Convolution, then layer normalisation and activation as configured.

    The images of E members lie side by side, `(B, E C, H, W)`, so that a stack is one grouped
    convolution; with `groups=1` all members read the same `(B, C, H, W)`. The normalisation is over
    each member's whole image, with a scale and a bias for each channel (Wu & He 2018, one group).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        names: tuple[str, ...],
        init: Init,
        gain: float,
        generator: torch.Generator,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        activation: str | None = None,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.layer_names = names
        self.stride, self.padding, self.groups = stride, padding, groups
        self.activation = ACTIVATIONS[activation] if activation is not None else None
        stack = (len(names),) if len(names) > 1 else ()
        self.weight = nn.Parameter(torch.empty(*stack, outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(*stack, outputs))
        initialize(self.weight, init, gain, generator)
        self.norm_scale = self.norm_bias = None
        if layer_norm:
            self.norm_scale = nn.Parameter(torch.ones_like(self.bias))
            self.norm_bias = nn.Parameter(torch.zeros_like(self.bias))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(0, -4)  # (E out, in, k, k)
        bias = self.bias.flatten()
        h = F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)
        if self.norm_scale is not None and self.norm_bias is not None:
            scale, shift = self.norm_scale.flatten(), self.norm_bias.flatten()
            h = F.group_norm(h, len(self.layer_names)) * scale[:, None, None] + shift[:, None, None]
        return h if self.activation is None else self.activation(h)


class ResidualStage(nn.Module):
    """A convolution, max-pooling to half the size, and two residual blocks (Espeholt et al. 2018).

    `(B, E C, H, W)` to `(B, E outputs, ⌈H/2⌉, ⌈W/2⌉)`. A block is x + conv(a(conv(a(x)))), with the
    activation a.
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
        groups: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]

        def layer(part: str, inputs: int, groups: int, activation: str | None) -> ConvLayer:
            own = tuple(f"{name}.{part}" for name in names)
            return ConvLayer(
                inputs,
                outputs,
                3,
                own,
                init,
                gain,
                generator,
                padding=1,
                groups=groups,
                activation=activation,
            )

        members = len(names)
        self.conv = layer("conv", inputs, groups, None)
        self.blocks = nn.ModuleList()  # the two layers of the first, then those of the second
        for i in range(2):
            self.blocks.append(layer(f"block.{i}.inner", outputs, members, activation))
            self.blocks.append(layer(f"block.{i}.outer", outputs, members, None))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 3, stride=2, padding=1)
        for inner, outer in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = x + outer(inner(self.activation(x)))
        return x


class Kernels(NamedTuple):
    """One layer of a plain convolutional trunk."""

    channels: int
    size: int
    stride: int


CONVOLUTIONS: dict[str, tuple[Kernels | int, ...]] = {
    "nature": (Kernels(32, 8, 4), Kernels(64, 4, 2), Kernels(64, 3, 1)),  # Mnih et al. 2015
    "minatar": (Kernels(16, 3, 1),),  # Young & Tian 2019
    "impala": (16, 32, 32),  # Espeholt et al. 2018
}
"""Plain convolutions one after the other, or the channels of residual stages."""
SMALLEST = {"nature": 36, "minatar": 3, "impala": 1}
"""The least side of an image for which something is left after the last layer."""


class ConvTrunk(nn.Module):
    """Images as flat features: `(..., size)` to `(..., out_features)`.

    A stack of E members gives `(E, B, out_features)` for observations `(B, size)`.
    """

    def __init__(
        self,
        kind: str,
        image: Image,
        names: tuple[str, ...],
        init: Init,
        gain: float,
        generator: torch.Generator,
        *,
        activation: str,
        layer_norm: bool,
    ) -> None:
        super().__init__()
        self.image = image
        self.members = len(names)
        self.layers = nn.Sequential()
        self.activation = ACTIVATIONS[activation] if kind == "impala" else None
        channels, height, width, _ = image
        for depth, spec in enumerate(CONVOLUTIONS[kind]):
            own = tuple(f"{name}.{depth}" for name in names)
            groups = self.members if depth else 1  # the members read one image
            layer: nn.Module
            if isinstance(spec, Kernels):
                outputs, size, stride = spec
                layer = ConvLayer(
                    channels,
                    outputs,
                    size,
                    own,
                    init,
                    gain,
                    generator,
                    stride=stride,
                    groups=groups,
                    activation=activation,
                    layer_norm=layer_norm,
                )
                height, width = ((side - size) // stride + 1 for side in (height, width))
            else:
                outputs = spec
                layer = ResidualStage(
                    channels,
                    outputs,
                    own,
                    init,
                    gain,
                    generator,
                    groups=groups,
                    activation=activation,
                )
                height, width = ((side + 1) // 2 for side in (height, width))
            self.layers.append(layer)
            channels = outputs
        self.out_features = channels * height * width

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[:-1]
        h = self.layers(self.image.unflatten(x.reshape(-1, x.shape[-1])))  # (B, E C, H, W)
        if self.activation is not None:  # a residual stage ends in a sum
            h = self.activation(h)
        if self.members > 1:
            return h.reshape(-1, self.members, self.out_features).movedim(1, 0)
        return h.reshape(*lead, self.out_features)
