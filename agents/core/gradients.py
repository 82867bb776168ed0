"""GradientStatistics: what the learner saw, layer by layer.

A record is made every `stats_every` updates, of everything at once, and read from the device in
one transfer. Layer norms are taken over views of the flat vectors with one grouped kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from agents.core.blocks import ConvLayer, HiddenLayer
from agents.core.parameters import FlatParameters

DORMANT = 0.025
"""A unit is dormant up to this share of its layer's mean |activation| (Sokar et al., 2023)."""


@dataclass(frozen=True)
class Statistics:
    """Means over some records. Columns hold a value for each of `layers`, nan where it has none."""

    layers: tuple[str, ...]
    columns: dict[str, list[float]]
    """grad_norm (before clipping), weight_norm, update_ratio (‖Δw‖/‖w‖), zero_fraction (share of
    gradient entries that are exactly 0), dormant (share of dormant units)."""
    cosine: float
    """Between a gradient and the one before it; persistently negative means oscillation."""
    snr: float
    """Adam's signal to noise, ‖m̂‖²/Σv̂; pure noise gives (1-β₁)/(1+β₁), 0.053 for β₁ = 0.9."""


Record = tuple[np.ndarray, float, int]
"""Raw numbers of one update, its gradient norm and its count; `summary` reads them."""


