"""GradientStatistics: what the learner saw, layer by layer.

A record is made every `stats_every` updates, of everything at once, and read from the device in
one transfer. Layer norms are taken over views of the flat vectors with one grouped kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.core.blocks import ConvLayer, HiddenLayer
from agents.core.parameters import FlatParameters

DORMANT = 0.025
"""A unit is dormant up to this share of its layer's mean |activation| (Sokar et al., 2023)."""


@dataclass(frozen=True)
class Statistics:
    """Means over some records. Columns hold a value for each of `layers`, nan where it has none."""

    layers: tuple[str, ...]
    columns: dict[str, list[float]]
    """grad_norm (before clipping), clipped_grad_norm (after it), weight_norm, update_ratio
    (‖Δw‖/‖w‖), zero_fraction (share of gradient entries that are exactly 0), dormant (share of
    dormant units), feature_norm (‖h‖ of what the layer gives out, mean over the batch)."""
    cosine: float
    """Between a gradient and the one before it; persistently negative means oscillation."""
    snr: float
    """Adam's signal to noise, ‖m̂‖²/Σv̂; pure noise gives (1-β₁)/(1+β₁), 0.053 for β₁ = 0.9."""
    samples: dict[str, float]
    """td_error_mean, td_error_p99, td_error_max of |target - prediction| over a batch, value_max of
    |prediction|; a maximum is that of all records. nan where the loss tells nothing of them."""


class Record(NamedTuple):
    """Raw numbers of one update; `summary` reads them."""

    numbers: np.ndarray
    """Sums over each segment and, behind them, activity and feature norms of each layer."""
    samples: np.ndarray
    """What `Statistics.samples` names."""
    grad_norm: float
    update: int
    units: tuple[int, ...]
    """How many numbers each watched module has left; 0 where it was not run."""


