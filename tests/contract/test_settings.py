"""What a config says of normalisers, targets and losses reaches what is acted on and learned."""

from dataclasses import replace
from itertools import islice

import gymnasium
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import envs
from agents import AGENTS, train
from envs.vector import VectorEnv
from tests.contract.support import batches, small, task, updates, weights

# Normalisers ------------------------------------------------------------------------------------

MEAN, VARIANCE = np.array([0.1, -0.2, 0.02, 0.3]), np.array([0.5, 0.2, 0.01, 0.4])
SCALE = 0.25
"""What rewards are multiplied by: a power of 2, so that no sum of them is rounded otherwise."""


def normal(obs):
    return ((obs - MEAN) / np.sqrt(VARIANCE + 1e-8)).clip(-10, 10).astype(np.float32)


class Normalized(gymnasium.Wrapper):
    """CartPole whose rewards vary, and that is normalised by hand where `by_hand` is True."""

    def __init__(self, id, by_hand):
        super().__init__(gymnasium.make(id))
        self.by_hand = by_hand

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed)
        return normal(obs) if self.by_hand else obs, info

    def step(self, action):
        obs, _, terminated, truncated, info = self.env.step(action)
        reward = 1 + 9 * float(obs[2])
        if self.by_hand:
            obs, reward = normal(obs), SCALE * reward
        return obs, reward, terminated, truncated, info


def fix(monkeypatch, agent):
    """Give the agent's normalisers statistics that nothing moves."""
    normalizer, scaler = agent.obs_normalizer, agent.reward_scaler
    normalizer.mean, normalizer.variance = MEAN, VARIANCE
    scaler.variance, scaler.count = np.array([SCALE**-2]), 1
    monkeypatch.setattr(normalizer, "update", lambda obs: True)
    monkeypatch.setattr(scaler, "observe", lambda reward, done, valid: True)


def test_with_normalizers_it_learns_what_it_learns_in_a_task_normalized_by_hand(cls, monkeypatch):
    """Bit for bit: it acts on, learns from, bootstraps from and values what is normalised alone."""

    def learned(by_hand):
        tasks = VectorEnv([Normalized(task(cls), by_hand) for _ in range(2)])
        agent = small(cls, tasks, normalize_obs=not by_hand, normalize_reward=not by_hand)
        if not by_hand:
            fix(monkeypatch, agent)
        train(agent, tasks, 400)
        assert updates(agent) >= 2
        return agent

    agent, known = learned(False), learned(True)
    assert torch.equal(weights(agent), weights(known))
    obs = np.random.default_rng(0).standard_normal((5, 4), np.float32)
    estimate, wanted = agent.expected_return(obs), known.expected_return(normal(obs))
    np.testing.assert_array_equal(estimate, wanted)
    reward = np.array([1.0, -3.0])
    np.testing.assert_array_equal(agent.learned(reward), known.learned(SCALE * reward))
    np.testing.assert_array_equal(known.learned(reward), reward)


# Targets and losses -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, cls in AGENTS.items() if hasattr(cls.Config, "tau")])
def test_targets_move_by_tau_towards_what_is_learned(name):
    cls = AGENTS[name]
    with envs.make(task(cls), num_envs=2) as tasks:
        agent = small(cls, tasks, tau=0.25, target_every=1, policy_every=1, epochs=1)
        *first, last = islice(batches(agent, tasks), 3)
        for batch in first:
            agent.update(batch)
        before = {name: target.vector.clone() for name, target in agent.targets.items()}
        agent.update(last)
    assert before
    for learner, vector in before.items():
        learned = agent.learners[learner].flat.vector
        assert not learned.equal(vector)
        torch.testing.assert_close(agent.targets[learner].vector, 0.75 * vector + 0.25 * learned)


@pytest.mark.parametrize("name", ["dqn", "bootstrapped_dqn", "sarsa", "expected_sarsa"])
@pytest.mark.parametrize(("loss", "known"), [("huber", F.huber_loss), ("squared", F.mse_loss)])
def test_the_loss_is_what_the_config_says_of_the_td_errors(name, loss, known):
    with envs.make("CartPole-v1", num_envs=2) as tasks:
        agent = small(AGENTS[name], tasks, loss=loss, epochs=1)
        batch = next(batches(agent, tasks))
    steps = []
    agent.learner.observer = lambda learner, step: steps.append(step)
    rewards = torch.linspace(-3, 3, batch.reward.numel())  # errors below 1 and above it
    agent.update(replace(batch, reward=rewards.reshape(batch.reward.shape)))
    (step,) = steps
    aux = step.aux
    error = aux["td_error"] if "td_error" in aux else aux["target"] - aux["prediction"]
    assert error.abs().min() < 1 < error.abs().max()
    assert step.loss == pytest.approx(float(known(error, torch.zeros_like(error))), rel=1e-5)
