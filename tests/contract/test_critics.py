"""What the logs say of a critic's errors and values is there, for every agent, and is true."""

import math
from itertools import islice

import numpy as np
import pytest
import torch

import envs
from agents import AGENTS, train
from agents.core.gradients import SAMPLES
from agents.runner.recorder import Recorder
from tests.contract.support import batches, small, task
from tests.runner.fakes import rows


def recorded(cls, folder, watch=lambda agent: None, **settings):
    """An agent that has learned a little, and every row of updates.csv that tells of a critic."""
    tasks = envs.make(task(cls), num_envs=2)
    agent = small(cls, tasks, baseline=True, optim={"stats_every": 1}, **settings)
    watch(agent)
    train(agent, tasks, 200, [Recorder(folder, log_every=1)])
    table = rows(folder / "updates.csv")
    assert not any(int(row["skipped"]) for row in table)
    return agent, table, [row for row in table if any(row[name] for name in SAMPLES)]


def test_every_update_of_a_critic_tells_its_errors_and_values(cls, tmp_path):
    _, table, told = recorded(cls, tmp_path)
    (learner,) = {row["learner"] for row in told}
    assert len(told) == sum(row["learner"] == learner for row in table)
    for row in told:
        mean, most, largest, value = (float(row[name]) for name in SAMPLES)
        assert 0 < mean <= largest
        assert 0 < most <= largest < math.inf
        assert 0 < value < math.inf


@pytest.mark.parametrize("name", [n for n, cls in AGENTS.items() if hasattr(cls.Config, "critics")])
def test_one_critic_may_do(name):
    with envs.make(task(AGENTS[name]), num_envs=2) as tasks:
        agent = small(AGENTS[name], tasks, critics=1, subset=None)
        for batch in islice(batches(agent, tasks), 4):
            assert all(math.isfinite(value) for value in agent.update(batch).values())
        assert agent.learners["critic"].updates == 4


# What a critic said of a batch and what it was to say, from the inputs of its loss ---------------


def ensemble(agent, obs, action, target, _):
    return agent.critics(obs, action=action)["q"], target


def quantiles(agent, obs, action, target, _):
    return agent.critics(obs, action=action)["q"].mean(-1), target.mean(-1)


def both(agent, obs, action, reward, discount, _):
    q = agent.critics(obs, action=action, statistics={})["q"]
    count = len(reward)
    return q[:, :count], reward + discount * q[:, count:].min(0).values


def regression(agent, obs, returns, _):
    return agent.critic(obs)["value"], returns


def histogram(agent, obs, action, target, weight, tau, noise):
    logits = agent.network(obs, noise)["q"][torch.arange(len(obs)), action]
    returns = torch.linspace(agent.config.v_min, agent.config.v_max, agent.config.atoms)
    return (logits.softmax(-1) * returns).sum(-1), (target * returns).sum(-1)


@pytest.mark.parametrize(
    ("name", "learner", "critic", "settings"),
    [
        ("sac", "critic", ensemble, {}),
        ("redq", "critic", ensemble, {}),
        ("td3", "critic", ensemble, {}),
        ("tqc", "critic", quantiles, {}),
        ("crossq", "critic", both, {}),
        ("trpo", "value", regression, {}),
        ("c51", "c51", histogram, {}),
        ("rainbow", "rainbow", histogram, {}),
        ("dqn", "dqn", histogram, {"value": "hl_gauss"}),
    ],
)
def test_they_are_those_of_the_batch(name, learner, critic, settings, tmp_path, monkeypatch):
    seen = []

    def watch(agent):
        own = agent.learners[learner]
        gradient = own.gradient

        def noted(loss, *inputs):
            seen.append((own.state_dict(), inputs))
            return gradient(loss, *inputs)

        monkeypatch.setattr(own, "gradient", noted)

    agent, _, told = recorded(AGENTS[name], tmp_path, watch, **settings)
    state, inputs = seen[-1]
    agent.learners[learner].load_state_dict(state)  # as it was when the loss was worked out
    with torch.no_grad():
        prediction, target = critic(agent, *inputs)
    size = (target - prediction).abs().numpy().ravel()
    assert size.size == prediction.numel()
    known = {
        "td_error_mean": size.mean(),
        "td_error_p99": np.percentile(size, 99, method="inverted_cdf"),
        "td_error_max": size.max(),
        "value_max": prediction.abs().max().item(),
    }
    assert int(told[-1]["update"]) == len(seen)
    assert {name: float(told[-1][name]) for name in SAMPLES} == pytest.approx(known, rel=1e-4)
