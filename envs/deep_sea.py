"""DeepSea: a treasure that random actions do not find.

I. Osband et al., "Behaviour Suite for Reinforcement Learning" (2019),
https://arxiv.org/abs/1908.03568, after I. Osband, B. Van Roy, D. Russo, Z. Wen, "Deep Exploration
via Randomized Value Functions" (2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ID = "chainrule/DeepSea-v0"


class DeepSea(gymnasium.Env[np.int64, np.int64]):
    """A dive from the top left of a grid of `size` × `size`; every step goes a row down.

    One action moves a column to the left (or stays at the edge), the other to the right, at a cost
    of 0.01 / size; which is which differs from cell to cell, drawn from `mapping_seed` when the
    environment is made. The only way to the treasure of 1, at the bottom right, is to the right all
    the way, which returns 0.99; to turn back at once returns 0. At random it is found in one of
    2^size episodes.

    What is seen is the number of the cell, `row * size + column`, which a network reads one-hot. An
    episode takes `size` steps and ends with its last cell seen again.
    """

    def __init__(self, size: int = 20, mapping_seed: int = 0) -> None:
        if size < 1:
            raise ValueError(f"size is {size}: use 1 or more")
        self.size = size
        self.observation_space = spaces.Discrete(size * size)
        self.action_space = spaces.Discrete(2)
        self.right = np.random.default_rng(mapping_seed).integers(2, size=(size, size))
        """The action that moves right, in each cell `(row, column)`."""
        self.row = self.column = 0

    def _seen(self) -> np.int64:
        return np.int64(self.row * self.size + self.column)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self.row = self.column = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        last, reward = self.size - 1, 0.0
        moves_right = action == self.right[self.row, self.column]
        if moves_right:
            reward = (self.column == last) - 0.01 / self.size
        if self.row == last:
            return self._seen(), reward, True, False, {}
        self.row += 1
        self.column = min(self.column + 1, last) if moves_right else max(self.column - 1, 0)
        return self._seen(), reward, False, False, {}


def solved(returns: Sequence[float], episodes: int = 100, share: float = 0.9) -> bool:
    """Whether the treasure was found in at least `share` of the last `episodes`.

    `returns` are those of all episodes so far, in order. Without the treasure none is above 0.
    """
    last = list(returns)[-episodes:]
    return len(last) == episodes and sum(r > 0 for r in last) >= share * episodes


def register() -> None:
    """Makes it known to `gymnasium.make`; to call it again does nothing."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point=f"{__name__}:DeepSea")
