"""PQN's returns follow the greedy policy, and each pass takes every transition once."""

from itertools import islice

import numpy as np
import pytest
import torch

import envs
from agents import PQN
from tests.contract.support import batches, small

EXPLORING = {"epsilon_start": 0.5, "epsilon_end": 0.5}


def tasks():
    return envs.make("CartPole-v1", num_envs=3, max_episode_steps=9)


def batch_of(**settings):
    agent = small(PQN, tasks(), seed=3, rollout_size=48, **settings)
    return agent, next(batches(agent, tasks()))


@pytest.mark.parametrize("watkins", [False, True])
def test_returns_are_mixtures_of_n_step_returns_of_the_best_action(watkins):
    """By a loop over each row, to its end or, with Watkins, to the first action not the best."""
    agent, batch = batch_of(td_lambda=0.8, watkins=watkins, **EXPLORING)
    with torch.no_grad():
        best = agent.network(batch.next_obs)["q"].max(-1)
        acted = agent.network(batch.obs)["q"].argmax(-1)
    greedy = batch.action == acted
    assert not greedy.all()
    returns, gamma, last = agent.returns(batch), agent.config.gamma, len(batch.reward) - 1
    for t, i in batch.valid.nonzero().tolist():
        steps, k = [], t
        total, weight = 0.0, 1.0
        while True:
            total += weight * float(batch.reward[k, i])
            weight = 0.0 if batch.terminated[k, i] else weight * gamma
            steps.append(total + weight * float(best.values[k, i]))
            if k == last or batch.done[k, i] or (watkins and not greedy[k + 1, i]):
                break
            k += 1
        shares = [0.2 * 0.8**n for n in range(len(steps) - 1)] + [0.8 ** (len(steps) - 1)]
        assert float(returns[t, i]) == pytest.approx(np.dot(shares, steps), abs=1e-5)


@pytest.mark.parametrize("normalize_obs", [False, True])
def test_nothing_is_cut_where_every_action_is_the_best(normalize_obs):
    """By what the policy saw: normalised, a successor was seen by earlier statistics."""
    greedy = {"epsilon_start": 0.0, "epsilon_end": 0.0, "td_lambda": 0.9}
    greedy["normalize_obs"] = normalize_obs
    (peng, batch), (watkins, _) = batch_of(**greedy), batch_of(watkins=True, **greedy)
    assert peng.returns(batch).equal(watkins.returns(batch))


def test_every_pass_takes_each_transition_once_with_its_action_and_return(monkeypatch):
    agent, batch = batch_of(epochs=3, batch_size=10, td_lambda=0.5, **EXPLORING)
    returns, seen, minimize = agent.returns(batch), [], agent.learner.minimize

    def spy(loss, obs, action, target, noise):
        seen.append(torch.cat([obs, action[:, None].float(), target[:, None]], -1))
        return minimize(loss, obs, action, target, noise)

    monkeypatch.setattr(agent.learner, "minimize", spy)
    agent.update(batch)
    rows = torch.cat([batch.obs, batch.action[..., None].float(), returns[..., None]], -1)
    rows = rows[batch.valid]
    assert len(seen) == 3 * round(len(rows) / 10)
    passes = torch.cat(seen).split(len(rows))
    orders = [[tuple(row) for row in taken.tolist()] for taken in passes]
    for order in orders:
        assert sorted(order) == sorted(map(tuple, rows.tolist()))
    assert orders[0] != orders[1]


def test_exploration_is_reduced_over_its_steps_and_stays():
    agent = small(PQN, tasks(), epsilon_start=0.8, epsilon_end=0.2, epsilon_steps=90)
    for batch in islice(batches(agent, tasks()), 4):
        agent.update(batch)
    wanted = 0.8 - 0.6 * min(agent.steps / 90, 1)
    assert agent.epsilon == pytest.approx(wanted)
    agent.steps = 1000
    assert agent.epsilon == pytest.approx(0.2)
    agent = small(PQN, tasks(), epsilon_start=0.8, epsilon_end=0.2, epsilon_steps=0)
    assert agent.epsilon == pytest.approx(0.2)
