"""GradientStatistics: what the learner saw, layer by layer.

A record is made every `stats_every` updates and read from the device in one transfer. On a CPU it
is made by NumPy: what is small takes PyTorch longer to begin with than to do.
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

Array = Any
"""A tensor of a GPU or an array of NumPy's: of what they have in common, only that is used."""
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
    averaged: int
    """Steps since the optimiser's moments were 0."""
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
        self._sizes = sizes
        self._starts = np.array([segment.start for segment in flat.segments])
        self._activations = list(_activations(modules, self.layers))
        self._activity: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self._kept: tuple[Tensor, Tensor, Tensor | None]
        """Of a record in the making: the gradient, the weights and the gradient before."""
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
        """Keep the unclipped gradient and the weights before the step."""
        self._kept = gradient.clone(), self.flat.vector.clone(), self.previous
        self.previous = None

    def after(
        self,
        moments: Mapping[str, Tensor],
        grad_norm: float,
        aux: Mapping[str, Tensor],
    ) -> Record:
        """Finish the record with the step that was taken."""
        gradient, old, last = self._kept
        # The norm of the signs counts the entries that are not 0.
        rows = _array(torch.stack([gradient, old, gradient.sign(), self.flat.vector - old]))
        previous = rows[0] * math.nan if last is None else _array(last)
        scalars = [rows[0].dot(previous), (previous * previous).sum() ** 0.5]
        if "exp_avg" in moments:
            first, second = _array(moments["exp_avg"]), _array(moments["exp_avg_sq"])
            scalars += [first.dot(first), second.sum()]
        samples, errors = _samples(aux)
        activity = [self._activity.get(layers, ()) for layers, _ in self._activations]
        seen = [_array(part) for parts in activity for part in parts]
        numbers = _joined([*samples, self._norms(rows)], scalars, seen)
        start = sum(map(len, samples))
        spread = _spread(numbers[:errors], numbers[errors:start])
        units = tuple(len(parts[0]) if parts else 0 for parts in activity)
        averaged = int(moments["step"]) if "step" in moments else 0
        return Record(numbers[start:], spread, grad_norm, averaged, units)

    def _norms(self, rows: Array) -> Array:
        """The norm of each segment of each row."""
        if isinstance(rows, Tensor):
            pieces = [piece for row in rows for piece in row.split(self._sizes)]
            return torch.stack(torch._foreach_norm(pieces))
        return np.sqrt(np.add.reduceat(rows * rows, self._starts, axis=1)).ravel()

    def summary(self, records: Sequence[Record]) -> Statistics:
        """The means over some records."""
        return self.summaries([records])[0]

    def summaries(self, groups: Sequence[Sequence[Record]]) -> list[Statistics]:
        """The means over each group of records; many groups take little longer than one."""
        # They are lists where they come from a file.
        records = [Record(*record) for group in groups for record in group]
        counts = np.array([len(group) for group in groups])
        first = np.cumsum(counts) - counts
        sums = len(records[0].numbers) - sum(
            units + (units > 0) * len(layers)
            for units, (layers, _) in zip(records[0].units, self._activations, strict=True)
        )
        table = np.array([record.numbers[:sums] for record in records], np.float64)
        grad_norm = np.array([record.grad_norm for record in records])
        samples = np.array([record.samples for record in records])
        segments = len(self._starts)
        norms = table[:, : 4 * segments].reshape(-1, segments)
        squares = (norms * norms @ self._owned).reshape(len(records), 4, -1).swapaxes(0, 1)
        gradient, weight, _, change = np.sqrt(squares)  # (records, layers)
        along, previous, *moments = table[:, 4 * segments :].T
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = np.minimum(1.0, self.limit / grad_norm)[:, None]
            columns = {
                "grad_norm": gradient,
                "clipped_grad_norm": kept * gradient,
                "weight_norm": weight,
                "update_ratio": change / weight,
                "zero_fraction": 1.0 - np.rint(squares[2]) / self._elements,
            }
            whole = np.full((len(records), 4), math.nan)
            whole[:, 0] = along / (grad_norm * previous)
            if moments:
                averaged = np.array([record.averaged for record in records])
                signal = moments[0] / (1 - self.betas[0] ** averaged) ** 2
                whole[:, 1] = signal / (moments[1] / (1 - self.betas[1] ** averaged))
            whole[:, 2:] = samples[:, :2]
            seen = _means(self._units(records, sums), first, 1)
            wholes = _means(whole, first, 0).tolist()
        means = np.add.reduceat(np.array([*columns.values()]), first, 1) / counts[:, None]
        names = (*columns, "dormant", "feature_norm")
        layers = np.concatenate([means, seen]).swapaxes(0, 1).tolist()  # of each group
        largest = np.maximum.reduceat(samples[:, 2:], first, 0).tolist()
        return [
            Statistics(
                self.layers,
                dict(zip(names, values, strict=True)),
                cosine,
                snr,
                dict(zip(SAMPLES, (*errors, *most), strict=True)),
            )
            for values, (cosine, snr, *errors), most in zip(layers, wholes, largest, strict=True)
        ]

    def _units(self, records: Sequence[Record], start: int) -> np.ndarray:
        """Shares of dormant units and feature norms, `(2, records, layers)`, from the numbers
        behind the sums; nan for a layer that is not watched or was not run."""
        found = np.full((2, len(records), len(self.layers)), math.nan)
        at = [start] * len(records)
        for i, (layers, _) in enumerate(self._activations):
            members, which, rows = len(layers), [], []
            for k, record in enumerate(records):
                if units := record.units[i]:
                    which.append(k)
                    rows.append(record.numbers[at[k] : at[k] + units + members])
                    at[k] += units + members
            if rows:
                table = np.array(rows, np.float64)
                activity = table[:, :-members].reshape(len(rows), members, -1)
                size = activity.shape[-1]
                asleep = activity <= activity.sum(-1, keepdims=True) * (DORMANT / size)
                where = np.ix_(which, [self.layers.index(layer) for layer in layers])
                found[0][where], found[1][where] = asleep.sum(-1) / size, table[:, -members:]
        return found


