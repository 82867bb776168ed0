"""Stable-Baselines3's tools accept every agent."""

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import envs
from agents import train
from tests.contract.support import chooses, small, task


@pytest.fixture
def agent(cls):
    """An agent that has learned a little."""
    tasks = envs.make(task(cls), num_envs=4)
    agent = small(cls, tasks)
    train(agent, tasks, 400)
    return agent


def test_evaluate_policy_plays_the_episodes_that_the_agent_plays(cls, agent):
    monitored = Monitor(gymnasium.make(task(cls)))
    monitored.reset(seed=0)
    returns, lengths = evaluate_policy(agent, monitored, 4, return_episode_rewards=True)

    expected, env = [], gymnasium.make(task(cls))
    env.reset(seed=0)
    for _ in range(4):
        (obs, _), over, total = env.reset(), False, 0.0
        actor = agent.actor(1, explore=False)
        while not over:
            obs, reward, terminated, truncated, _ = env.step(actor.act(obs[None])[0][0])
            total, over = total + float(reward), terminated or truncated
        expected.append(total)
    assert returns == lengths == expected


def test_predict_draws_actions_where_it_is_not_to_be_deterministic(cls, agent):
    env = TimeLimit(gymnasium.make(task(cls)).unwrapped, 10)
    obs, _ = env.reset(seed=0)
    assert len({float(agent.predict(obs)[0].item()) for _ in range(30)}) == 1
    drawn = {float(agent.predict(obs, deterministic=False)[0].item()) for _ in range(200)}
    assert len(drawn) == 2 if chooses(cls) else len(drawn) > 2


def test_what_an_episode_carries_goes_through_predict_and_begins_anew(agent):
    """Of several environments at once, one of which begins an episode in their midst."""
    rng = np.random.default_rng(0)
    actor = agent.actor(3, explore=False)
    state, start = None, np.ones(3, bool)
    for t in range(30):
        obs = rng.normal(size=(3, 4)).astype(np.float32)
        action, state = agent.predict(obs, state, start)
        assert np.array_equal(action, actor.act(obs)[0])
        start = np.array([False, t == 4, t == 9])
        actor.reset(start)
    if actor.carried:
        with pytest.raises(ValueError, match="give None where their episodes begin"):
            agent.predict(obs, "memory")
    else:
        assert agent.predict(obs, "memory")[1] == "memory"
