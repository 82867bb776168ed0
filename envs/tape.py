"""Tape: what it takes to bring an environment back to where it was in the middle of an episode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np

LONGEST = 100_000
"""Steps of an episode that are kept. A longer one cannot be played again."""


class Tape(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records how the current episode began, and every action since.

    No environment has to know how to save itself: from the same random state, the same actions lead
    to the same place, wherever the randomness is the environment's own `np_random`. One with a
    generator elsewhere says so by the methods `random_state()` and `restore_random_state(state)`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._start: dict[str, Any] = {}
        self._actions: list[Any] = []
        self._has_generator = env.has_wrapper_attr("restore_random_state")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, and the tape of it."""
        if seed is None:
            self._start = {"rng": self.unwrapped.np_random.bit_generator.state}
            if self._has_generator:
                self._start["own"] = self.env.get_wrapper_attr("random_state")()
        else:
            self._start = {"seed": seed}
        self._actions = []
        begun = self.env.reset(seed=seed, options=options)
        if not (isinstance(begun, tuple) and len(begun) == 2):
            raise ValueError(
                f"{self.env} resets to a {type(begun).__name__}: Gymnasium's reset gives a pair, "
                "(observation, info)"
            )
        return begun

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step, recorded."""
        if len(self._actions) <= LONGEST:
            # a copy, whatever the environment does to its own; one number cannot be changed
            self._actions.append(action if isinstance(action, np.generic) else deepcopy(action))
        happened = self.env.step(action)
        if len(happened) != 5:
            raise ValueError(
                f"{self.env} gives {len(happened)} values for a step: Gymnasium's step gives five, "
                "(observation, reward, terminated, truncated, info)"
            )
        return happened

    def state_dict(self) -> dict[str, Any]:
        """The recording; empty where the episode is longer than a tape."""
        if len(self._actions) > LONGEST:
            return {}
        return {"start": self._start, "actions": _stacked(self._actions)}

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Play the recording; the observation it ends with, None if there is no recording."""
        if not state:
            return None
        start = state["start"]
        if "rng" in start:
            self.unwrapped.np_random.bit_generator.state = start["rng"]
        if "own" in start:
            self.env.get_wrapper_attr("restore_random_state")(start["own"])
        obs, _ = self.reset(seed=start.get("seed"))
        for action in _rows(state["actions"]):
            obs = self.step(action)[0]
        return obs


def _stacked(actions: list[Any]) -> Any:
    """Actions as arrays, in the structure of their space: dicts and lists of arrays."""
    if actions and isinstance(actions[0], Mapping):
        return {key: np.asarray([action[key] for action in actions]) for key in actions[0]}
    if actions and isinstance(actions[0], tuple):
        return [np.asarray(part) for part in zip(*actions, strict=True)]
    return np.asarray(actions)


def _rows(stacked: Any) -> Iterator[Any]:
    """The actions again, one by one."""
    if isinstance(stacked, Mapping):
        for parts in zip(*stacked.values(), strict=True):
            yield dict(zip(stacked, parts, strict=True))
    elif isinstance(stacked, list):
        yield from zip(*stacked, strict=True)
    else:
        yield from stacked
