"""Stream: each transition by itself, learned from once and forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from envs.transition import Transition

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "valid")


class Stream:
    """Yields every valid transition as a batch of one, `(1, ...)`, in the order they came.

    N environments are N streams, told apart by `extras["env"]`; a learner that goes through them
    in turn makes as many updates of a transition whatever N is. `extras["first"]` says that an
    episode begins with this transition: what was remembered of the stream before is of another.
    With `next_action` a transition waits until the action after it is known
    (`extras["next_action"]`).
    """

    raw = False
    """Observations are kept as the policy saw them, normalised."""

    def __init__(self, next_action: bool = False, device: torch.device | str = "cpu") -> None:
        self.next_action = next_action
        self.device = device
        self.rows: list[Transition] = []
        """Steps of N environments that were not given out yet."""
        self.first = np.zeros(0, bool)
        """Where the row to be given out next begins an episode, `(N,)`."""

    def add(self, transition: Transition) -> None:
        """Append one step of N environments (arrays that nobody changes later)."""
        if self.first.shape != transition.valid.shape:
            self._begin(len(transition.valid))
        self.rows.append(transition)

    def batches(self) -> Iterator[Transition]:
        """One transition after the other, as tensors `(1, ...)`."""
        while len(self.rows) > self.next_action:
            row = self.rows.pop(0)
            extras = {"first": self.first, "env": np.arange(len(self.first)), **row.extras}
            if self.next_action:
                extras["next_action"] = self.rows[0].action
            self.first = np.where(row.valid, row.done, self.first)
            for env in row.valid.nonzero()[0].tolist():
                yield Transition(
                    **{name: self._one(getattr(row, name), env) for name in FIELDS},
                    extras={name: self._one(array, env) for name, array in extras.items()},
                )

    def cut(self, where: np.ndarray) -> None:
        """Where `(N,)` is true an environment begins anew in the midst of an episode.

        A transition that waits is truncated. Of another number of environments than there were
        nothing can be kept.
        """
        if self.first.shape != where.shape:
            self._begin(len(where))
        elif self.rows:
            last = self.rows.pop()
            truncated = last.truncated | (where & last.valid & ~last.terminated)
            self.rows.append(replace(last, truncated=truncated))
        else:
            self.first = self.first | where

    def _begin(self, num_envs: int) -> None:
        self.rows = []
        self.first = np.ones(num_envs, bool)

    def _one(self, array: np.ndarray, env: int) -> torch.Tensor:
        return torch.from_numpy(array[env : env + 1]).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        rows = [{name: getattr(row, name) for name in (*FIELDS, "extras")} for row in self.rows]
        return {"rows": rows, "first": self.first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = [Transition(**row) for row in state["rows"]]
        self.first = np.array(state["first"], bool)
