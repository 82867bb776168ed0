"""Rollout: consecutive steps of the policy as it is now, used once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from envs.transition import Transition

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "valid")


class Rollout:
    """Yields one batch `(T, N)` when it holds enough, and forgets it.

    Enough is `transitions` (T is the least that holds so many valid ones) or `episodes`: as many
    from each environment, its first ones, since those that end first of all are the short ones.
    They are whole and of one policy: what an environment does beyond them, to the end of the
    episode that the update falls into, is marked invalid. With `next_action` one more step is
    awaited, so that each row knows the action taken after it (`extras["next_action"]`); that step
    becomes the first row of the next batch.
    """

    raw = False
    """Observations are kept as the policy saw them, normalised."""

    def __init__(
        self,
        transitions: int | None = None,
        episodes: int | None = None,
        next_action: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if (transitions is None) == (episodes is None):
            raise ValueError(
                "a rollout ends after a number of transitions or of episodes: give one"
            )
        if episodes is not None and next_action:
            raise ValueError("next_action is for rollouts of a number of transitions")
        size = transitions if transitions is not None else episodes
        if size is None or size < 1:
            raise ValueError(f"a rollout of {size} holds nothing: give 1 or more")
        self.transitions = transitions
        self.episodes = episodes
        self.next_action = next_action
        self.device = device
        self.rows: list[Transition]
        self.held: int
        """Valid transitions in the rows."""
        self.ended: np.ndarray
        """Episodes that ended in the rows, in each environment."""
        self.stale: np.ndarray
        """Where an episode is under way that began before the last batch of episodes."""
        self._forget()

    def add(self, transition: Transition) -> None:
        """Append one step of N environments (arrays that nobody changes later)."""
        if self.stale.any():
            stale, self.stale = self.stale, self.stale & ~transition.done
            transition = replace(transition, valid=transition.valid & ~stale)
        self.rows.append(transition)
        self.held += int(np.count_nonzero(transition.valid))
        self.ended = self.ended + (transition.done & transition.valid)

    def batches(self) -> Iterator[Transition]:
        """The batch, if it is complete, as tensors `(T, N, ...)`."""
        if self._complete():
            rows = self.rows
            self._forget()
            if self.next_action:
                self.add(rows[-1])
            if self.episodes is not None:
                self.stale = rows[-1].valid & ~rows[-1].done
                rows = _first_episodes(rows)
            yield self._batch(rows)

    def check_steps(self, num_envs: int, setting: str, steps: int) -> None:
        """Raise ValueError where batches from so many environments may have fewer than `steps` of
        each, which a setting needs to have its effect."""
        held = math.ceil((self.transitions or 0) / num_envs)
        if held < steps:
            raise ValueError(
                f"rollout_size is {self.transitions}, {held} of each of {num_envs} environments: "
                f"{setting} takes {steps}, use {(steps - 1) * num_envs + 1} or more"
            )

    def cut(self, where: np.ndarray) -> None:
        """Where `(N,)` is true an environment begins anew in the midst of an episode: truncate it.

        Of another number of environments than there were nothing can be kept.
        """
        known = self.rows[-1].valid if self.rows else self.stale
        if known.shape != where.shape:
            self._forget()
            return
        if self.rows:
            last = self.rows.pop()
            self.held -= int(np.count_nonzero(last.valid))
            self.ended = self.ended - (last.done & last.valid)
            truncated = last.truncated | (where & last.valid & ~last.terminated)
            self.add(replace(last, truncated=truncated))
        self.stale = self.stale & ~where

    def _forget(self) -> None:
        self.rows, self.held = [], 0
        self.ended, self.stale = np.zeros(1, int), np.zeros(1, bool)

    def _complete(self) -> bool:
        if self.episodes is not None:
            return int(self.ended.min()) * len(self.ended) >= self.episodes
        if len(self.rows) <= self.next_action:
            return False
        awaited = int(np.count_nonzero(self.rows[-1].valid)) if self.next_action else 0
        return self.held - awaited >= (self.transitions or 0)

    def _batch(self, rows: list[Transition]) -> Transition:
        arrays = _stack(rows)
        following = arrays["action"][1:] if self.next_action else None
        count = len(rows) - self.next_action
        tensors = {
            name: torch.from_numpy(array[:count]).to(self.device) for name, array in arrays.items()
        }
        extras = {name: tensors.pop(name) for name in list(tensors) if name not in FIELDS}
        if following is not None:
            extras["next_action"] = torch.from_numpy(following).to(self.device)
        return Transition(**tensors, extras=extras)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": _stack(self.rows) if self.rows else {}, "stale": self.stale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rows = state["rows"]
        self._forget()
        for t in range(len(rows["reward"]) if rows else 0):
            extras = {name: array[t] for name, array in rows.items() if name not in FIELDS}
            self.add(Transition(**{name: rows[name][t] for name in FIELDS}, extras=extras))
        self.stale = np.array(state["stale"], bool)


def _first_episodes(rows: list[Transition]) -> list[Transition]:
    """The rows with as many whole episodes of each environment, what is beyond them invalid."""
    ends = np.stack([row.done & row.valid for row in rows])
    before = np.cumsum(ends, axis=0) - ends  # episodes that ended earlier, (T, N)
    first = before < ends.sum(axis=0).min()
    return [replace(row, valid=row.valid & f) for row, f in zip(rows, first, strict=True)]


def _stack(rows: list[Transition]) -> dict[str, np.ndarray]:
    arrays = {name: np.stack([getattr(row, name) for row in rows]) for name in FIELDS}
    return arrays | {name: np.stack([row.extras[name] for row in rows]) for name in rows[0].extras}
