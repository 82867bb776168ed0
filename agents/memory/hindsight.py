"""Hindsight: a replay that also asks what an episode would have been worth with another goal.

M. Andrychowicz et al., "Hindsight Experience Replay" (2017), https://arxiv.org/abs/1707.01495, with
goals of the kind "future": ones that the same episode came to reach later on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from agents.memory.replay import FIELDS, Replay
from envs.transition import Transition

Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""`judge(achieved, desired)`, both `(M, *goal)`: rewards `(M,)` and, where the task can tell, where
it ended, `(M,)`. Of a `VectorEnv` it is `envs.judge`."""


class Hindsight(Replay):
    """A replay of goal-conditioned transitions, `goals` / (`goals` + 1) of each batch relabelled.

    For such a transition the desired goal, in `obs` and in `next_obs`, becomes the one that was
    achieved after a step of its episode drawn uniformly from this one on; `reward` and `terminated`
    are judged anew. `achieved` and `desired` are the columns where an observation has its goals,
    `unstored` makes of these the goals that the task knows, `(M, *goal)`.

    Which goals an episode achieves is known once it has ended: only then its transitions are
    stored, side by side, and count for what falls due.

    Raises ValueError for n-step returns and stacked frames, whose rewards and goals lie elsewhere.
    """

    def __init__(
        self,
        *arguments: Any,
        goals: int,
        achieved: slice,
        desired: slice,
        unstored: Callable[[np.ndarray], np.ndarray],
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        for name in ("n_step", "frames"):
            if (value := getattr(self, name)) != 1:
                raise ValueError(f"{name} is {value}: with hindsight, use 1")
        self.goals = goals
        self.achieved = achieved
        self.desired = desired
        self.unstored = unstored
        self.judge: Judge | None = None
        """Set by whoever knows the environments, before the first batch is drawn."""
        self._columns["left"] = np.zeros(self.capacity, np.int32)  # transitions of its episode
        self._left = 0
        self._waiting: list[list[dict[str, np.ndarray]]] = []
        """Of each environment the steps of its episode so far, as rows `(1, ...)`."""

    def also_achieved(self, obs: np.ndarray) -> np.ndarray:
        """Observations `(M, size)`, and again with what they achieved as their desired goals.

        What a normaliser is to learn from: goals in hindsight are others than those the task sets.
        """
        again = obs.copy()
        again[:, self.desired] = again[:, self.achieved]
        return np.concatenate([obs, again])

    def add(self, transition: Transition) -> None:
        """Keep N steps back until their episodes have ended, then store these."""
        valid, done = transition.valid, transition.done
        if len(self._waiting) != len(valid):  # other environments: all of them begin
            self.cut(np.ones(len(valid), bool))
            self._waiting = [[] for _ in valid]
        rows = {name: np.asarray(getattr(transition, name)) for name in FIELDS}
        for i, steps in enumerate(self._waiting):
            if valid[i]:
                steps.append({name: column[i : i + 1].copy() for name, column in rows.items()})
            if done[i] or not valid[i] or len(steps) == self.capacity:
                self._store(steps)

    def cut(self, where: np.ndarray) -> None:
        """Where `(N,)` is true an environment begins anew in the midst of an episode.

        Of another number of environments than there were none goes on.
        """
        others = len(where) != len(self._waiting)
        for i, steps in enumerate(self._waiting):
            if others or where[i]:
                self._store(steps)

    def _store(self, steps: list[dict[str, np.ndarray]]) -> None:
        for number, row in enumerate(steps, 1):
            self._left = len(steps) - number
            fields: dict[str, Any] = {**row, "valid": np.ones(1, bool)}
            super().add(Transition(**fields))
        steps.clear()
        super().cut(np.ones(1, bool))

    def _write(self, rows: Mapping[str, np.ndarray], start: int) -> None:
        if "left" not in rows:  # what a checkpoint restores has it
            rows = {**rows, "left": np.array([self._left], np.int32)}
        super()._write(rows, start)

    def sample(
        self, index: np.ndarray, extras: Mapping[str, torch.Tensor] | None = None
    ) -> Transition:
        """The transitions with these numbers as tensors, most of them with another goal."""
        batch = super().sample(index, extras)
        chosen = np.flatnonzero(self.rng.random(len(index)) * (self.goals + 1) < self.goals)
        if not len(chosen):
            return batch
        if self.judge is None:
            raise ValueError(
                "hindsight judges rewards anew and was not told how: set agent.memory.judge to "
                "the envs.judge of a VectorEnv, as train() does"
            )
        left = self._columns["left"].take(index[chosen] % self.capacity)
        later = super().sample(index[chosen] + self.rng.integers(left + 1))
        goal = later.next_obs[:, self.achieved]
        where = torch.from_numpy(chosen).to(self.device)
        reached = batch.next_obs[where][:, self.achieved]
        reward, ended = self.judge(*(self.unstored(x.cpu().numpy()) for x in (reached, goal)))
        for obs in (batch.obs, batch.next_obs):
            obs[where, self.desired] = goal
        batch.reward[where] = self._tensor(np.asarray(reward, np.float32))
        if ended is not None:
            batch.terminated[where] = self._tensor(np.asarray(ended, bool))
        return batch

    def state_dict(self) -> dict[str, Any]:
        waiting = [
            {name: np.concatenate([row[name] for row in steps]) for name in FIELDS if steps}
            for steps in self._waiting
        ]
        return super().state_dict() | {"waiting": waiting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._waiting = [
            [
                {name: np.array(column[i : i + 1]) for name, column in steps.items()}
                for i in range(len(steps["reward"]) if steps else 0)
            ]
            for steps in state["waiting"]
        ]