class GradientStatistics:
    """Takes the statistics of one learner's updates.

    In order, when `due`: `watch` before the loss is evaluated, `before` the optimiser's step with
    the gradient still unclipped, `after` it. `remember` keeps the gradient just before a record.
    To stay within its budget a record holds only sums; `summary` makes the statistics of many.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        flat: FlatParameters,
        every: int,
        betas: tuple[float, float],
    ) -> None:
        self.flat = flat
        self.every = every
        self.betas = betas
        self.previous: Tensor | None = None
        self.layers = tuple(dict.fromkeys(segment.layer for segment in flat.segments))
        sizes = [segment.stop - segment.start for segment in flat.segments]
        owners = [self.layers.index(segment.layer) for segment in flat.segments]
        self._owned = np.eye(len(self.layers))[owners]  # (segments, layers)
        self._elements = sizes @ self._owned
        self._activations = list(_activations(modules, self.layers))
        self._hooks: list[RemovableHandle] = []
        self._activity: dict[tuple[str, ...], Tensor] = {}
        self._taken: list[Tensor] = []
        # Work space with its views by segment, made once.
        self._old = torch.empty_like(flat.vector)
        self._signs = torch.empty_like(flat.vector)
        self._views = {
            id(v): v.split(sizes) for v in (flat.vector, flat.gradient, self._old, self._signs)
        }
        self._sizes = sizes

    def due(self, update: int) -> bool:
        """Whether this update (counted from 1) is one to record."""
        return self.every > 0 and update % self.every == 0

    def watch(self) -> None:
        """Look at the activations of the forward passes until `unwatch` is called."""
        self._activity.clear()
        for layers, module in self._activations:
            self._hooks.append(module.register_forward_hook(self._observer(layers)))

    def unwatch(self) -> None:
        """Stop looking at activations."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _observer(self, layers: tuple[str, ...]) -> Callable[[nn.Module, Any, Tensor], None]:
        def observe(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if layers in self._activity:  # the first pass of a loss is the one on its batch
                return
            h = output.detach()
            if getattr(module, "residual", False):
                h = h - inputs[0].detach()  # what the layer itself adds
            if h.ndim == 4:  # images: the channels are the units, (B, E C, H, W)
                self._activity[layers] = h.abs().sum((0, 2, 3))
                return
            h = h.reshape(len(layers), -1, h.shape[-1])
            self._activity[layers] = h.abs().sum(1).flatten()  # Σ|h|, (E H)

        return observe

    def remember(self, gradient: Tensor) -> None:
        """Keep the gradient of the update before a record, for its cosine."""
        self.previous = gradient.clone()

    def before(self, gradient: Tensor) -> None:
        """Take what depends on the unclipped gradient and on the weights before the step."""
        self._old.copy_(self.flat.vector)
        torch.sign(gradient, out=self._signs)
        along = gradient.new_tensor(torch.nan)
        if self.previous is not None:
            along = gradient.dot(self.previous) / self.previous.norm()
        self.previous = None
        self._taken = [
            *torch._foreach_norm((*self._split(gradient), *self._split(self._old))),
            *torch._foreach_norm(self._split(self._signs), 1),  # counts the entries that are not 0
            along,
        ]

    def after(self, moments: Mapping[str, Tensor], grad_norm: float, update: int) -> Record:
        """Finish the record with the step that was taken. One transfer from the device."""
        change = torch.sub(self.flat.vector, self._old, out=self._old)
        scalars = [*self._taken, *torch._foreach_norm(self._split(change))]
        if "exp_avg" in moments:
            scalars += moments["exp_avg"].dot(moments["exp_avg"]), moments["exp_avg_sq"].sum()
        numbers = torch.cat([torch.stack(scalars), *self._activity.values()]).cpu().numpy()
        sums, rest = numbers[: len(scalars)], numbers[len(scalars) :]
        dormant = dict.fromkeys(self.layers, math.nan)
        for layers, units in self._activity.items():
            activity, rest = np.split(rest, [units.numel()])
            activity = activity.reshape(len(layers), -1)
            asleep = activity <= DORMANT * activity.mean(-1, keepdims=True)
            dormant |= dict(zip(layers, asleep.mean(-1), strict=True))
        return np.concatenate([list(dormant.values()), sums]), grad_norm, update

    def _split(self, vector: Tensor) -> tuple[Tensor, ...]:
        return self._views.get(id(vector)) or vector.split(self._sizes)

    def summary(self, records: Sequence[Record]) -> Statistics:
        """The means over some records."""
        table = np.array([numbers for numbers, _, _ in records], np.float64)
        grad_norm, update = np.array([record[1:] for record in records], np.float64).T
        dormant, table = np.split(table, [len(self.layers)], axis=1)
        count = len(self._sizes)
        blocks, along = table[:, : 3 * count], table[:, 3 * count]
        change, moments = np.split(table[:, 3 * count + 1 :], [count], axis=1)
        gradient, weight, nonzero = np.split(blocks, 3, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            weight_norm = np.sqrt(weight**2 @ self._owned)
            columns = {
                "grad_norm": np.sqrt(gradient**2 @ self._owned),
                "weight_norm": weight_norm,
                "update_ratio": np.sqrt(change**2 @ self._owned) / weight_norm,
                "zero_fraction": 1.0 - nonzero @ self._owned / self._elements,
                "dormant": dormant,
            }
            snr = math.nan
            if moments.size:
                signal = moments[:, 0] / (1 - self.betas[0] ** update) ** 2
                snr = float(np.mean(signal / (moments[:, 1] / (1 - self.betas[1] ** update))))
            cosine = float(np.mean(along / grad_norm))
        means = {name: values.mean(0).tolist() for name, values in columns.items()}
        return Statistics(self.layers, means, cosine, snr)


_NONLINEARITIES = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)


def _activations(
    modules: Mapping[str, nn.Module], layers: tuple[str, ...]
) -> list[tuple[tuple[str, ...], nn.Module]]:
    """Every module that gives out activations, with the names of the layers they belong to.

    A layer of ours with an activation is one itself; a nonlinearity in a trunk of the user's own
    belongs to the last layer with weights before it.
    """
    found: list[tuple[tuple[str, ...], nn.Module]] = []
    for key, module in modules.items():
        prefix = f"{key}." if len(modules) > 1 else ""
        names: tuple[str, ...] = ()
        for path, part in module.named_modules():
            if any(True for _ in part.parameters(recurse=False)):
                names = tuple(prefix + n for n in getattr(part, "layer_names", (path or key,)))
            active = isinstance(part, (HiddenLayer, *_NONLINEARITIES)) or (
                isinstance(part, ConvLayer) and part.activation is not None
            )
            if active and set(names) & set(layers):
                found.append((names, part))
    return found
