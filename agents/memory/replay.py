"""Replay: a ring of past transitions, drawn from uniformly (Lin 1992; Mnih et al. 2015)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from envs.transition import Transition

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")


class Replay:
    """Keeps the last `capacity` transitions and yields a batch `(B,)` for each update due.

    `updates_per_step` updates fall due with every transition, whatever the number of environments;
    a remainder is carried over. They are held back to one burst every `train_every` transitions:
    acting and learning then find their code and data in the processor's caches. Nothing is due
    before `learning_starts` transitions.
    """

    raw = True
    """Observations are kept as they came: a normaliser moves on after they were stored."""

    def __init__(
        self,
        capacity: int,
        batch_size: int,
        updates_per_step: float,
        learning_starts: int,
        rng: np.random.Generator,
        device: torch.device | str = "cpu",
        train_every: int = 1,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"buffer_size is {capacity}: use 1 or more")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: use 1 or more")
        if not updates_per_step > 0:
            raise ValueError(f"updates_per_step is {updates_per_step}: use a positive number")
        if train_every < 1:
            raise ValueError(f"train_every is {train_every}: use 1 or more")
        self.capacity = capacity
        self.batch_size = batch_size
        self.updates_per_step = updates_per_step
        self.learning_starts = learning_starts
        self.rng = rng
        self.device = device
        self.train_every = train_every
        self.added = 0
        """Transitions ever added; the newest lies at (added - 1) % capacity."""
        self.drawn = 0
        """Batches ever drawn."""
        self._columns: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, transition: Transition) -> None:
        """Store the valid ones of N transitions."""
        rows = {name: getattr(transition, name) for name in FIELDS}
        if not transition.valid.all():
            rows = {name: array[transition.valid] for name, array in rows.items()}
        count = len(rows["reward"])
        self._write(rows, self.added)
        self.added += count

    @property
    def due(self) -> int:
        """Updates due: counted from the start, so that no rounding of a remainder adds up."""
        counted = max(0, self.added - self.learning_starts)
        counted -= counted % self.train_every
        return int(counted * self.updates_per_step) - self.drawn

    def batches(self) -> Iterator[Transition]:
        """A batch of tensors `(B, ...)` for each update due, drawn when it is asked for."""
        while self.due > 0:
            self.drawn += 1
            yield self.sample(self.rng.integers(len(self), size=self.batch_size))

    def sample(self, index: np.ndarray) -> Transition:
        """The transitions at these places as tensors, with the places as `extras["index"]`."""
        tensors: dict[str, Any] = {
            name: torch.from_numpy(column[index]).to(self.device)
            for name, column in self._columns.items()
        }
        valid = torch.ones(len(index), dtype=torch.bool, device=self.device)
        extras = {"index": torch.from_numpy(index).to(self.device)}
        return Transition(**tensors, valid=valid, extras=extras)

    def cut(self, where: np.ndarray) -> None:
        """Environments begin anew in the midst of an episode: each row here stands for itself."""

    def _write(self, rows: Mapping[str, np.ndarray], start: int) -> None:
        count = len(rows["reward"])
        if not self._columns:
            self._columns = {
                name: np.zeros((self.capacity, *array.shape[1:]), array.dtype)
                for name, array in rows.items()
            }
        if count == 1:
            place = start % self.capacity
            for name, array in rows.items():
                self._columns[name][place] = array[0]
            return
        kept = max(0, count - self.capacity)  # more rows than room: the last ones stay
        places = np.arange(start + kept, start + count) % self.capacity
        for name, array in rows.items():
            self._columns[name][places] = array[kept:]

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Copies of the transitions added from number `start` to before `stop`."""
        places = np.arange(start, stop) % self.capacity
        return {name: column[places] for name, column in self._columns.items()}

    def restore(self, start: int, rows: Mapping[str, np.ndarray]) -> None:
        """Put back what `rows` gave."""
        self._write(rows, start)

    def state_dict(self) -> dict[str, Any]:
        """Counters and random state. The rows are saved apart, in segments that only grow."""
        return {"added": self.added, "drawn": self.drawn, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.added = int(state["added"])
        self.drawn = int(state["drawn"])
        self.rng.bit_generator.state = state["rng"]
