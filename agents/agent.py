"""What every agent is: act, observe, update, save, load. And its Actor, which steps envs."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.core.acting import Carried as Carried
from agents.core.files import (
    CheckpointError,
    check_types,
    config_from_json,
    config_to_json,
    read_arrays,
    space_from_json,
    space_to_json,
    versions,
    write_arrays,
)
from agents.core.learner import Learner, Target
from agents.core.manifest import agent_file
from agents.core.network import Head, Network, NetworkConfig
from agents.core.normalizer import ObservationNormalizer, RewardScaler
from agents.core.optimizers import OptimConfig
from agents.core.products import fast_products
from agents.core.schedules import linear
from agents.core.seeding import derived, stream
from agents.core.spaces import Actions, Observations, alike, is_stack
from agents.exploration import Temperature
from agents.memory import Hindsight, Replay, Rollout, Stream
from envs.transition import Transition

Metrics = dict[str, float]
"""An agent's own scalars of one `update`: the same names every time."""


@dataclass(frozen=True)
class AgentConfig:
    """What every agent can be told."""

    gamma: float = 0.99
    """Discount of a reward one step later."""
    normalize_obs: bool = False
    """Bring observations to mean 0 and variance 1 by running statistics, saved with the agent."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    clip_reward: bool = False
    """Learn from the signs of rewards (Mnih et al. 2015). What is logged and evaluated is whole."""
    hindsight: int = 0
    """Goals in hindsight for each real one (HER; Andrychowicz et al. 2017 use 4), for agents with a
    replay in goal-conditioned tasks."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """What the network is built of."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How the learner follows its gradient."""

    def __post_init__(self) -> None:
        check_types(self)
        self.require("gamma", 0.0 <= self.gamma <= 1.0, "a number in [0, 1]")
        self.require("hindsight", self.hindsight >= 0, "0 or more")
        whole = not (self.hindsight and self.clip_reward)
        self.require("clip_reward", whole, "False with hindsight, which judges rewards itself")
        alone = not (self.clip_reward and self.normalize_reward)
        self.require("clip_reward", alone, "it without normalize_reward, or False")

    def check_replay(self) -> None:
        """Raise ValueError for a field of its replay that it cannot have, in agents with one."""
        given = vars(self)
        for name in ("buffer_size", "batch_size", "train_every"):
            self.require(name, given[name] >= 1, "1 or more")
        fits = given["buffer_size"] >= given["batch_size"]
        self.require("buffer_size", fits, f"batch_size, {given['batch_size']}, or more")
        self.require("learning_starts", given["learning_starts"] >= 0, "0 or more")
        self.require("updates_per_step", given["updates_per_step"] > 0, "a positive number")

    def check_exploration(self) -> None:
        """Raise ValueError for a field of its exploration that it cannot have, in agents that act
        by the values of actions, and for one of another way to explore.

        A preset's ε may stay beside boltzmann, which makes nothing of it.
        """
        given = vars(self)
        self.require("epsilon_steps", given["epsilon_steps"] >= 0, "0 or more")
        for name in ("epsilon_start", "epsilon_end"):
            self.require(name, 0 <= given[name] <= 1, "a probability in [0, 1]")
        kind = given.get("exploration")
        if "temperature" in given:
            self.require("temperature", given["temperature"] > 0, "a number above 0")
            if kind != "boltzmann":
                self.require_default(f"with exploration {kind}", "temperature")
        if "duration_exponent" in given:
            self.require("duration_exponent", given["duration_exponent"] > 1, "a number above 1")
            if kind != "ez_greedy":
                self.require_default(f"with exploration {kind}", "duration_exponent")

    def check_temperature(self) -> None:
        """Raise ValueError for a field of its temperature that it cannot have, in soft agents."""
        given = vars(self)
        self.require("temperature", (given["temperature"] or 0) >= 0, "0 or more, or None")
        self.require("initial_temperature", given["initial_temperature"] > 0, "a positive number")
        self.require("target_entropy", True, "a finite number, or None")
        if given["temperature"] is not None:
            self.require_default(
                "beside a fixed temperature", "initial_temperature", "target_entropy"
            )

    def require(self, name: str, holds: bool, what: str) -> None:
        """Raise ValueError that names the field, its value and what would be right."""
        value = getattr(self, name)
        if not holds or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name} is {value}: use {what}")

    def require_default(self, why: str, *names: str) -> None:
        """Raise ValueError for the first of these fields that is not left at its default, although
        it has no effect."""
        for name in names:
            if (value := getattr(self, name)) != (default := getattr(type(self), name)):
                raise ValueError(
                    f"{name} is {value}, which has no effect {why}: set it to {default}"
                )


