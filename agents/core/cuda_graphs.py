"""Losses as CUDA graphs: on a GPU a small network's update is mostly the launching of kernels.

A loss and its gradient are recorded once for each set of shapes and then replayed with one launch
each. What is replayed does the same arithmetic on the same weights; only where it is kept differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Outputs = tuple[dict[str, Tensor], dict[str, Tensor]]
"""A loss's terms and aux."""


class CudaGraphs:
    """The losses of one learner, recorded as they are met.

    What a loss gave out lies in memory that its next replay overwrites. A loss reads nothing but
    its inputs, weights and buffers, as every loss must; one whose inputs are other than tensors and
    None is evaluated as it is.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self._recorded: dict[Any, Callable[..., Any]] = {}

    def __call__(self, loss: Callable[..., Outputs], inputs: tuple[Any, ...]) -> Outputs:
        leaves, form = pytree.tree_flatten(inputs)
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        if len(tensors) + sum(leaf is None for leaf in leaves) < len(leaves):
            return loss(*inputs)
        shapes = tuple(None if leaf is None else (leaf.shape, leaf.dtype) for leaf in leaves)
        key = loss, form, shapes
        if key not in self._recorded:
            kept = tuple(tensor.clone() for tensor in tensors)  # its inputs are copied to there
            call = _OfTensors(self.modules, loss, leaves, form)
            self._recorded[key] = torch.cuda.make_graphed_callables(
                call, kept, allow_unused_input=True
            )
        outputs: Outputs = self._recorded[key](*tensors)
        return outputs


class _OfTensors(nn.Module):
    """A loss as a module of its tensors alone, which holds the weights it is differentiated by."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        loss: Callable[..., Outputs],
        leaves: list[Any],
        form: pytree.TreeSpec,
    ) -> None:
        super().__init__()
        self.modules_by_name = nn.ModuleDict(modules)
        self.loss = loss
        self.given = [leaf is not None for leaf in leaves]
        self.form = form

    def forward(self, *tensors: Tensor) -> Outputs:
        rest = iter(tensors)
        leaves = [next(rest) if given else None for given in self.given]
        return self.loss(*pytree.tree_unflatten(leaves, self.form))
