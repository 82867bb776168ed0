"""Small, quick settings for any agent, what it learns from, and how states are compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

from agents.agent import Agent, AgentConfig
from agents.core.files import split_state
from envs.transition import Transition
from envs.vector import VectorEnv

SMALL: dict[str, Any] = {
    "rollout_size": 16,
    "episodes_per_update": 3,
    "epochs": 2,
    "batch_size": 8,
    "learning_starts": 32,
    "buffer_size": 200,
    "updates_per_step": 0.25,
    "target_every": 3,
    "policy_every": 2,
    "initial_temperature": 0.5,  # its logarithm, which is learned, is not 0
    "network": {"hidden_sizes": (16, 16)},
}
"""An agent is given those of these settings that its config knows; the others stay as they are."""

LIMIT = 20_000
"""Steps after which an agent that has not learned is not going to."""


class Push(gymnasium.ActionWrapper[Any, Any, Any]):
    """CartPole that is pushed to the right by a number above 0 and else to the left."""

    def __init__(self) -> None:
        super().__init__(CartPoleEnv())
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def action(self, action: Any) -> int:
        return int(action[0] > 0)


gymnasium.register("tests/Push-v0", entry_point=f"{__name__}:Push", max_episode_steps=500)


def chooses(cls: type[Agent]) -> bool:
    """Whether it can choose one of several actions; else it needs a Box of them."""
    try:
        cls(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), config(cls))
    except ValueError:
        return False
    return True


def task(cls: type[Agent]) -> str:
    """The id of a task with CartPole's observations and actions that the agent accepts."""
    return "CartPole-v1" if chooses(cls) else "tests/Push-v0"


def config(cls: type[Agent], **settings: Any) -> AgentConfig:
    """A config with `SMALL` and `settings`; a dict changes the fields of a nested config.

    What is said of `network` and `optim` holds for those of a critic too.
    """
    default = cls.Config()
    known = {f.name for f in fields(default)}
    given = SMALL | settings
    for name in ("network", "optim"):
        if name in given:
            given = {f"critic_{name}": given[name]} | given
    changes = {name: value for name, value in given.items() if name in known}
    if changes.get("exploration") != "boltzmann" and "exploration" in known:
        changes.pop("temperature", None)  # another than that of entropy, without effect there
    if changes.get("temperature") is not None:  # one that is fixed does not begin anywhere
        changes.pop("initial_temperature", None)
    for name, value in changes.items():
        if isinstance(value, dict):
            nested = getattr(default, name)
            recurs = getattr(nested, "recurrent", "none") != "none"
            if recurs or getattr(nested, "noisy", False):  # they have no place for dropout
                value = {key: setting for key, setting in value.items() if key != "dropout"}
            changes[name] = replace(nested, **value)
    return replace(default, **changes)


def small(cls: type[Agent], tasks: VectorEnv, seed: int = 0, **settings: Any) -> Any:
    """An agent for these environments, with whatever an agent of its kind has."""
    spaces = tasks.observation_space, tasks.action_space
    return cls(*spaces, config(cls, **settings), seed=seed)


def batches(agent: Agent, tasks: VectorEnv, seed: int = 0) -> Iterator[Transition]:
    """The loop without the update: every batch that falls due while the agent acts."""
    actor = agent.actor(tasks.num_envs, seed=seed)
    agent.plan(LIMIT)
    obs = tasks.reset(seed)
    while agent.steps < LIMIT:
        action, extras = actor.act(obs)
        transition, obs = tasks.step(action, extras)
        actor.reset(transition.over)
        agent.observe(transition)
        yield from agent.memory.batches()


def weights(agent: Agent) -> torch.Tensor:
    """A copy of all weights of an agent, learner by learner."""
    return torch.cat([learner.flat.vector for learner in agent.learners.values()])


def updates(agent: Agent) -> int:
    """Accepted steps of all its optimisers."""
    return sum(learner.updates for learner in agent.learners.values())


def bits(state: Any) -> tuple[dict[str, Any], str]:
    """A nested state in a form that is equal only if every bit of it is."""
    arrays, tree = split_state(state)
    raw = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}
    return raw, json.dumps(tree, sort_keys=True)
