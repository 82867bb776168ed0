"""VectorEnv: Gymnasium at the boundary. Autoreset, the true successor, episode returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, Self

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from gymnasium.wrappers import NormalizeReward

from envs.classic import ClassicVectorEnv
from envs.seeds import spread
from envs.tape import Tape
from envs.transition import Transition


class Episode(NamedTuple):
    """An episode that ended."""

    env: int
    """Which of the environments played it."""
    return_: float
    """Undiscounted sum of its rewards."""
    length: int
    """Steps."""


class RestoreWarning(UserWarning):
    """Environments could not be brought back to where they were: they began new episodes."""


class VectorEnv:
    """N environments, stepped together; what `step` gives is the same whatever is underneath.

    `env` is a Gymnasium environment, a sequence of them (stepped in a plain loop, the fastest way
    for cheap ones), or a Gymnasium vector environment in any autoreset mode. One that resets itself
    in the step *after* an episode's end spends a step on it: that row is marked `valid=False`.
    `seed` is what the first `reset` uses that is given none.

    Observations are NumPy arrays with a leading axis `(N,)`, or dicts and tuples of these; arrays
    given out are never written to again. Box actions are clipped to their bounds for the
    environment, and rounded where it takes whole numbers; a Transition keeps them as given.

    Actions come in the structure of their space, each array with a leading axis `(N,)`.

    Raises TypeError for what is no environment, ValueError for actions that are none of Discrete,
    Box, MultiDiscrete, MultiBinary, flat Dict and Tuple, and for a vector environment that does not
    tell its autoreset mode. `reset` and `step` raise ValueError where an environment does not give
    what its spaces and Gymnasium say.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any]
        | Sequence[gymnasium.Env[Any, Any]]
        | gymnasium.vector.VectorEnv[Any, Any, Any],
        seed: int | None = None,
    ) -> None:
        self._envs: _Looped | _Vectorized
        if isinstance(env, gymnasium.vector.VectorEnv):
            self._envs = _Vectorized(env)
        else:
            self._envs = _Looped(_singles(env))
        known: Any = self._envs.singles if self._envs.singles else [env]
        self.id = _id(known[0])
        """Of the task with Gymnasium; the name of a class that has none."""
        alike = all(_as_registered(env) and _id(env) == self.id for env in known)
        self.options: dict[str, Any] | None = {} if alike else None
        """What `make` takes beside the id to make them again, as JSON values. None where it cannot:
        they are not registered, were wrapped or changed, or took what JSON does not know."""
        self.backend = "loop" if isinstance(self._envs, _Looped) else "vector"
        """How they are stepped, as `make` calls it."""
        self.num_envs: int = self._envs.num_envs
        self.observation_space: spaces.Space[Any] = self._envs.observation_space
        """Of one environment."""
        self.action_space: spaces.Space[Any] = self._envs.action_space
        """Of one environment."""
        if not all(isinstance(part, ACTIONS) for part in _parts(self.action_space)):
            raise ValueError(
                f"the action space is {self.action_space}: only Discrete, Box, MultiDiscrete, "
                "MultiBinary and flat Dicts and Tuples of these are supported"
            )
        self.obs: Any = None
        """What to act on next, `(N, ...)`; None before the first reset."""
        self.episodes: list[Episode] = []
        """Those that ended in the last step."""
        self._seed = seed
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)

    def reset(self, seed: int | None = None) -> Any:
        """Begin new episodes everywhere and return their first observations.

        Environment i is seeded with `seed + i`; without a seed the generators go on as they are.
        """
        if seed is None:
            seed, self._seed = self._seed, None
        self.obs = self._envs.reset(seed)
        self.episodes = []
        self._returns[:], self._lengths[:] = 0.0, 0
        return self.obs

    def step(self, action: Any, extras: Mapping[str, Any] | None = None) -> tuple[Transition, Any]:
        """Act in every environment. Returns what happened, and the observations to act on next."""
        obs = self.obs
        next_obs, reward, terminated, truncated, valid, self.obs = self._envs.step(
            _fit(self.action_space, action)
        )
        self._returns += np.where(valid, reward, 0.0)
        self._lengths += valid
        self.episodes = []
        done = terminated | truncated
        if done.any():
            self.episodes = [
                Episode(int(i), float(self._returns[i]), int(self._lengths[i]))
                for i in done.nonzero()[0]
            ]
            self._returns[done], self._lengths[done] = 0.0, 0
        transition = Transition(
            obs,
            action,
            reward.astype(np.float32),
            next_obs,
            terminated,
            truncated,
            valid,
            extras or {},
        )
        return transition, self.obs

    @property
    def judge(self) -> Judge:
        """What `(M,)` steps pay that led to achieved goals, had these been the desired ones.

        A function of both, `(M, *goal)`, that gives the rewards and where the task ended, or None
        where the task has no `compute_terminated`; both as Gymnasium-Robotics has them. They are
        asked of M goals at once, or one by one where they cannot do so; `info` is always empty.

        Raises ValueError where the environments have no `compute_reward`, or a wrapper changes what
        it gives.
        """
        single = self._envs.singles[0] if self._envs.singles else None
        if single is None or not single.has_wrapper_attr("compute_reward"):
            raise ValueError(
                "the environments do not say how they reward goals: they need a method "
                "compute_reward(achieved_goal, desired_goal, info), and to be single ones"
            )
        for wrapper in _wrappers(single):
            if isinstance(wrapper, gymnasium.RewardWrapper | NormalizeReward):
                raise ValueError(
                    f"{type(wrapper).__name__} changes the rewards, which compute_reward does not: "
                    "goals in hindsight need them as the environment gives them"
                )
        pays = single.get_wrapper_attr("compute_reward")
        ends = (
            single.get_wrapper_attr("compute_terminated")
            if single.has_wrapper_attr("compute_terminated")
            else None
        )

        def judge(achieved: np.ndarray, desired: np.ndarray) -> tuple[np.ndarray, Any]:
            return _rows(pays, achieved, desired), ends and _rows(ends, achieved, desired)

        return judge

    def close(self) -> None:
        """Release what the environments hold."""
        self._envs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on from here: nested dicts and lists of arrays and JSON values."""
        return {
            "obs": list(_leaves(self.obs)),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
            "envs": self._envs.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> np.ndarray:
        """Bring the environments back to where `state_dict` saw them; `(N,)`, which of them came.

        An environment is restored by what is known of its insides, else by playing its episode
        again, and then has to show the observation expected. Where that fails it begins a new
        episode, and a RestoreWarning tells.

        Raises ValueError for the state of others: more or fewer, or stepped in another form.
        """
        if len(state["returns"]) != self.num_envs:
            raise ValueError(
                f"the state is of {len(state['returns'])} environments, these are {self.num_envs}"
            )
        if isinstance(state["envs"], list) != isinstance(self._envs, _Looped):
            forms = ("a loop", "one vector environment")
            then, now = forms if isinstance(state["envs"], list) else forms[::-1]
            raise ValueError(f"the state is of environments stepped as {then}, these are {now}")
        self.obs, restored = self._envs.load_state_dict(state["envs"], state["obs"])
        self.episodes = []
        self._returns = np.where(restored, state["returns"], 0.0)
        self._lengths = np.where(restored, state["lengths"], 0)
        if not restored.all():
            warnings.warn(
                f"{(~restored).sum()} of {self.num_envs} environments could not be brought back "
                "to where they were and began new episodes: from here on the run is not the one "
                "that was interrupted",
                RestoreWarning,
                stacklevel=2,
            )
        return restored


Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, Any]]


def _singles(env: Any) -> list[gymnasium.Env[Any, Any]]:
    envs = list(env) if isinstance(env, Sequence) and not isinstance(env, str) else [env]
    for one in envs:
        if not isinstance(one, gymnasium.Env):
            raise TypeError(
                f"{one!r} is no Gymnasium environment: give one, a sequence of them or a vector "
                "environment; envs.make makes them by an id"
            )
    return envs


def _id(env: Any) -> str:
    task = env.unwrapped
    return task.spec.id if task.spec is not None else type(task).__name__


def _wrappers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Env[Any, Any]]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env


def _as_registered(env: Any) -> bool:
    """Whether an environment, single or vector, is what its id alone stands for."""
    if isinstance(env, gymnasium.vector.VectorWrapper) or env.spec is None:
        return False
    try:
        registered = gymnasium.spec(env.spec.id)
    except gymnasium.error.Error:  # the id was registered in another program, or no longer is
        return False
    return _described(env.spec) == _described(registered)


def _described(spec: EnvSpec) -> str:
    """What makes the task, in words: arguments may be arrays, which have no one answer to ==."""
    kwargs = dict(spec.kwargs)
    for name in ("render_mode", "num_envs", "vectorization_mode"):
        kwargs.pop(name, None)
    limit = kwargs.pop("max_episode_steps", spec.max_episode_steps)  # vector forms take it so
    return repr((limit, sorted(kwargs.items()), spec.additional_wrappers))


class _Looped:
    """Single environments in a plain loop; each is reset at once when its episode ends."""

    def __init__(self, envs: list[gymnasium.Env[Any, Any]]) -> None:
        if not envs:
            raise ValueError("there are no environments: give at least one")
        if len({id(env) for env in envs}) < len(envs):
            raise ValueError("an environment is given twice: make another one for each place")
        self.envs = [Tape(env) for env in envs]
        self.num_envs = len(envs)
        self.singles = envs
        self.observation_space, self.action_space = envs[0].observation_space, envs[0].action_space
        for env in envs:
            if (env.observation_space, env.action_space) != (
                self.observation_space,
                self.action_space,
            ):
                raise ValueError(
                    f"environments stepped together need equal spaces: {env} differs from {envs[0]}"
                )
        self._structured = isinstance(self.action_space, spaces.Dict | spaces.Tuple)
        self._batch_action_space = batch_space(self.action_space, self.num_envs)

    def reset(self, seed: int | None) -> Any:
        seeds = zip(self.envs, spread(seed, self.num_envs), strict=True)
        return self._batch([env.reset(seed=its)[0] for env, its in seeds])

    def step(self, action: Any) -> tuple[Any, ...]:
        actions = iterate(self._batch_action_space, action) if self._structured else action
        obs, rewards, terminations, truncations, _ = zip(
            *(env.step(a) for env, a in zip(self.envs, actions, strict=True)), strict=True
        )
        next_obs = following = self._batch(obs)
        terminated, truncated = np.array(terminations, bool), np.array(truncations, bool)
        done = terminated | truncated
        if done.any():
            following = self._batch(
                [e.reset()[0] if d else o for e, d, o in zip(self.envs, done, obs, strict=True)]
            )
        valid = np.ones(self.num_envs, bool)
        return next_obs, _numbers(rewards), terminated, truncated, valid, following

    def _batch(self, obs: Sequence[Any]) -> Any:
        return _concatenate(self.observation_space, obs)

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def state_dict(self) -> Any:
        return [env.state_dict() for env in self.envs]

    def load_state_dict(self, state: Any, expected: list[np.ndarray]) -> tuple[Any, np.ndarray]:
        obs, restored = _play(self.envs, state, self.observation_space, expected)
        return self._batch(obs), restored


class _Vectorized:
    """A Gymnasium vector environment, whichever its autoreset mode."""

    def __init__(self, env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode not in set(AutoresetMode):
            known = ", ".join(f"AutoresetMode.{known.name}" for known in AutoresetMode)
            raise ValueError(
                f"{env} does not tell when it resets itself: set "
                f"metadata['autoreset_mode'] to one of {known}"
            )
        self.env = env
        self.mode = AutoresetMode(mode)
        self.num_envs = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.resetting = np.zeros(self.num_envs, bool)
        """Environments that will spend the next step on resetting themselves."""
        # Gymnasium's own vector forms say whether they copy; what others do, or a wrapper around
        # one, nobody knows.
        gymnasiums = type(env) in (SyncVectorEnv, AsyncVectorEnv, CartPoleVectorEnv)
        trusted = gymnasiums or isinstance(env, ClassicVectorEnv)
        self._reuses_arrays = not (trusted and getattr(env, "copy", True))
        self.singles: list[gymnasium.Env[Any, Any]] = []
        if type(env) is SyncVectorEnv:
            self.singles = list(env.envs)
            self._tapes = [Tape(single) for single in self.singles]
            env.envs = list(self._tapes)

    def reset(self, seed: int | None) -> Any:
        self.resetting = np.zeros(self.num_envs, bool)
        return self._own(self.env.reset(seed=seed)[0])

    def step(self, action: Any) -> tuple[Any, ...]:
        obs, rewards, terminations, truncations, info = self.env.step(action)
        next_obs = obs = self._own(obs)
        reward = _numbers(rewards)
        terminated, truncated = np.array(terminations, bool), np.array(truncations, bool)
        valid, done = ~self.resetting, terminated | truncated
        if self.mode is AutoresetMode.NEXT_STEP:
            self.resetting = done
        elif done.any() and self.mode is AutoresetMode.SAME_STEP:
            next_obs = self._final(obs, done, info)
        elif done.any():
            obs = self._own(self.env.reset(options={"reset_mask": done})[0])
        return next_obs, reward, terminated, truncated, valid, obs

    def _own(self, obs: Any) -> Any:
        return deepcopy(obs) if self._reuses_arrays else obs

    def _final(self, obs: Any, done: np.ndarray, info: Mapping[str, Any]) -> Any:
        """`obs` with the true successors of the episodes that ended, which are found in `info`."""
        if "final_obs" not in info:
            raise ValueError(
                f"{self.env} resets itself in the step that ends an episode, but does not give "
                "the last observation as info['final_obs']"
            )
        final = info["final_obs"]
        if isinstance(obs, np.ndarray) and final.dtype == obs.dtype:  # of all of them, as arrays
            return np.where(done.reshape(-1, *(1,) * (obs.ndim - 1)), final, obs)
        rows = zip(iterate(self.env.observation_space, obs), final, done, strict=True)
        return _concatenate(
            self.observation_space, [final if ended else row for row, final, ended in rows]
        )

    def close(self) -> None:
        self.env.close()

    def state_dict(self) -> Any:
        env = self.env
        if isinstance(env, ClassicVectorEnv):
            return env.state_dict()
        if type(env) is CartPoleVectorEnv:
            insides = {name: np.array(getattr(env, name)) for name in _CARTPOLE}
            return insides | {"rng": env.np_random.bit_generator.state}
        if type(env) is SyncVectorEnv:
            return {"resetting": self.resetting, "tapes": [t.state_dict() for t in self._tapes]}
        return {}

    def load_state_dict(self, state: Any, expected: list[np.ndarray]) -> tuple[Any, np.ndarray]:
        env = self.env
        if isinstance(env, ClassicVectorEnv):
            env.load_state_dict(state)
            return expected[0], np.ones(self.num_envs, bool)
        if type(env) is CartPoleVectorEnv:
            for name in _CARTPOLE:
                setattr(env, name, np.array(state[name]))
            env.np_random.bit_generator.state = state["rng"]
            self.resetting = env.prev_done.copy()
            return expected[0], np.ones(self.num_envs, bool)
        if type(env) is SyncVectorEnv:
            env.reset()
            obs, restored = _play(self._tapes, state["tapes"], self.observation_space, expected)
            self.resetting = state["resetting"] & restored
            env._autoreset_envs = self.resetting.copy()
            return _concatenate(self.observation_space, obs), restored
        return self.reset(None), np.zeros(self.num_envs, bool)


def _rows(function: Any, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    """A function of goals for M of them: all at once if it can, else one by one."""
    count = len(achieved)
    if achieved.shape[1:2] == (count,):  # where what sums over the wrong axis gives as many
        achieved, desired = (np.concatenate([goals, goals[:1]]) for goals in (achieved, desired))
    try:
        found = np.asarray(function(achieved, desired, {}))
    except (ValueError, TypeError, IndexError):  # as of an `if`, or math.dist, given arrays
        found = np.empty(())
    if found.shape != (len(achieved),):
        pairs = zip(achieved, desired, strict=True)
        found = np.array([function(one, other, {}) for one, other in pairs])
    return found[:count]


_CARTPOLE = ("state", "steps", "prev_done", "low", "high")
"""What Gymnasium's CartPoleVectorEnv is made of, its generator apart."""


