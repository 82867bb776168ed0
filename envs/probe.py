"""Tiny environments whose values are known in closed form.

Each isolates one thing that an agent must get right, so that the first probe that fails tells what
is wrong. In the manner of A. L. Jones, "Debugging RL, Without the Agonizing Pain" (2021),
https://andyljones.com/posts/rl-debugging.html

Every probe is registered: `gymnasium.make("chainrule/DelayedReward-v0")`. On a path through any of
them at most one action matters. Action values are therefore the same whatever policy follows, and
state values are those of the optimal policy; every state goes on being visited under any policy.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

END = -1
"""In place of a successor: the episode terminates."""


class Probe(gymnasium.Env[NDArray[np.float32], Any]):
    """A finite Markov decision process, written down as tables over its S states.

    The last observation of an episode that terminates is the one before it, seen again: an agent
    that bootstraps from there takes every reward for a perpetual one, r / (1 - γ).

    With `continuous=True` the action is a number a in [-1, 1]: -1 is action 0, 1 is action 1, and
    between them the reward is a mean of both and the successor either one, with the weights
    (1 - a) / 2 and (1 + a) / 2. The value of an action is then linear in a.
    """

    id: ClassVar[str]
    """What `gymnasium.make` knows it by."""
    observations: ClassVar[NDArray[np.float32]]
    """What is seen in each state, `(S, 1)`, in the order of `values`."""
    rewards: ClassVar[tuple[tuple[float, ...], ...]]
    """`(S, A)`"""
    successors: ClassVar[tuple[tuple[int, ...], ...]] = ((END, END), (END, END))
    """`(S, A)`; unless said otherwise, an episode is a single step."""
    starts: ClassVar[tuple[int, ...]] = (0,)
    """An episode begins in one of these, drawn uniformly."""
    limit: ClassVar[float] = math.inf
    """An episode is truncated after so many steps."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.id = f"chainrule/{cls.__name__}-v0"

    def __init__(self, continuous: bool = False) -> None:
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.Discrete(2)
        if continuous:
            self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.continuous = continuous
        self.state = self.steps = 0

    @classmethod
    def q_values(cls, gamma: float) -> NDArray[np.float64]:
        """The value of each action in each state, `(S, A)`; where actions are discrete."""
        raise NotImplementedError(f"{cls.__name__} has no table of action values")

    @classmethod
    def values(cls, gamma: float) -> NDArray[np.float64]:
        """The value of each state under the optimal policy, `(S,)`."""
        return cls.q_values(gamma).max(axis=-1)

    def outcome(self, action: Any) -> tuple[float, int]:
        """The reward for `action` in the present state, and the state after it (or `END`)."""
        rewards, successors = self.rewards[self.state], self.successors[self.state]
        if not self.continuous:
            return rewards[action], successors[action]
        share = (1.0 + float(action[0])) / 2.0
        reward = (1.0 - share) * rewards[0] + share * rewards[1]
        return reward, successors[int(self.np_random.random() < share)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.steps = int(self.np_random.choice(self.starts)), 0
        return self.observations[self.state].copy(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        reward, successor = self.outcome(action)
        terminated = successor == END
        self.state = self.state if terminated else successor
        self.steps += 1
        truncated = self.steps >= self.limit
        return self.observations[self.state].copy(), reward, terminated, truncated, {}


def _seen(*observations: float) -> NDArray[np.float32]:
    return np.array(observations, np.float32).reshape(-1, 1)


class ConstantReward(Probe):
    """One state, one step, reward 1: V = 1. Does the critic learn a constant?"""

    observations = _seen(0)
    rewards = ((1.0, 1.0),)

    @classmethod
    def q_values(cls, gamma: float) -> NDArray[np.float64]:
        return np.array([[1.0, 1.0]])


class ObservationReward(Probe):
    """The reward is what is seen, s = ±1: V(s) = s. Does the critic look at its input?"""

    observations = _seen(1, -1)
    rewards = ((1.0, 1.0), (-1.0, -1.0))
    starts = (0, 1)

    @classmethod
    def q_values(cls, gamma: float) -> NDArray[np.float64]:
        return np.array([[1.0, 1.0], [-1.0, -1.0]])


class ActionReward(Probe):
    """Action 1 pays 1, action 0 costs 1: Q = (-1, 1), V = 1. Does the policy improve?"""

    observations = _seen(0)
    rewards = ((-1.0, 1.0),)

    @classmethod
    def q_values(cls, gamma: float) -> NDArray[np.float64]:
        return np.array([[-1.0, 1.0]])


class ContextualReward(Probe):
    """Action 1 pays s = ±1, action 0 pays -s: Q(s, ·) = (-s, s), V = 1.

    Does the policy look at its input, and do action, reward and observation stay together?
    """

    observations = _seen(1, -1)
    rewards = ((-1.0, 1.0), (1.0, -1.0))
    starts = (0, 1)

    @classmethod
    def q_values(cls, gamma: float) -> NDArray[np.float64]:
        return np.array([[-1.0, 1.0], [1.0, -1.0]])


class TwoStepDiscount(Probe):
    """0 → 1 → end, reward 1 for the second step: V = (γ, 1). Is the discount applied, and once?"""

    observations = _seen(0, 1)
    rewards = ((0.0, 0.0), (1.0, 1.0))
    successors = ((1, 1), (END, END))

    @classmethod
    def q_values(cls, gamma: float) -> NDArray[np.float64]:
        return np.array([[gamma, gamma], [1.0, 1.0]])


class DelayedReward(Probe):
    """In 0, action 1 leads to s = 1 and action 0 to s = -1; the step after that pays s and ends.

    V(s) = s, Q(0, ·) = (-γ, γ), V(0) = γ. Is a reward credited to the action a step before it?
    An episode may begin in any of the three, so that a good policy still sees where a bad one goes.
    """

    observations = _seen(0, 1, -1)
    rewards = ((0.0, 0.0), (1.0, 1.0), (-1.0, -1.0))
    successors = ((2, 1), (END, END), (END, END))
    starts = (0, 1, 2)

    @classmethod
    def q_values(cls, gamma: float) -> NDArray[np.float64]:
        return np.array([[-gamma, gamma], [1.0, 1.0], [-1.0, -1.0]])


class Truncation(Probe):
    """s = 1, -1, 1, … without end; each step pays s. Cut off after three: V(s) = s / (1 + γ).

    An episode shows 1, -1, 1 and is truncated in -1, while the next begins in 1: half of what
    follows a 1 is seen across a truncation. What is wrong shows in the value of 1 (γ = 0.9):

    | what is done at a truncation                    | V(1)                            |      |
    |-------------------------------------------------|---------------------------------|------|
    | bootstraps from the true successor: right       | 1 / (1 + γ)                     | 0.53 |
    | taken for a termination                         | (1 - γ/2) / (1 - γ²/2)          | 0.92 |
    | the reset learned from, as a step that pays 0   | (1 - γ/2) / (1 - γ²)            | 2.89 |
    | bootstraps from the next episode's first        | (1 - γ/2) / ((1 - γ) (1 + γ/2)) | 3.79 |
    """

    observations = _seen(1, -1)
    rewards = ((1.0, 1.0), (-1.0, -1.0))
    successors = ((1, 1), (0, 0))
    limit: ClassVar[float] = 3

    @classmethod
    def q_values(cls, gamma: float) -> NDArray[np.float64]:
        value = 1 / (1 + gamma)
        return np.array([[value, value], [-value, -value]])


class Recall(Probe):
    """A cue s = ±1 is seen in the first of four steps; in the last, action 1 pays s, action 0 -s.

    V = γ³ at the cue, 1 before the last action. Does the agent remember what it no longer sees? One
    that does not earns 0 on average, whatever it does: after the cue everything looks alike.
    """

    observations = _seen(1, -1, 0, 0, 0, 0, 0, 0)
    rewards = ((0.0, 0.0),) * 6 + ((-1.0, 1.0), (1.0, -1.0))
    successors = ((2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (END, END), (END, END))
    starts = (0, 1)

    @classmethod
    def q_values(cls, gamma: float) -> NDArray[np.float64]:
        before = [[gamma**ahead] * 2 for ahead in (3, 3, 2, 2, 1, 1)]
        return np.array([*before, [-1.0, 1.0], [1.0, -1.0]])


class BoxAction(Probe):
    """One step that pays s - (a - s/2)², s = ±1, a in [-1, 1]: V(s) = s, with a = s/2.

    A Gaussian policy with mean s/2 and deviation σ is worth σ² less.
    """

    observations = _seen(1, -1)
    best_actions: ClassVar[NDArray[np.float32]] = _seen(0.5, -0.5)
    """The optimal action in each state, `(S, 1)`."""
    starts = (0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    @classmethod
    def values(cls, gamma: float) -> NDArray[np.float64]:
        return np.array([1.0, -1.0])

    def outcome(self, action: Any) -> tuple[float, int]:
        seen = float(self.observations[self.state, 0])
        return seen - (float(action[0]) - seen / 2) ** 2, END


DISCRETE: tuple[type[Probe], ...] = (
    ConstantReward,
    ObservationReward,
    ActionReward,
    ContextualReward,
    TwoStepDiscount,
    DelayedReward,
    Truncation,
)
"""The probes with two actions, the simplest first."""
CONTINUOUS: tuple[type[Probe], ...] = (BoxAction,)
"""The probes with a Box of actions."""
MEMORY: tuple[type[Probe], ...] = (Recall,)
"""The probes whose states are not told apart by what is seen in them."""
PROBES = DISCRETE + CONTINUOUS + MEMORY


def register() -> None:
    """Makes every probe known to `gymnasium.make`; to call it again does nothing."""
    for probe in PROBES:
        if probe.id not in gymnasium.registry:
            gymnasium.register(probe.id, entry_point=f"{probe.__module__}:{probe.__name__}")
