"""The few environment wrappers that Gymnasium lacks; for the others see `gymnasium.wrappers`.

Randomness comes from the environment's own generator, which `reset(seed)` seeds: an episode that is
played again from the same generator state with the same actions is the same bit for bit. Wrappers
remember how they were made, so that `gymnasium.make(env.spec)` makes the wrapped environment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import WrapperSpec
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

VELOCITIES: dict[str, tuple[int, ...]] = {
    "Acrobot": (4, 5),
    "BipedalWalker": (1, 2, 3, 5, 7, 10, 12),
    "CartPole": (1, 3),
    "LunarLander": (2, 3, 5),
    "MountainCar": (1,),
    "MountainCarContinuous": (1,),
    "Pendulum": (2,),
}
"""Where the velocities stand in a task's observation, by its name without the version."""
POSITION_ONLY = "chainrule/PositionOnlyCartPole-v0"
"""CartPole-v1 without its velocities, which follow from two observations, not from one."""


def register() -> None:
    """Makes `POSITION_ONLY` known to `gymnasium.make`; to call it again does nothing."""
    if POSITION_ONLY not in gymnasium.registry:
        hide = WrapperSpec(
            "HideVelocity",
            f"{__name__}:HideVelocity",
            {"velocities": VELOCITIES["CartPole"]},
        )
        gymnasium.register(
            POSITION_ONLY,
            entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
            max_episode_steps=500,
            reward_threshold=475.0,
            additional_wrappers=(hide,),
        )


def _box(env: gymnasium.Env[Any, Any], wrapper: str) -> spaces.Box:
    """The observation space of `env`, which has to be a Box."""
    if not isinstance(env.observation_space, spaces.Box):
        raise ValueError(
            f"{wrapper} needs Box observations, not {env.observation_space}: "
            "put gymnasium.wrappers.FlattenObservation around the environment first"
        )
    return env.observation_space


