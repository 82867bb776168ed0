"""What a row tells of rewards, actions and observations is what a plain look at them gives."""

import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from agents.agent import AgentConfig
from agents.core.files import join_state, split_state
from agents.memory import Rollout
from agents.runner.experience import AT_ONCE, OBS_EVERY, Experience
from envs.transition import Transition
from tests.runner.fakes import Tiny

N = 3


class Acting(Tiny):
    """Takes any action."""

    def build(self):
        self.memory = Rollout(1)


def agent_for(obs: Any, action: Any, **settings: Any) -> Any:
    return Acting(obs, action, AgentConfig(**settings))


def steps_of(count: int, action: Any, obs_size: int = 4, seed: int = 0) -> list[Transition]:
    rng = np.random.default_rng(seed)
    scale = np.array([1e-3, 1.0, 100.0, 0.0])[:obs_size]
    over = np.zeros(N, bool)
    return [
        Transition(
            obs := (rng.normal(size=(N, obs_size)) * scale + 7.0).astype(np.float32),
            action(rng),
            rng.normal(size=N).astype(np.float32) * 5.0,
            obs,
            over,
            over,
            ~over,
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [1, AT_ONCE, AT_ONCE + 1, 200])
def test_discrete_actions_rewards_and_observations(count):
    agent = agent_for(spaces.Box(-np.inf, np.inf, (4,)), spaces.Discrete(3, start=5), gamma=0.9)
    experience = Experience(agent)
    steps = steps_of(count, lambda rng: 5 + rng.choice(3, p=[0.2, 0.2, 0.6], size=N))
    for step in steps:
        experience.add(step)
    row = experience.row()
    largest = max(float(np.abs(step.reward).max()) for step in steps)
    actions = np.concatenate([step.action for step in steps])
    seen = np.concatenate([step.obs for step in steps[::OBS_EVERY]]).astype(float)[:, :3]
    assert row == pytest.approx(
        {
            "reward_max": largest,
            "value_bound": largest / 0.1,
            "action_top": np.unique(actions, return_counts=True)[1].max() / len(actions),
            "obs_std_min": seen.std(0).min(),
            "obs_std_max": seen.std(0).max(),
            "obs_constant": 0.25,
        },
        rel=1e-5,
    )
    assert "action_top" not in experience.row()  # actions are those since the last row
    assert experience.row()["reward_max"] == row["reward_max"]  # rewards those of the run


def test_box_actions_are_saturated_near_and_beyond_their_bounds():
    space = spaces.Box(
        np.array([-2.0, 0.0, -np.inf], np.float32), np.array([2.0, 1.0, 1.0], np.float32)
    )
    experience = Experience(agent_for(spaces.Box(-1, 1, (1,)), space))
    action = np.array([[1.97, 0.5, 9.0], [-5.0, 0.005, 0.0], [0.0, 1.0, 0.0]])
    for step in steps_of(2, lambda rng: action, obs_size=1):
        experience.add(step)
    row = experience.row()
    assert row["action_saturation"] == pytest.approx(
        4 / 9
    )  # an open range has no bounds to be near
    assert "action_top" not in row


@pytest.mark.parametrize(("gamma", "bound"), [(1.0, None), (0.5, 2.0)])
def test_rewards_are_those_that_the_agent_learns_from(gamma, bound):
    experience = Experience(
        agent_for(spaces.Discrete(3), spaces.Discrete(2), clip_reward=True, gamma=gamma)
    )
    rewards = np.array([np.nan, -7.0, np.inf], np.float32)
    obs, over = np.zeros(N, np.int64), np.zeros(N, bool)
    experience.add(Transition(obs, obs, rewards, obs, over, over, ~over))
    row = experience.row()
    assert (row["reward_max"], row.get("value_bound")) == (1.0, bound)
    assert "obs_std_min" not in row  # a category has no spread


def test_pixels_are_not_looked_at():
    image = spaces.Box(0, 255, (3, 4, 4), np.uint8)
    experience = Experience(agent_for(image, spaces.Discrete(2)))
    obs, over = np.zeros((N, 3, 4, 4), np.uint8), np.zeros(N, bool)
    experience.add(Transition(obs, np.zeros(N, np.int64), np.ones(N), obs, over, over, ~over))
    assert "obs_std_min" not in experience.row()


@pytest.mark.parametrize("at", [1, 9, AT_ONCE - 1, AT_ONCE, 100])
def test_it_goes_on_from_its_state_bit_for_bit(at):
    agent = agent_for(spaces.Box(-np.inf, np.inf, (4,)), spaces.Box(-1, 1, (2,)))
    steps = steps_of(150, lambda rng: rng.normal(size=(N, 2)))
    whole, first = Experience(agent), Experience(agent)
    for step in steps[:at]:
        whole.add(step)
        first.add(step)
    second = Experience(agent)
    second.load_state_dict(join_state(*split_state(first.state_dict())))
    for step in steps[at:]:
        whole.add(step)
        second.add(step)
    assert whole.row() == second.row()
    assert not math.isnan(whole.reward_max)


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_actions_of_several_parts_are_no_hindrance(kind):
    """Nothing is told of them: no one of their parts speaks for all."""
    parts = {"push": spaces.Discrete(3), "turn": spaces.Box(-1, 1, (2,))}
    space = spaces.Dict(parts) if kind == "dict" else spaces.Tuple(list(parts.values()))
    experience = Experience(agent_for(spaces.Box(-1, 1, (4,)), space))

    def action(rng):
        drawn = {"push": rng.integers(3, size=N), "turn": rng.uniform(-1, 1, (N, 2))}
        return drawn if kind == "dict" else tuple(drawn.values())

    for step in steps_of(AT_ONCE + 1, action):
        experience.add(step)
    row, kept = experience.row(), join_state(*split_state(experience.state_dict()))
    assert "reward_max" in row
    assert not {"action_top", "action_saturation"} & row.keys()
    again = Experience(experience.agent)
    again.load_state_dict(kept)
    assert again.row() == row
