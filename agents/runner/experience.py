"""Experience: what the environments gave an agent and were given, in the few numbers of a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from agents.agent import Agent
from agents.core.normalizer import RunningMoments
from envs.transition import Transition

AT_ONCE = 64
"""Steps of the environments that are looked at together."""
OBS_EVERY = 8
"""Of each so many steps of the environments the observations of one are looked at."""
LARGEST_OBS = 1024
"""Larger observations, and those of bytes, are images: their dimensions tell nothing one by one."""
NEAR = 0.01
"""An action this share of its range from a bound is taken to be at it."""


class Experience:
    """Rewards, actions and observations of a run, taken in step by step and told row by row.

    A step only keeps what it is given; arrays that environments give out are never changed later.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        space = agent.action_space
        self._low = self._high = None
        kinds = int(space.n) if isinstance(space, spaces.Discrete) else 2
        self._counts = np.zeros(kinds, np.int64)
        """Actions since the last row: of each kind; of Box, components at a bound and all."""
        if isinstance(space, spaces.Box):
            low, high = (np.asarray(b, np.float64) for b in (space.low, space.high))
            bounded = np.isfinite(low) & np.isfinite(high)
            near = NEAR * np.where(bounded, high - low, 0.0)
            self._low = np.where(bounded, low + near, -np.inf)
            self._high = np.where(bounded, high - near, np.inf)
        observations = agent.observations
        columns = observations.numeric
        seen = observations.dtype != np.uint8 and columns.any() and len(columns) <= LARGEST_OBS
        self._columns = columns if seen else None
        size = int(columns.sum()) if seen else 0
        self.moments = RunningMoments(size)
        self.least, self.largest = np.full(size, np.inf), np.full(size, -np.inf)
        self.reward_max = math.nan
        self.steps = 0
        self._rewards: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._obs: list[np.ndarray] = []

    def add(self, transition: Transition) -> None:
        """One step of the environments."""
        self._rewards.append(transition.reward)
        if isinstance(self.agent.action_space, spaces.Discrete | spaces.Box):
            self._actions.append(transition.action)
        if self._columns is not None and self.steps % OBS_EVERY == 0:
            self._obs.append(self.agent.observations.flatten(transition.obs))
        self.steps += 1
        if len(self._rewards) == AT_ONCE:
            self._look()

    def _look(self) -> None:
        if not self._rewards:
            return
        reward = np.concatenate(self._rewards)
        largest = np.abs(reward[np.isfinite(reward)]).max(initial=0.0)
        if not largest <= self.reward_max:  # nan at first
            self.reward_max = float(largest)
        space = self.agent.action_space
        if isinstance(space, spaces.Discrete):
            action = np.concatenate(self._actions)
            self._counts += np.bincount(action - space.start, minlength=len(self._counts))
        elif self._low is not None and self._high is not None:
            action = np.concatenate(self._actions)
            at = (action <= self._low) | (action >= self._high)
            self._counts += np.array([np.count_nonzero(at), at.size])
        if self._obs:
            rows = np.concatenate(self._obs)[:, self._columns]
            if self.moments.update(rows):
                self.least = np.minimum(self.least, rows.min(0))
                self.largest = np.maximum(self.largest, rows.max(0))
        self._rewards, self._actions, self._obs = [], [], []

    def row(self) -> dict[str, float]:
        """Its part of a row of updates.csv. Actions are counted anew from here."""
        self._look()
        c = self.agent.config
        found = {}
        if not math.isnan(self.reward_max):
            found["reward_max"] = float(self.agent.learned(np.array(self.reward_max)))
            if c.gamma < 1:
                found["value_bound"] = found["reward_max"] / (1.0 - c.gamma)
        if total := int(self._counts.sum() if self._low is None else self._counts[1]):
            if self._low is None:
                found["action_top"] = float(self._counts.max() / total)
            else:
                found["action_saturation"] = float(self._counts[0] / total)
        if self.moments.count:
            varies = self.largest > self.least
            found["obs_constant"] = float(1.0 - varies.mean())
            if varies.any():
                std = np.sqrt(self.moments.variance[varies])
                found |= {"obs_std_min": float(std.min()), "obs_std_max": float(std.max())}
        self._counts[:] = 0
        return found

    def state_dict(self) -> dict[str, Any]:
        pending = {"rewards": self._rewards, "actions": self._actions, "obs": self._obs}
        return {
            "steps": self.steps,
            "reward_max": self.reward_max,
            "counts": self._counts.copy(),
            "moments": self.moments.state_dict(),
            "least": self.least.copy(),
            "largest": self.largest.copy(),
            "pending": {name: np.stack(rows) for name, rows in pending.items() if rows},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps, self.reward_max = state["steps"], state["reward_max"]
        self._counts = np.array(state["counts"])
        self.moments.load_state_dict(state["moments"])
        self.least, self.largest = np.array(state["least"]), np.array(state["largest"])
        pending = state["pending"]
        self._rewards, self._actions, self._obs = (
            list(pending.get(name, ())) for name in ("rewards", "actions", "obs")
        )
