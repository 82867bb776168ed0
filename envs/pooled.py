"""EnvPool: tasks stepped in C++ by a pool of threads, in the form of Gymnasium's vector API.

J. Weng et al., "EnvPool: A Highly Parallel Reinforcement Learning Environment Execution Engine"
(2022), https://arxiv.org/abs/2206.10558. It draws from random generators of its own, and brings a
MuJoCo of its own: the same seed begins other episodes than Gymnasium's does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from envs.seeds import Seeds, spread


class EnvPool(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """N environments of an EnvPool task, made with `options` of its own.

    An environment is reset in the step after the one that ended its episode; that step pays nothing
    and does not look at the action. `task_spaces` are the observation and action space to show, if
    they are not EnvPool's. A pool takes its seeds when it is made: a reset with a seed makes
    another one. It cannot be saved, so that a run that is resumed begins new episodes.

    Raises ValueError where EnvPool's task has not the shape of these spaces.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        task_spaces: tuple[spaces.Space[Any], spaces.Space[Any]] | None = None,
        **options: Any,
    ) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.task, self.num_envs, self.options = task, num_envs, options
        with _quiet():
            spec = import_module("envpool").make_spec(task)
            own = spec.gymnasium_observation_space, spec.gymnasium_action_space
        shown = task_spaces or own
        for theirs, ours in zip(own, shown, strict=True):
            alike = type(theirs) is type(ours) and theirs.shape == ours.shape
            if not alike or getattr(theirs, "n", None) != getattr(ours, "n", None):
                raise ValueError(
                    f"EnvPool's {task} has a space {theirs}, Gymnasium's has {ours}: use another "
                    "backend"
                )
        self.single_observation_space, self.single_action_space = shown
        self.observation_space = batch_space(shown[0], num_envs)
        self.action_space = batch_space(shown[1], num_envs)
        self._takes = np.int32 if isinstance(own[1], spaces.Discrete) else own[1].dtype
        self._pool: Any = None

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin everywhere; environment i from `seed + i`, or from the i-th of several seeds."""
        if self._pool is None or seed is not None:
            chance = np.random.SeedSequence().generate_state(self.num_envs).tolist()
            seeds = zip(spread(seed, self.num_envs), chance, strict=True)
            self.close_extras()
            with _quiet():
                self._pool = import_module("envpool").make(
                    self.task,
                    env_type="gymnasium",
                    num_envs=self.num_envs,
                    seed=[(drawn if its is None else its) % 2**31 for its, drawn in seeds],
                    **self.options,
                )
                return self._pool.reset()
        return self._pool.reset()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._pool.step(np.asarray(actions, self._takes))

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """EnvPool gives the bounds of its spaces in float64, which Gymnasium warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precision lowered", UserWarning)
        yield


def installed() -> bool:
    """Whether EnvPool can be imported; a mere folder of that name, with no origin, is none."""
    spec = find_spec("envpool")
    return spec is not None and spec.origin is not None


def has(task: str) -> bool:
    """Whether EnvPool is installed and knows the task."""
    return installed() and task in import_module("envpool").list_all_envs()


def make(found: EnvSpec, num_envs: int) -> EnvPool:
    """Gymnasium's environment `found` as EnvPool steps it, with the same spaces and time limit.

    Raises ValueError where EnvPool is not installed, has no such task, or one of another shape.
    """
    if not installed():
        raise ValueError(
            "backend 'envpool' needs envpool, which is not installed: "
            "pip install 'chainrule[envpool]'"
        )
    if not has(found.id):
        raise ValueError(f"EnvPool has no task {found.id}: use backend auto")
    with gymnasium.make(found, disable_env_checker=True) as single:
        shown = single.observation_space, single.action_space
    limit = (
        {} if found.max_episode_steps is None else {"max_episode_steps": found.max_episode_steps}
    )
    return EnvPool(found.id, num_envs, shown, **limit)