SAMPLES = ("td_error_mean", "td_error_p99", "td_error_max", "value_max")


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
        limit: float | None = None,
    ) -> None:
        self.flat = flat
        self.every = every
        self.betas = betas
        self.limit = math.inf if limit is None else limit
        """Longer gradients are clipped to it."""
        self.previous: Tensor | None = None
        self.layers = tuple(dict.fromkeys(segment.layer for segment in flat.segments))
        sizes = [segment.stop - segment.start for segment in flat.segments]
        owners = [self.layers.index(segment.layer) for segment in flat.segments]
        self._owned = np.eye(len(self.layers))[owners]  # (segments, layers)
        self._elements = sizes @ self._owned
        self._activations = list(_activations(modules, self.layers))
        self._activity: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self._taken: list[Tensor] = []
        # Gradient, old weights, signs of the gradient and change, with their views by segment.
        self._work = flat.vector.new_empty(4, len(flat.vector))
        self._views = [view for row in self._work for view in row.split(sizes)]
        self._starts = [segment.start for segment in flat.segments]
        self._squares = np.empty(self._work.shape) if self._work.device.type == "cpu" else None
        # In place of a module's own forward: what hooks do takes twice the time of a small layer.
        self._watched = [
            (module, self._observer(layers, module)) for layers, module in self._activations
        ]

    def due(self, update: int) -> bool:
        """Whether this update (counted from 1) is one to record."""
        return self.every > 0 and update % self.every == 0

    def watch(self) -> None:
        """Look at the activations of the forward passes until `unwatch` is called."""
        self._activity.clear()
        for module, forward in self._watched:
            module.__dict__["forward"] = forward

    def unwatch(self) -> None:
        """Stop looking at activations."""
        for module, _ in self._watched:
            module.__dict__.pop("forward", None)

    def _observer(self, layers: tuple[str, ...], module: nn.Module) -> Callable[..., Tensor]:
        members, plain = len(layers), module.forward
        residual = getattr(module, "residual", False)

        def forward(x: Tensor, *more: Any) -> Tensor:
            output: Tensor = plain(x, *more)
            if layers in self._activity:  # the first pass of a loss is the one on its batch
                return output
            given = h = output.detach()
            if residual:
                h = h - x.detach()  # what the layer itself adds
            if h.ndim == 4:  # images: the channels are the units, (B, E C, H, W)
                activity = h.abs().sum((0, 2, 3))
                given = given.reshape(len(h), members, -1).transpose(0, 1)
            else:
                activity = h.reshape(members, -1, h.shape[-1]).abs().sum(1).flatten()
                given = given.reshape(members, -1, given.shape[-1])
            norms = torch.linalg.vector_norm(given, dim=-1).mean(1)
            self._activity[layers] = activity, norms  # Σ|h| (E H), mean ‖h‖ (E)
            return output

        return forward

    def remember(self, gradient: Tensor) -> None:
        """Keep the gradient of the update before a record, for its cosine."""
        self.previous = gradient.clone()

    def before(self, gradient: Tensor) -> None:
        """Take what depends on the unclipped gradient and on the weights before the step."""
        kept, old, signs, _ = self._work
        kept.copy_(gradient)
        old.copy_(self.flat.vector)
        torch.sign(gradient, out=signs)
        previous = (
            kept.new_full((len(kept),), torch.nan) if self.previous is None else self.previous
        )
        self._taken = [gradient.dot(previous), torch.linalg.vector_norm(previous)]
        self.previous = None

    def after(
        self,
        moments: Mapping[str, Tensor],
        grad_norm: float,
        update: int,
        aux: Mapping[str, Tensor],
    ) -> Record:
        """Finish the record with the step that was taken. One transfer from the device."""
        _, old, _, change = self._work
        torch.sub(self.flat.vector, old, out=change)
        scalars = self._taken
        if "exp_avg" in moments:
            scalars += moments["exp_avg"].dot(moments["exp_avg"]), moments["exp_avg_sq"].sum()
        samples, errors = _samples(aux)
        parts = [*samples, self._norms(), torch.stack(scalars)]
        units = []
        for layers, _ in self._activations:
            activity = self._activity.get(layers, ())
            units.append(len(activity[0]) if activity else 0)
            parts.extend(activity)
        numbers = torch.cat(parts).cpu().numpy()
        start = sum(map(len, samples))
        spread = _spread(numbers[:errors], numbers[errors:start])
        return Record(numbers[start:], spread, grad_norm, update, tuple(units))

    def _norms(self) -> Tensor:
        """The norm of each segment of each row of the work space; that of signs counts them."""
        if self._squares is None:
            return torch.stack(torch._foreach_norm(self._views))
        rows = self._work.numpy()  # a tenth of what so many small operations of torch take
        np.multiply(rows, rows, out=self._squares)
        norms = np.sqrt(np.add.reduceat(self._squares, self._starts, axis=1))
        return torch.from_numpy(norms.astype(np.float32).ravel())

    def summary(self, records: Sequence[Record]) -> Statistics:
        """The means over some records."""
        records = [Record(*record) for record in records]  # lists, where they come from a file
        sums = len(records[0].numbers) - sum(
            units + (units > 0) * len(layers)
            for units, (layers, _) in zip(records[0].units, self._activations, strict=True)
        )
        table = np.array([record.numbers[:sums] for record in records], np.float64)
        grad_norm = np.array([record.grad_norm for record in records])
        update = np.array([record.update for record in records])
        norms, rest = np.split(table, [4 * len(self._starts)], axis=1)
        gradient, weight, signs, change = np.split(norms, 4, axis=1)
        along, previous, *moments = rest.T
        with np.errstate(divide="ignore", invalid="ignore"):
            weight_norm = np.sqrt(weight**2 @ self._owned)
            gradient_norm = np.sqrt(gradient**2 @ self._owned)
            kept = np.minimum(1.0, self.limit / grad_norm)[:, None]
            columns = {
                "grad_norm": gradient_norm,
                "clipped_grad_norm": kept * gradient_norm,
                "weight_norm": weight_norm,
                "update_ratio": np.sqrt(change**2 @ self._owned) / weight_norm,
                "zero_fraction": 1.0 - np.rint(signs**2) @ self._owned / self._elements,
            }
            snr = math.nan
            if moments:
                first, second = moments
                signal = first / (1 - self.betas[0] ** update) ** 2
                snr = float(np.mean(signal / (second / (1 - self.betas[1] ** update))))
            cosine = float(np.mean(along / (grad_norm * previous)))
        means = {name: values.mean(0).tolist() for name, values in columns.items()}
        samples = np.array([record.samples for record in records])
        spread = (*samples[:, :2].mean(0).tolist(), *samples[:, 2:].max(0).tolist())
        return Statistics(
            self.layers,
            means | self._units(records, sums),
            cosine,
            snr,
            dict(zip(SAMPLES, spread, strict=True)),
        )

    def _units(self, records: Sequence[Record], start: int) -> dict[str, list[float]]:
        """What is known of the units of each layer, from the numbers behind the sums."""
        dormant = dict.fromkeys(self.layers, math.nan)
        norms = dict.fromkeys(self.layers, math.nan)
        at = [start] * len(records)
        for i, (layers, _) in enumerate(self._activations):
            rows, members = [], len(layers)
            for k, record in enumerate(records):
                if units := record.units[i]:
                    rows.append(record.numbers[at[k] : at[k] + units + members])
                    at[k] += units + members
            if rows:
                table = np.array(rows, np.float64)
                activity = table[:, :-members].reshape(len(rows), members, -1)
                asleep = activity <= DORMANT * activity.mean(-1, keepdims=True)
                dormant |= zip(layers, asleep.mean((0, -1)).tolist(), strict=True)
                norms |= zip(layers, table[:, -members:].mean(0).tolist(), strict=True)
        return {"dormant": list(dormant.values()), "feature_norm": list(norms.values())}


def _samples(aux: Mapping[str, Tensor]) -> tuple[list[Tensor], int]:
    """The critic's errors, then its predictions, as a loss tells them per sample; how many errors.

    They are `prediction` and `target`, or `td_error`, each of any shape and each left out at will.
    """
    prediction, error = aux.get("prediction"), aux.get("td_error")
    if error is None and prediction is not None and "target" in aux:
        error = aux["target"] - prediction
    found = [x.reshape(-1) for x in (error, prediction) if x is not None]
    return found, 0 if error is None else error.numel()


def _spread(error: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """What `SAMPLES` names, of one batch. The 99th percentile is one of the errors."""
    found = np.full(len(SAMPLES), math.nan)
    if count := len(error):
        size = np.abs(error)
        rank = -(-99 * count // 100) - 1
        found[:3] = size.mean(), np.partition(size, rank)[rank], size.max()
    if len(prediction):
        found[3] = max(prediction.max(), -prediction.min())
    return found


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