class ObserveActionMask(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Shows what the environment says of allowed actions, `info["action_mask"]`, as an observation.

    Observations become a Dict of `observation` and `action_mask`, the form that PettingZoo gives
    them; those that are Dicts get the mask beside their parts. The mask has an entry for each
    action of a Discrete space, or for the digits of a MultiDiscrete one after the other; 1 is for
    allowed. Agents never take what it forbids, nor value a state by it: S. Huang, S. Ontañón, "A
    Closer Look at Invalid Action Masking in Policy Gradient Algorithms" (2020),
    https://arxiv.org/abs/2006.14171.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        actions, space = env.action_space, env.observation_space
        if isinstance(actions, spaces.Discrete):
            entries = int(actions.n)
        elif isinstance(actions, spaces.MultiDiscrete):
            entries = int(actions.nvec.sum())
        else:
            raise ValueError(f"a mask is for Discrete or MultiDiscrete actions, not {actions}")
        mask = spaces.MultiBinary(entries)
        self._inside = isinstance(space, spaces.Dict)
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
        self.observation_space = spaces.Dict(parts | {"action_mask": mask})

    def _observe(self, obs: Any, info: dict[str, Any]) -> dict[str, Any]:
        if "action_mask" not in info:
            raise ValueError(f"{self.env} gives no info['action_mask']")
        given = info["action_mask"]
        mask = np.concatenate(given) if isinstance(given, tuple) else np.asarray(given)
        shown = dict(obs) if self._inside else {"observation": obs}
        return shown | {"action_mask": mask.astype(np.int8)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._observe(obs, info), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(obs, info), reward, terminated, truncated, info


class HideVelocity(
    gymnasium.ObservationWrapper[NDArray[Any], Any, NDArray[Any]], RecordConstructorArgs
):
    """Leaves the velocities out of a flat observation, so that an agent needs a memory.

    `velocities` are their indices; for the tasks in `VELOCITIES` they are known. Used so by
    N. Heess, J. J. Hunt, T. P. Lillicrap, D. Silver, "Memory-based Control with Recurrent Neural
    Networks" (2015), https://arxiv.org/abs/1512.04455.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], velocities: Sequence[int] | None = None):
        RecordConstructorArgs.__init__(self, velocities=velocities)
        super().__init__(env)
        space = _box(env, "HideVelocity")
        if velocities is None:
            spec = env.unwrapped.spec
            name = spec.name if spec else type(env.unwrapped).__name__
            if name not in VELOCITIES or space.shape != env.unwrapped.observation_space.shape:
                raise ValueError(
                    f"which entries of this {name} observation of shape {space.shape} are "
                    f"velocities is not known: give their indices, HideVelocity(env, [1, 3]); "
                    f"known by name are {', '.join(VELOCITIES)}"
                )
            velocities = VELOCITIES[name]
        size = len(space.low) if len(space.shape) == 1 else 0
        self._kept = np.setdiff1d(np.arange(size), velocities)
        if not (set(velocities) <= set(range(size)) and 0 < self._kept.size < size):
            raise ValueError(
                f"velocities must be some, not all, of the indices of a flat observation: got "
                f"{list(velocities)} for an observation of shape {space.shape}"
            )
        self.observation_space = spaces.Box(
            space.low[self._kept], space.high[self._kept], dtype=space.dtype.type
        )

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        return observation[self._kept]


class FlickerObservation(
    gymnasium.ObservationWrapper[NDArray[Any], Any, NDArray[Any]], RecordConstructorArgs
):
    """Replaces each observation with zeros, with the given probability, independently.

    M. Hausknecht, P. Stone, "Deep Recurrent Q-Learning for Partially Observable MDPs" (2015),
    https://arxiv.org/abs/1507.06527, who blank half of the screens.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], probability: float = 0.5):
        if not 0 <= probability < 1:
            raise ValueError(f"probability must lie in [0, 1), got {probability}")
        RecordConstructorArgs.__init__(self, probability=probability)
        super().__init__(env)
        space = _box(env, "FlickerObservation")
        self.probability = probability
        self.observation_space = spaces.Box(  # zero is a possible observation now
            np.minimum(space.low, 0), np.maximum(space.high, 0), dtype=space.dtype.type
        )

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        hidden = self.np_random.random() < self.probability
        return np.zeros_like(observation) if hidden else observation


class DelayReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Withholds the rewards and pays their sum every `steps` steps and at the end of an episode.

    With `steps=None` only at the end. The return of an episode (undiscounted) stays what it was.
    Z. Zheng, J. Oh, S. Singh, "On Learning Intrinsic Rewards for Policy Gradient Methods" (2018),
    https://arxiv.org/abs/1804.06459, make MuJoCo's tasks harder so.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], steps: int | None = None):
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, or None for whole episodes, got {steps}")
        RecordConstructorArgs.__init__(self, steps=steps)
        super().__init__(env)
        self.steps = steps
        self._owed, self._waited = 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._owed, self._waited = 0.0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._owed, self._waited = self._owed + float(reward), self._waited + 1
        paid = 0.0
        if terminated or truncated or self._waited == self.steps:
            paid, self._owed, self._waited = self._owed, 0.0, 0
        return obs, paid, terminated, truncated, info


class ShapeReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds γ Φ(s') - Φ(s) to the reward, where the potential Φ says how good an observation looks.

    The optimal policy stays what it was, whatever Φ, if γ is the agent's discount and Φ is zero
    once the task has ended: it is taken for zero on termination, and as it is on truncation.
    A. Y. Ng, D. Harada, S. Russell, "Policy Invariance under Reward Transformations" (1999).
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], potential: Callable[[Any], float], gamma: float
    ):
        if not callable(potential):
            raise ValueError(f"potential must be a function of an observation, got {potential!r}")
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
        RecordConstructorArgs.__init__(self, potential=potential, gamma=gamma)
        super().__init__(env)
        self.potential, self.gamma = potential, gamma
        self._before = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._before = self.potential(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        before, self._before = self._before, 0.0 if terminated else self.potential(obs)
        return obs, float(reward) + self.gamma * self._before - before, terminated, truncated, info