def _array(tensor: Tensor) -> Array:
    """Numbers as what works on them quickest: NumPy's array on a CPU, the tensor elsewhere."""
    return tensor.float().numpy() if tensor.device.type == "cpu" else tensor


def _joined(first: list[Array], scalars: list[Array], last: list[Array]) -> np.ndarray:
    """All of them in a row, on the host."""
    if isinstance(first[0], Tensor):
        return torch.cat([*first, torch.stack(scalars), *last]).cpu().numpy()
    return np.concatenate([*first, scalars, *last], dtype=np.float32)


def _means(values: np.ndarray, first: np.ndarray, axis: int) -> np.ndarray:
    """Over each group of records, those that have none (nan) left out."""
    known = values == values
    total = np.add.reduceat(np.where(known, values, 0.0), first, axis)
    means: np.ndarray = total / np.add.reduceat(known, first, axis, dtype=np.int64)
    return means


def _samples(aux: Mapping[str, Tensor]) -> tuple[list[Array], int]:
    """The critic's errors, then its predictions, as a loss tells them per sample; how many errors.

    They are `prediction` and `target`, or `td_error`, each of any shape and each left out at will.
    """
    prediction, error = aux.get("prediction"), aux.get("td_error")
    if error is None and prediction is not None and "target" in aux:
        error = aux["target"] - prediction
    found = [_array(x).reshape(-1) for x in (error, prediction) if x is not None]
    return found, 0 if error is None else error.numel()


def _spread(error: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """What `SAMPLES` names, of one batch. The 99th percentile is one of the errors."""
    spread = [math.nan] * len(SAMPLES)
    if count := len(error):
        size = np.sort(np.abs(error))
        spread[:3] = size.sum() / count, size[-(-99 * count // 100) - 1], size[-1]
    if len(prediction):
        spread[3] = np.abs(prediction).max()
    return np.array(spread)


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
