"""BitFlip: a goal among 2ⁿ that random actions do not come by.

The first experiment of M. Andrychowicz et al., "Hindsight Experience Replay" (2017),
https://arxiv.org/abs/1707.01495.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ID = "chainrule/BitFlip-v0"

Seen = dict[str, np.ndarray]


class BitFlip(gymnasium.Env[Seen, np.int64]):
    """`bits` bits and as many to make of them; an action flips one of the bits.

    Every step costs 1, but for the one that reaches the goal and ends the episode; it is cut off
    after n = `bits` steps. Start and goal are drawn uniformly, and differ. Where they differ in d
    bits the best return is 1 - d, -n for a failure. Whoever does not look at the goal succeeds
    with a probability of n / (2ⁿ - 1) at the most: he sees n of the other states.

    Goals are seen in the form that Gymnasium-Robotics gives them.
    """

    def __init__(self, bits: int = 15) -> None:
        if bits < 1:
            raise ValueError(f"bits is {bits}: use 1 or more")
        self.bits = bits
        self.observation_space: Any = spaces.Dict(
            {
                name: spaces.MultiBinary(bits)
                for name in ("observation", "achieved_goal", "desired_goal")
            }
        )
        self.action_space = spaces.Discrete(bits)
        self.state, self.goal = np.zeros((2, bits), np.int8)
        self.steps = 0

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """What a step pays that leads to `achieved_goal`, for goals `(..., bits)`."""
        return -(np.asarray(achieved_goal) != desired_goal).any(axis=-1).astype(np.float64)

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """Whether the goal was reached, for goals `(..., bits)`."""
        return (np.asarray(achieved_goal) == desired_goal).all(axis=-1)

    def _seen(self) -> Seen:
        return {
            "observation": self.state.copy(),
            "achieved_goal": self.state.copy(),
            "desired_goal": self.goal.copy(),
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.state = self.np_random.integers(2, size=self.bits, dtype=np.int8)
        self.goal = self.state.copy()
        while (self.goal == self.state).all():
            self.goal = self.np_random.integers(2, size=self.bits, dtype=np.int8)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        self.state[action] ^= 1
        self.steps += 1
        reward = float(self.compute_reward(self.state, self.goal, {}))
        terminated = bool(self.compute_terminated(self.state, self.goal, {}))
        return self._seen(), reward, terminated, self.steps >= self.bits, {}


def register() -> None:
    """Makes it known to `gymnasium.make`; to call it again does nothing."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point=f"{__name__}:BitFlip")