def usable(device: torch.device | str) -> torch.device:
    """The device. Raises ValueError where this machine does not have it."""
    try:
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {device} cannot be used on this machine: use cpu") from None
    return torch.device(device)


class Agent:
    """The base of every agent. A subclass says what it is made of and how it learns:

    - `name`, `Config`: its name on the command line and its config dataclass;
    - `build()`: its networks, learners and memory, through `new_network`, `new_learner`,
      `new_target`;
    - `choose(obs, explore, rng)`: actions for a batch of observations; if they depend on what an
      episode carries along, `begin` and `carry_on` in its place;
    - `update(batch)`: one round of learning from what the memory yields;
    - `estimate(obs)`, if it has a critic: what it says of observations.

    Raises ValueError for a space or a config that the agent does not support, a seed below 0, and a
    device that is not there, and TypeError for a subclass that lacks one of these.
    """

    name: ClassVar[str]
    Config: ClassVar[type[AgentConfig]]

    noisy: ClassVar[bool] = False
    """Whether it explores by the noisy layers of a network, if the config asks for them."""
    batch_statistics: ClassVar[bool] = False
    """Whether its losses hand back batch statistics, which batch renormalisation learns by."""

    recurrent: ClassVar[bool] = False
    """Whether it learns with a network that remembers, if the config asks for one."""

    kept: ClassVar[tuple[str, ...]] = ()
    """Names of what episodes may carry that the memory is to keep with each step, as it was when
    the action was chosen: in a transition's `extras`."""

    memory: Rollout | Replay | Stream

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: AgentConfig | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        trunk: nn.Module | None = None,
    ) -> None:
        for name in ("name", "Config"):
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no {name}: give it one, as Agent says")
        config = config if config is not None else self.Config()
        if type(config) is not self.Config:  # another could not be loaded as what it is
            raise ValueError(
                f"{self.name} takes a {self.Config.__name__}, not a {type(config).__name__}: give "
                "one, or make a class with the other for its Config"
            )
        for what, space in (("observation", observation_space), ("action", action_space)):
            if not isinstance(space, spaces.Space):
                raise TypeError(
                    f"the {what} space is {space!r}: give a Gymnasium space, such as a VectorEnv "
                    f"has as its {what}_space"
                )
        self.observation_space = observation_space
        self.action_space = action_space
        self.config = config
        self.rng = stream(seed, "update")
        """For what an update draws: minibatches, actions at a truncation."""
        self.seed = int(seed)
        self.device = usable(device)
        self.observations = Observations(observation_space)
        self.actions = Actions(action_space)
        self._check_mask()
        self.steps = 0
        """Valid environment steps observed."""
        self.learners: dict[str, Learner] = {}
        self.targets: dict[str, Target] = {}
        self.obs_normalizer = (
            ObservationNormalizer(self.observations.numeric) if config.normalize_obs else None
        )
        self.reward_scaler = RewardScaler(config.gamma) if config.normalize_reward else None
        self.noise = torch.Generator(self.device).manual_seed(derived(seed, "noise"))
        """For the noise that goes into a loss, such as dropout's."""
        self._trunk = self._next_trunk = trunk
        self._init = torch.Generator().manual_seed(derived(seed, "init"))
        self._predictions = stream(seed, "predict")
        self.build()
        if not hasattr(self, "memory"):
            raise TypeError(
                f"{type(self).__name__}.build() made no memory: set self.memory to a Rollout, a "
                "Replay or a Stream"
            )
        if config.hindsight and not isinstance(self.memory, Hindsight):
            raise ValueError(
                f"hindsight is {config.hindsight}, but {self.name} has no replay: leave it 0"
            )

    def _check_mask(self) -> None:
        """Raise ValueError for a mask of actions that are not choices: nobody would heed it."""
        choices = all(
            isinstance(part, spaces.Discrete | spaces.MultiDiscrete) for part in self.actions.parts
        )
        if self.observations.mask is not None and not choices:
            raise ValueError(
                "the observation has an action_mask, which allows or forbids Discrete or "
                f"MultiDiscrete actions, but the action space is {self.action_space}: leave it out"
            )

    # What a subclass gives -----------------------------------------------------------------------

    def build(self) -> None:
        """Make the networks, learners and memory."""
        raise NotImplementedError

    def choose(self, obs: Tensor, explore: bool, rng: np.random.Generator) -> np.ndarray:
        """Actions for observations `(N, size)`, under `torch.inference_mode`.

        `(N,)` from 0 for a Discrete space, for others `(N, columns)`, as `Actions` stores them.
        """
        raise NotImplementedError

    def begin(self, count: int, explore: bool, rng: np.random.Generator) -> Carried:
        """What each of `count` environments carries through the episode that it begins.

        Arrays `(count, ...)` by name, the same names every time. Most agents carry nothing.
        """
        return {}

    def carry_on(
        self, obs: Tensor, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """`choose` with what `begin` gave these episodes, which may be changed in place."""
        return self.choose(obs, explore, rng)

    def estimate(self, obs: Tensor) -> Tensor | None:
        """The discounted return that the agent expects from here when it acts greedily, `(N,)`.

        From observations `(N, size)`, in the units of the rewards it learns from; None if it has no
        critic. What it carries through an episode is unknown here.
        """
        return None

    def update(self, batch: Transition) -> Metrics:
        """Learn from a batch of the memory's. Returns the agent's own scalars."""
        raise NotImplementedError

    # What a subclass builds with -----------------------------------------------------------------

    def new_network(
        self,
        heads: Mapping[str, Head | int | Literal["scalar"]],
        config: NetworkConfig | None = None,
        action_size: int = 0,
    ) -> Network:
        """A network over the observation space, drawn from the agent's own random stream.

        It is built by `config.network`, or by another config where the agent has several networks.
        With an `action_size` it reads an action too. A trunk of the user's own stands in the first
        one, copies of it in those that follow; all networks are made before the learners, whose
        flat vectors no copy shares.
        Raises ValueError for settings that a trunk of the user's own would leave without effect.
        """
        config = config if config is not None else self.config.network
        if config.noisy and not self.noisy:
            raise ValueError(
                f"network.noisy explores for DQN and its kin, {self.name} has no use for it: leave "
                "it False"
            )
        if config.norm == "batch_renorm" and not self.batch_statistics:
            raise ValueError(
                "network.norm='batch_renorm' is for agents whose losses hand back batch "
                f"statistics, {self.name} would never learn them: use none or layer"
            )
        if config.recurrent != "none" and not self.recurrent:
            raise ValueError(
                f"network.recurrent is {config.recurrent!r}, and {self.name} does not "
                "learn from sequences: use none, or an agent that does, such as recurrent_ppo"
            )
        if self._trunk is not None:
            for name in ("conv", "hidden_sizes", "activation", "block", "norm", "residual"):
                value = getattr(config, name)
                if value != getattr(self.Config().network, name):
                    raise ValueError(
                        f"network.{name} is {value}, which has no effect on a trunk of your own: "
                        "leave it at its default"
                    )
        trunk, self._next_trunk = self._next_trunk, copy.deepcopy(self._next_trunk)
        return Network(self.observation_space, heads, config, self._init, trunk, action_size).to(
            self.device
        )

    def new_learner(
        self, name: str, optim: OptimConfig | None = None, **modules: nn.Module
    ) -> Learner:
        """A learner over these modules; it is saved, resumed and recorded under its name.

        It steps by `config.optim`, or by another config where the agent has several learners.
        """
        self.learners[name] = Learner(modules, optim or self.config.optim, name)
        return self.learners[name]

    def new_temperature(
        self, fixed: float | None, initial: float
    ) -> tuple[Temperature, Learner | None]:
        """What a nat of entropy is worth: `fixed`, or learned from `initial` on where that is None.

        Its learner goes by the name of temperature and steps by `config.optim`.
        """
        temperature = Temperature(initial if fixed is None else fixed).to(self.device)
        if fixed is not None:
            return temperature, None
        return temperature, self.new_learner("temperature", temperature=temperature)

    def new_target(self, learner: Learner) -> Target:
        """A frozen copy of a learner's modules, saved and resumed with the agent."""
        self.targets[learner.name] = Target(learner)
        return self.targets[learner.name]

    def new_replay(self, **options: Any) -> Replay:
        """A replay of this agent's observations and actions with a random stream of its own.

        Its size, and which updates fall due, are the config's. `options` are other ones
        of `Replay`: n_step, frames, priority_exponent… Raises ValueError where the observations are
        no stack of so many frames.
        """
        given, frames = vars(self.config), options.get("frames", 1)
        if frames > 1 and not is_stack(self.observation_space, frames):
            raise ValueError(
                f"frames is {frames}, but the observations are no stacks of so many, but of "
                f"{self.observation_space}: use FrameStackObservation(env, {frames}) around the "
                "environment, or frames 1"
            )
        if self.config.hindsight:
            options |= self._goals()
        return (Hindsight if self.config.hindsight else Replay)(
            given["buffer_size"],
            given["batch_size"],
            given["updates_per_step"],
            given["learning_starts"],
            stream(self.seed, "replay"),
            self.device,
            given["train_every"],
            obs_size=self.observations.size,
            obs_dtype=self.observations.dtype,
            action_shape=self.actions.shape,
            action_dtype=self.actions.dtype,
            gamma=self.config.gamma,
            **options,
        )

    def _goals(self) -> dict[str, Any]:
        """What Hindsight is told of the observations."""
        space, names = self.observation_space, ("achieved_goal", "desired_goal")
        if not isinstance(space, spaces.Dict) or not set(names) <= set(space.spaces):
            raise ValueError(
                f"hindsight is {self.config.hindsight}, but the observations have no "
                f"achieved_goal and desired_goal: leave it 0 for {space}"
            )
        if not alike(space["achieved_goal"], space["desired_goal"]):
            raise ValueError(
                f"hindsight is {self.config.hindsight}, but achieved_goal is {space[names[0]]} and "
                f"desired_goal {space[names[1]]}: make them goals of one space, or leave it 0"
            )
        achieved, desired = (self.observations.columns_of(name) for name in names)
        return {
            "goals": self.config.hindsight,
            "achieved": achieved,
            "desired": desired,
            "unstored": partial(self.observations.part, names[0]),
        }

    def discrete_actions(self) -> int:
        """The number of actions. Raises ValueError when they are not Discrete."""
        if not isinstance(self.action_space, spaces.Discrete):
            raise ValueError(
                f"{self.name} needs a Discrete action space, this one is {self.action_space}"
            )
        return int(self.action_space.n)

    def refuse_trunk(self) -> None:
        """Raise ValueError with a trunk of the user's own, for an agent of several networks."""
        if self._trunk is not None:
            raise ValueError(
                f"{self.name} has an actor and a critic with a trunk each, which one of your own "
                "cannot be: set network and critic_network instead"
            )

    def bounded_actions(self) -> int:
        """The numbers of an action, each in [-1, 1]. Raises ValueError without a bounded Box."""
        if not isinstance(self.action_space, spaces.Box):
            raise ValueError(
                f"{self.name} needs a Box of actions, the action space is {self.action_space}"
            )
        if not self.actions.bounded.all():
            raise ValueError(
                f"{self.name} needs actions with finite bounds, low below high, the action space "
                f"is {self.action_space}: see gymnasium.wrappers.RescaleAction, or give bounds to "
                "the Box"
            )
        return len(self.actions.bounded)

    def learned(self, reward: np.ndarray) -> np.ndarray:
        """Rewards of the environment as the agent learns from them now, clipped and scaled."""
        reward = self._clipped(reward)
        return reward if self.reward_scaler is None else reward * self.reward_scaler.scale

    def _clipped(self, reward: np.ndarray) -> np.ndarray:
        """Their signs, if it learns from these; what is not finite stays so, for the guard."""
        if not self.config.clip_reward:
            return reward
        return np.where(np.isfinite(reward), np.sign(reward), reward)

    def scaled(self, reward: Tensor) -> Tensor:
        """Rewards as the agent learns from them."""
        return reward if self.reward_scaler is None else reward * self.reward_scaler.scale

    def normalized(self, obs: Tensor) -> Tensor:
        """Raw observations from a replay as the network reads them."""
        return obs if self.obs_normalizer is None else self.obs_normalizer.tensor(obs)

    # Acting --------------------------------------------------------------------------------------

    def act(self, obs: Any, explore: bool = False) -> Any:
        """The greedy action for one observation or a batch of them, fit for the environment.

        Each is taken for the first of an episode: an actor knows what came before. Raises
        ValueError when the observation does not fit the space or is not finite.
        """
        return self._predict(obs, None, None, explore)[0]

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """`(action, state)`, so that Stable-Baselines3's tools accept the agent.

        `state` is what the episodes carry along, as the last call gave it; where `episode_start` is
        true, and without a state, an episode begins. What an agent that carries nothing is given is
        given back.
        """
        action, carried = self._predict(observation, state, episode_start, not deterministic)
        return action, carried or state

    def _predict(
        self, obs: Any, state: Any, episode_start: Any, explore: bool
    ) -> tuple[Any, Carried]:
        self.observations.check(obs)
        flat = self.observations.flatten(obs)
        if not np.isfinite(flat).all():
            raise ValueError("the observation is not finite: there is no sensible action for it")
        rows = flat.reshape(-1, flat.shape[-1])
        carried = self.begin(len(rows), explore, self._predictions)
        if carried and state is not None:
            start = np.zeros(len(rows), bool) if episode_start is None else episode_start
            start = np.asarray(start, bool).reshape(-1)
            if len(start) not in (1, len(rows)):
                raise ValueError(
                    f"episode_start is of {len(start)} episodes, the observations are "
                    f"{len(rows)}: give one for each, or one for all"
                )
            start = np.broadcast_to(start, len(rows))
            for name, begun in carried.items():
                before = state[name] if isinstance(state, Mapping) and name in state else None
                if before is None or np.shape(before) != begun.shape:
                    raise ValueError(
                        f"the state is none that {self.name} gave for {len(rows)} observations: "
                        "give None where their episodes begin"
                    )
                kept = ~start.reshape(-1, *[1] * (begun.ndim - 1))
                carried[name] = np.where(kept, np.asarray(before, begun.dtype), begun)
        action = self._act(rows, carried, explore, self._predictions)
        action = action.reshape(flat.shape[:-1] + action.shape[1:])
        return self.actions.unflatten(action[()], fit=True), carried

    @property
    def epsilon(self) -> float:
        """The probability of a random action now, in agents that act by the values of actions."""
        given = vars(self.config)
        passed = self.steps / given["epsilon_steps"] if given["epsilon_steps"] else 1.0
        return linear(passed, given["epsilon_start"], given["epsilon_end"])

    def actor(self, num_envs: int, explore: bool = True, seed: int = 0) -> Actor:
        """What steps `num_envs` environments with this agent."""
        return Actor(self, num_envs, explore, seed)

    @torch.inference_mode()
    def expected_return(self, obs: Any) -> np.ndarray | None:
        """`estimate` for a batch of the environment's observations, `(N,)`."""
        flat = self.observations.flatten(obs)
        if self.obs_normalizer is not None:
            flat = self.obs_normalizer(flat)
        value = self.estimate(torch.from_numpy(flat).to(self.device))
        return None if value is None else value.cpu().numpy()

    @torch.inference_mode()
    def _act(
        self, flat: np.ndarray, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """Actions as they are stored, from `(N, size)`."""
        if self.obs_normalizer is not None:
            flat = self.obs_normalizer(flat)
        if not np.isfinite(flat).all():  # the guard refuses to learn from it; an action must be had
            flat = np.where(np.isfinite(flat), flat, 0)
        return self.carry_on(torch.from_numpy(flat).to(self.device), carried, explore, rng)

    # Learning ------------------------------------------------------------------------------------

    def plan(self, steps: int) -> None:
        """Tell the schedules how many environment steps the training is to take."""
        for learner in self.learners.values():
            learner.planned = steps

    def observe(self, transition: Transition) -> None:
        """Remember one step of N environments. Normalisers learn here, never in a loss."""
        obs = self.observations.flatten(transition.obs)
        next_obs = self.observations.flatten(transition.next_obs)
        valid = transition.valid
        self.steps += int(np.count_nonzero(valid))
        for learner in self.learners.values():
            learner.env_steps = self.steps
        if self.obs_normalizer is not None:
            seen = obs[valid]
            if isinstance(self.memory, Hindsight):
                seen = self.memory.also_achieved(seen)
            if not self.memory.raw:  # by the statistics it was acted on, before they move
                obs, next_obs = self.obs_normalizer(obs), self.obs_normalizer(next_obs)
            self.obs_normalizer.update(seen)
        if self.reward_scaler is not None:
            self.reward_scaler.observe(transition.reward, transition.done, valid)
        reward = np.asarray(transition.reward, np.float32)
        self.memory.add(
            Transition(
                obs,
                self.actions.flatten(transition.action),
                self._clipped(reward),  # here, for a memory may sum several of them
                next_obs,
                transition.terminated,
                transition.truncated,
                valid,
                transition.extras,
            )
        )

    def learn(self, batch: Transition) -> Metrics:
        """`update`, with whichever library is the faster for matrix products of this size."""
        with fast_products(self._largest_product):
            return self.update(batch)

    @cached_property
    def _largest_product(self) -> int:
        """Multiplications that an update's rows take in its largest layer; 0 on a device."""
        if self.device.type != "cpu":
            return 0
        rows: int = vars(self.config).get("batch_size") or vars(self.config).get("rollout_size", 1)
        weights = (w for learner in self.learners.values() for w in learner.flat.parameters)
        sizes = (math.prod(weight.shape[-2:]) for weight in weights if weight.ndim >= 2)
        return rows * max(sizes, default=0)

    def check_envs(self, num_envs: int) -> None:
        """Raise ValueError for what cannot be, or has no effect, in so many environments."""
        if isinstance(self.memory, Replay):
            self.memory.check_room(num_envs)

    def cut(self, where: np.ndarray) -> None:
        """Told where `(N,)` environments begin anew before their episode ended."""
        self.memory.cut(where)
        if self.reward_scaler is not None:
            self.reward_scaler.cut(where)

    # Saving --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write one file from which `agents.load` makes an agent that acts the same.

        It holds the weights and the normalisers as safetensors; config, spaces and versions as
        JSON in its header. What training needs beyond that lies in a run's checkpoints.

        Raises ValueError for a class without a `name` of its own: under that of the class it
        derives from, it would be loaded as that.
        """
        self.check_name()
        arrays = {
            f"{learner.name}.{key}.{name}": value
            for learner in self.learners.values()
            for key, module in learner.modules.items()
            for name, value in module.state_dict().items()
        }
        normalizers = {}
        for name, part in self._normalizers().items():
            state = part.state_dict()
            arrays |= {f"{name}.{key}": state[key] for key in ("mean", "variance")}
            normalizers[name] = state["count"]
        header = {
            "agent": self.name,
            "config": config_to_json(self.config),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "seed": self.seed,
            "steps": self.steps,
            "normalizers": normalizers,
            "trunk": "own" if self._trunk is not None else "built",
            "versions": versions(),
        }
        write_arrays(path, arrays, header)

    def check_name(self) -> None:
        """Raise ValueError where the class has no name of its own to be saved under."""
        cls = type(self)
        if "name" not in vars(cls):
            raise ValueError(
                f"{cls.__name__} has no name of its own and would be loaded as {self.name}: give "
                f"it one, as in name = {cls.__name__.lower()!r}"
            )

    @classmethod
    def from_file(
        cls, path: str | Path, device: torch.device | str = "cpu", trunk: nn.Module | None = None
    ) -> Self:
        """The agent that `save` wrote to a file, or the last checkpoint of a run in its folder.

        A trunk of the user's own is to be given again. Raises CheckpointError when the file is not
        whole, not ours, or of another agent, ValueError for a device that is not there.
        """
        device = usable(device)
        path = agent_file(path)
        arrays, header = read_arrays(path)
        try:
            if header["agent"] != cls.name:
                raise CheckpointError(f"{path} holds a {header['agent']} agent, not {cls.name}")
            if (header["trunk"] == "own") != (trunk is not None):
                hint = "give it as trunk=" if trunk is None else "leave trunk= out"
                raise CheckpointError(f"{path} was saved with a trunk {header['trunk']}: {hint}")
            agent = cls(
                space_from_json(header["observation_space"]),
                space_from_json(header["action_space"]),
                config_from_json(cls.Config, header["config"]),
                header["seed"],
                device,
                trunk,
            )
            agent._load_arrays(arrays, header)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())  # torch lists what is missing line by line
            raise CheckpointError(f"{path} does not hold a whole {cls.name} agent: {why}") from None
        return agent

    def _load_arrays(self, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
        for learner in self.learners.values():
            for key, module in learner.modules.items():
                prefix = f"{learner.name}.{key}."
                module.load_state_dict(
                    {
                        name.removeprefix(prefix): torch.from_numpy(array)
                        for name, array in arrays.items()
                        if name.startswith(prefix)
                    }
                )
        for target in self.targets.values():
            target.follow()
        for name, part in self._normalizers().items():
            mean, variance = arrays[f"{name}.mean"], arrays[f"{name}.variance"]
            if not mean.shape == variance.shape == part.mean.shape:
                raise ValueError(f"{name} has {mean.shape} columns, not {part.mean.shape}")
            part.mean, part.variance = mean, variance
            part.count = header["normalizers"][name]
        self.steps = header["steps"]

    def _normalizers(self) -> dict[str, ObservationNormalizer | RewardScaler]:
        parts = {"obs_normalizer": self.obs_normalizer, "reward_scaler": self.reward_scaler}
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """All that later updates and actions depend on, the memory apart."""
        parts = {**self.learners, **self._normalizers()}
        return {
            "steps": self.steps,
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "targets": {name: target.state_dict() for name, target in self.targets.items()},
            "rng": self.rng.bit_generator.state,
            "predictions": self._predictions.bit_generator.state,
            "noise": self.noise.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
        self.steps = int(state["steps"])
        for name, part in {**self.learners, **self._normalizers()}.items():
            part.load_state_dict(state["parts"][name])
        for name, target in self.targets.items():
            target.load_state_dict(state["targets"][name])
        self.rng.bit_generator.state = state["rng"]
        self._predictions.bit_generator.state = state["predictions"]
        self.noise.set_state(torch.as_tensor(state["noise"]))


class Actor:
    """Steps environments with an agent; owns what lives with a stream of experience.

    That is the random stream, and what each environment carries through its episode.
    """

    def __init__(self, agent: Agent, num_envs: int, explore: bool, seed: int) -> None:
        self.agent = agent
        self.num_envs = num_envs
        self.explore = explore
        self.rng = stream(seed, "exploration")
        self.carried = agent.begin(num_envs, explore, self.rng)

    def act(self, obs: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """Actions for `num_envs` observations, and what is to be kept with the step.

        Actions have the structure of their space, each array a leading axis `(N,)`. Box ones are
        not clipped: the environment is given what it takes by `VectorEnv`, and the agent learns
        from what it drew.
        """
        flat = self.agent.observations.flatten(obs)
        extras = {n: self.carried[n].copy() for n in self.agent.kept if n in self.carried}
        action = self.agent._act(flat, self.carried, self.explore, self.rng)
        return self.agent.actions.unflatten(action), extras

    def reset(self, done: np.ndarray) -> None:
        """Told after each step where `(N,)` it leads on to another episode, `Transition.over`."""
        if self.carried and done.any():
            begun = self.agent.begin(int(np.count_nonzero(done)), self.explore, self.rng)
            for name, array in begun.items():
                self.carried[name][done] = array

    def state_dict(self) -> dict[str, Any]:
        carried = {name: array.copy() for name, array in self.carried.items()}
        return {"rng": self.rng.bit_generator.state, "carried": carried}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        for name, array in self.carried.items():
            array[:] = state["carried"][name]
