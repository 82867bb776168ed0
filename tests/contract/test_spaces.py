"""Every supported space is learned from; the others are refused in one line that names them."""

import re
from dataclasses import replace
from itertools import combinations, islice
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector.utils import batch_space

import agents
from envs.vector import VectorEnv
from tests.contract.support import batches, chooses, config, small, updates, weights

BOX, DISCRETE = spaces.Box(-1, 1, (3,)), spaces.Discrete(3)
PARTS = {
    "place": spaces.Box(-5, 5, (2, 2)),
    "digit": spaces.Discrete(4, start=7),
    "digits": spaces.MultiDiscrete([3, 2]),
    "switches": spaces.MultiBinary(3),
}
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "box": BOX,
    "image": spaces.Box(0, 255, (3, 4, 4), np.uint8),
    "frames": spaces.Box(0, 255, (2, 36, 36), np.uint8),
    "grid": spaces.Box(0.0, 1.0, (5, 4, 2), dtype=np.bool_),
    "discrete": PARTS["digit"],
    "multi_discrete": spaces.MultiDiscrete(np.array([[3, 2], [4, 2]])),
    "multi_binary": spaces.MultiBinary([2, 2]),
    "dict": spaces.Dict(PARTS),
    "tuple": spaces.Tuple(list(PARTS.values())),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3, start=-1),
    "box": spaces.Box(np.array([[-1.0, 0.0]]), np.array([[1.0, 5.0]]), dtype=np.float64),
    "multi_discrete": spaces.MultiDiscrete(
        np.array([[3, 2], [4, 2]]), start=np.array([[1, 0], [-2, 0]])
    ),
    "multi_binary": spaces.MultiBinary([2, 2]),
    "dict": spaces.Dict(PARTS),
    "tuple": spaces.Tuple(list(PARTS.values())),
}


def actions_of(cls):
    """Actions that the agent accepts."""
    return DISCRETE if chooses(cls) else spaces.Box(-1, 1, (2,))


class Anything(gymnasium.Env):
    """Random observations and rewards, episodes of five steps. Insists on its action space."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = 5
        return self.observation_space.sample(), {}

    def step(self, action):
        assert action in self.action_space
        self.left -= 1
        reward = self.np_random.normal()
        return self.observation_space.sample(), reward, self.left == 0, False, {}


def learned(cls, observation_space, action_space, tmp_path):
    """Train in such spaces; what is saved acts as what was trained."""
    tasks = VectorEnv([Anything(observation_space, action_space) for _ in range(3)])
    agent = small(cls, tasks, normalize_obs=True)
    began = weights(agent)
    for batch in islice(batches(agent, tasks), 4):
        agent.update(batch)
    assert updates(agent) >= 4
    assert weights(agent).isfinite().all()
    assert not weights(agent).equal(began)
    agent.save(tmp_path / "agent.safetensors")
    loaded = agents.load(tmp_path / "agent.safetensors")
    assert (loaded.observation_space, loaded.action_space) == (observation_space, action_space)
    observation_space.seed(0)
    seen = [observation_space.sample() for _ in range(5)]
    for obs in seen:
        action = agent.act(obs)
        assert action in action_space
        assert data_equivalence(action, loaded.act(obs))
    for obs, other in combinations(seen, 2):  # what the network reads tells them apart
        one, two = (agent.observations.expand(flat(agent, o)) for o in (obs, other))
        assert one.equal(two) == data_equivalence(obs, other)
    batched = agent.act(tasks.obs)
    assert batched in batch_space(action_space, 3)


def flat(agent, obs):
    return torch.from_numpy(agent.observations.flatten(obs))


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_supported_observations_are_learned_from(cls, name, tmp_path):
    learned(cls, OBSERVATIONS[name], actions_of(cls), tmp_path)


@pytest.mark.parametrize("name", ACTIONS)
def test_actions_are_learned_or_refused(cls, name, tmp_path):
    space = ACTIONS[name]
    try:
        cls(BOX, space, config(cls))
    except ValueError:
        with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(str(space))}[^\n]*$"):
            cls(BOX, space, config(cls))
    else:
        learned(cls, BOX, space, tmp_path)


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (spaces.Text(5), DISCRETE),
        (spaces.Sequence(BOX), DISCRETE),
        (spaces.Graph(BOX, None), DISCRETE),
        (spaces.Dict({"inner": spaces.Dict({"deep": BOX})}), DISCRETE),
        (spaces.Tuple([BOX, spaces.Text(5)]), DISCRETE),
        (BOX, spaces.Text(5)),
        (BOX, spaces.Dict({"inner": spaces.Dict({"deep": BOX})})),
        (BOX, spaces.Tuple([DISCRETE, spaces.Text(5)])),
        (spaces.Box(-1, 1, (0,)), DISCRETE),
        (spaces.Dict({}), DISCRETE),
        (spaces.Tuple([]), DISCRETE),
        (BOX, spaces.Box(-1, 1, (2, 0))),
        (BOX, spaces.Dict({})),
    ],
    ids=str,
)
def test_other_spaces_are_refused_by_name(cls, observation_space, action_space):
    actions = actions_of(cls) if action_space is DISCRETE else action_space
    with pytest.raises(ValueError) as error:
        cls(observation_space, actions, config(cls))
    wrong = action_space if observation_space is BOX else observation_space
    inner = wrong.spaces if isinstance(wrong, spaces.Dict | spaces.Tuple) else ()
    parts = inner.values() if isinstance(inner, dict) else inner
    assert any(str(space) in str(error.value) for space in (wrong, *parts))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("obs", [np.zeros(4), np.zeros((2, 4)), np.zeros(())], ids=np.shape)
def test_an_observation_of_another_shape_is_refused(cls, obs):
    agent = cls(BOX, actions_of(cls), config(cls))
    with pytest.raises(ValueError, match="does not fit"):
        agent.act(obs)


def test_observations_and_actions_may_come_in_any_layout(cls):
    agent = cls(BOX, actions_of(cls), config(cls))
    obs = np.random.default_rng(0).normal(size=(5, 2, *BOX.shape)).astype(np.float32)
    expected = agent.act(obs)
    assert expected.shape == (5, 2, *agent.action_space.shape)
    mirrored = np.ascontiguousarray(obs[..., ::-1])[..., ::-1]  # the same numbers, negative strides
    assert np.array_equal(agent.act(mirrored), expected)


def test_settings_without_effect_on_a_trunk_of_ones_own_are_refused(cls):
    network = replace(cls.Config().network, shared_trunk=True)
    plain = replace(cls.Config(), network=network)
    if hasattr(plain, "critic_network"):
        with pytest.raises(ValueError, match=r"^[^\n]*a trunk each[^\n]*set network"):
            cls(BOX, actions_of(cls), plain, trunk=torch.nn.Linear(3, 8))
        return
    cls(BOX, DISCRETE, plain, trunk=torch.nn.Linear(3, 8))
    other = replace(plain, network=replace(network, activation="gelu"))
    with pytest.raises(ValueError, match=r"network\.activation is gelu, which has no effect"):
        cls(BOX, DISCRETE, other, trunk=torch.nn.Linear(3, 8))