ACTIONS = (spaces.Discrete, spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)
"""Action spaces that are supported, by themselves or as parts of a Dict or a Tuple."""


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.values())
    return list(space.spaces) if isinstance(space, spaces.Tuple) else [space]


def _fit(space: spaces.Space[Any], action: Any) -> Any:
    """Actions that the environments accept."""
    if isinstance(space, spaces.Box):
        if space.dtype.kind != "f" and np.asarray(action).dtype.kind == "f":
            action = np.rint(action)
        return np.clip(action, space.low, space.high).astype(space.dtype, copy=False)
    if isinstance(space, spaces.Dict):
        return {key: _fit(part, action[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_fit(part, a) for part, a in zip(space.spaces, action, strict=True))
    return np.array(action, space.dtype)  # a copy, whatever an environment does to its own


def _numbers(rewards: Any) -> np.ndarray:
    """Rewards as an array `(N,)`."""
    numbers = np.array(rewards, float)
    if numbers.ndim != 1:
        raise ValueError(
            f"an environment's reward is of shape {numbers.shape[1:]}: it has to be one number"
        )
    return numbers


def _concatenate(space: spaces.Space[Any], rows: Sequence[Any]) -> Any:
    batch: Any = create_empty_array(space, len(rows))
    try:
        return concatenate(space, rows, batch)
    except (KeyError, TypeError, ValueError) as error:
        shapes = [np.shape(row) for row in rows if space.shape not in (None, np.shape(row))]
        what = f"of shape {shapes[0]}" if shapes else "that is not of its kind"
        raise ValueError(
            f"an observation {what} came from an environment whose observation space is {space}"
        ) from error


def _play(
    envs: Sequence[Tape], tapes: Sequence[Any], space: spaces.Space[Any], expected: list[np.ndarray]
) -> tuple[list[Any], np.ndarray]:
    """Play each tape in its environment; a new episode where it does not lead to what is expected.

    Returns each environment's observation, and whether it is the one expected.
    """
    observations, restored = [], np.ones(len(envs), bool)
    for i, (env, tape) in enumerate(zip(envs, tapes, strict=True)):
        obs = env.load_state_dict(tape)
        if obs is not None:
            row = _concatenate(space, [obs])
            pairs = zip(_leaves(row), expected, strict=True)
            restored[i] = all(np.array_equal(a[0], b[i], equal_nan=True) for a, b in pairs)
        if obs is None or not restored[i]:
            restored[i], obs = False, env.reset()[0]
        observations.append(obs)
    return observations, restored


def _leaves(obs: Any) -> Iterator[np.ndarray]:
    """The arrays that an observation is made of, in the order of its space."""
    if isinstance(obs, Mapping):
        for part in obs.values():
            yield from _leaves(part)
    elif isinstance(obs, tuple):
        for part in obs:
            yield from _leaves(part)
    else:
        yield obs
