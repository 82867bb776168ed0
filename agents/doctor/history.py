"""What a run recorded, as arrays: the tables, and the series over time that are made of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

Table = dict[str, np.ndarray]
"""Columns by name, all of one length: text or float64, nan where a cell is empty."""


@dataclass(frozen=True)
class Layers:
    """What one learner recorded of its layers: matrices `(layers, records)`."""

    learner: str
    names: list[str]
    """In forward order, those that belong together side by side."""
    at: np.ndarray
    """Where each record is drawn, in environment steps."""
    columns: dict[str, np.ndarray]


def positions(own: Table) -> np.ndarray:
    """Where the rows of a learner in updates.csv are drawn, in environment steps.

    Rows that share a step, the many updates after one rollout, are spread over the steps since the
    row before them, each as long as the updates it stands for.
    """
    tried = np.maximum(np.diff(own["update"], prepend=0) + own["skipped"], 1)
    steps, group = np.unique(own["step"], return_inverse=True)
    before = np.append(0, steps)[group]
    totals = np.bincount(group, tried)
    share = (np.cumsum(tried) - np.append(0, np.cumsum(totals))[group]) / totals[group]
    return before + (own["step"] - before) * share


def layers_of(gradients: Table, updates: Table) -> Iterator[Layers]:
    """gradients.csv by learner, each with a row a layer and a column a record."""
    for learner in dict.fromkeys(gradients["learner"]):
        rows = rows_of(updates, learner)
        keys = zip(rows["step"], rows["update"], strict=True)
        # Of rows that share both only the first can have a record: the others made no update.
        at = dict(reversed([*zip(keys, positions(rows), strict=True)]))
        own = rows_of(gradients, learner)
        found = [at.get(key, np.nan) for key in zip(own["step"], own["update"], strict=True)]
        written = np.isfinite(found)  # a run that goes on may have its update's row still to write
        own = {name: column[written] for name, column in own.items()}
        # Recorded in forward order, but the trunks of a policy and a value layer by layer in turn:
        # a stable sort by the first part of the name puts each one's layers together again.
        layers = list(dict.fromkeys(own["layer"]))
        parts = list(dict.fromkeys(part_of(name) for name in layers))
        names = sorted(layers, key=lambda name: parts.index(part_of(name)))
        records, column = np.unique(np.array(found)[written], return_inverse=True)
        row = np.array([names.index(name) for name in own["layer"]], int)
        columns: dict[str, np.ndarray] = {}
        for name in own.keys() - {"step", "update", "learner", "layer"}:
            columns[name] = np.full((len(names), len(records)), np.nan)
            columns[name][row, column] = own[name]
        yield Layers(learner, names, records, columns)


def rows_of(table: Table, learner: str) -> Table:
    """The rows of one learner."""
    return {name: column[table["learner"] == learner] for name, column in table.items()}


def part_of(layer: str) -> str:
    """The part of a network that a layer belongs to, by its name: policy, value, trunk…"""
    return layer.split(".", 1)[0]


class Series(NamedTuple):
    """A statistic over time, `(n,)` each, without what was not recorded."""

    at: np.ndarray
    """Environment steps."""
    values: np.ndarray

    def __bool__(self) -> bool:
        return len(self.values) > 0

    def late(self) -> np.ndarray:
        """The values of the last half of the run so far, which is the window most rules judge."""
        return self.values[len(self.values) // 2 :]

    def early(self) -> np.ndarray:
        """The values of the first fifth."""
        return self.values[: -(-len(self.values) // 5)]

    def middle(self) -> float:
        """The median of the late values; nan where there are none."""
        return float(np.median(self.late())) if self else math.nan

    def began(self, wrong: np.ndarray) -> float:
        """The step from which on at least four fifths of the values are `wrong`."""
        share = np.cumsum(wrong[::-1])[::-1] / np.arange(len(wrong), 0, -1)
        found = np.flatnonzero(wrong & (share >= 0.8))
        return float(self.at[found[0]]) if len(found) else float(self.at[-1])


NOTHING = Series(np.empty(0), np.empty(0))
OVER_LAYERS: dict[str, Any] = {
    "update_ratio": np.nanmedian,
    "dormant": np.nanmax,
    "zero_fraction": np.nanmax,
    "feature_norm": np.nanmax,
    "weight_norm": np.nanmax,
}
"""What of a column of gradients.csv is made one series for a learner."""


@dataclass(frozen=True)
class History:
    """What a run recorded so far. A table is empty where there is nothing yet."""

    config: Mapping[str, Any]
    """The whole of config.json."""
    episodes: Table = field(default_factory=dict)
    updates: Table = field(default_factory=dict)
    gradients: Table = field(default_factory=dict)
    evaluations: Table = field(default_factory=dict)

    @cached_property
    def learners(self) -> tuple[str, ...]:
        """The learners that made an update, in the order in which they appear."""
        return tuple(dict.fromkeys(self.updates.get("learner", ())))

    @cached_property
    def layers(self) -> dict[str, Layers]:
        """Each learner's layers over time."""
        if not (self.gradients and self.updates):
            return {}
        return {layers.learner: layers for layers in layers_of(self.gradients, self.updates)}

    @cached_property
    def rows(self) -> dict[str, tuple[np.ndarray, Table]]:
        """Each learner's rows of updates.csv, and where they lie in environment steps."""
        tables = {learner: rows_of(self.updates, learner) for learner in self.learners}
        return {learner: (positions(own), own) for learner, own in tables.items()}

    @property
    def steps(self) -> float:
        """Environment steps so far."""
        tables = (self.updates, self.episodes, self.evaluations)
        return max((float(t["step"][-1]) for t in tables if t), default=0.0)

    def setting(self, name: str, missing: Any = None) -> Any:
        """A setting of the agent by its path, such as optim.lr; `missing` where it has none."""
        value: Any = self.config.get("config", {})
        for key in name.split("."):
            if not (isinstance(value, Mapping) and key in value):
                return missing
            value = value[key]
        return value

    def path(self, learner: str, name: str) -> str:
        """Where a learner has a setting: a critic may have an optim and a network of its own."""
        own = f"{learner}_{name}"
        return own if own.partition(".")[0] in self.config.get("config", {}) else name

    def names(self, learner: str) -> list[str]:
        """Every statistic of a learner that `series` knows and that was recorded."""
        columns = self.rows[learner][1].keys() - {"step", "update", "learner", "nonfinite"}
        columns -= {"clipped", "skipped", "grad_clip_fraction"}
        named = [name for name in self.rows[learner][1] if name in columns]
        known = [*named, "clipped_share", "skipped_share", *OVER_LAYERS]
        return [name for name in dict.fromkeys(known) if self.series(name, learner)]

    def series(self, name: str, learner: str) -> Series:
        """A statistic of a learner over time, empty where it was not recorded."""
        if name in OVER_LAYERS:
            layers = self.layers.get(learner)
            if layers is None or name not in layers.columns:
                return NOTHING
            known = np.isfinite(layers.columns[name])
            where = known.any(0)
            if not where.any():
                return NOTHING
            return Series(
                layers.at[where], OVER_LAYERS[name](layers.columns[name][:, where], axis=0)
            )
        if learner not in self.rows:
            return NOTHING
        at, own = self.rows[learner]
        made = np.diff(own["update"], prepend=0)
        if name == "clipped_share":
            values = np.where(made > 0, own["clipped"] / np.maximum(made, 1), np.nan)
        elif name == "skipped_share":
            values = own["skipped"] / np.maximum(made + own["skipped"], 1)
        elif name in own:
            values = own[name]
        else:
            return NOTHING
        known = np.isfinite(values)
        return Series(at[known], np.asarray(values[known], float))

    def layer(self, learner: str, layer: str, name: str) -> Series:
        """A column of gradients.csv of one layer over time."""
        layers = self.layers[learner]
        values = layers.columns[name][layers.names.index(layer)]
        known = np.isfinite(values)
        return Series(layers.at[known], values[known])

    @cached_property
    def evaluated(self) -> Series:
        """The mean returns of the evaluations."""
        return _column(self.evaluations, "mean_return")

    @cached_property
    def trained(self) -> Series:
        """The returns of the training episodes."""
        return _column(self.episodes, "return")

    @cached_property
    def untrained(self) -> np.ndarray:
        """The returns of the first episodes, in which next to nothing was learned yet.

        Those that began in the first hundredth of the run, and the first four at least. Of the
        first to end, more would be short ones.
        """
        if not self.episodes:
            return np.empty(0)
        lasted = self.episodes["length"] * self.config.get("num_envs", 1)
        began = self.episodes["step"] - lasted
        order = np.argsort(began, kind="stable")
        soon = np.sum(began <= 0.01 * (self.config.get("steps") or self.steps))
        returns = self.episodes["return"][order[: max(4, soon)]]
        return np.asarray(returns[np.isfinite(returns)], float)


def _column(table: Table, name: str) -> Series:
    if name not in table:
        return NOTHING
    known = np.isfinite(table[name])
    return Series(table["step"][known], table[name][known])
