"""TD3 and DDPG: what their targets are, when the actor moves, and the noise on actions."""

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

import envs
from agents import DDPG, TD3
from tests.contract.support import batches, small, task


@pytest.fixture
def tasks():
    with envs.make(task(TD3), num_envs=4) as tasks:
        yield tasks


def learned(cls, tasks, updates=4, **settings: Any) -> Any:
    """An agent after some updates, and the batch that would come next."""
    agent = small(cls, tasks, **settings)
    *before, last = islice(batches(agent, tasks), updates + 1)
    for batch in before:
        agent.update(batch)
    return agent, last


@pytest.mark.parametrize("cls", [TD3, DDPG])
def test_without_noise_the_target_is_that_of_the_target_policy(tasks, cls):
    agent, batch = learned(cls, tasks, target_noise=0.0)
    batch = replace(batch, terminated=torch.arange(8) < 3)
    with torch.no_grad():
        action = agent.actor_target.modules["network"](batch.next_obs)["policy"].tanh()
        q = agent.critic_target.modules["critics"](batch.next_obs, action=action)["q"]
    assert len(q) == (2 if cls is TD3 else 1)
    expected = batch.reward + 0.99 * ~batch.terminated * q.min(0).values
    torch.testing.assert_close(agent.td_target(batch, batch.next_obs), expected)


def test_noise_in_the_target_is_cut_off(tasks, monkeypatch):
    agent, batch = learned(TD3, tasks, target_noise=10.0, target_noise_clip=0.25)
    asked = []
    critics = agent.critic_target.modules["critics"]
    forward = critics.forward

    def noted(obs, action):
        asked.append(action)
        return forward(obs, action=action)

    monkeypatch.setattr(critics, "forward", noted)
    agent.td_target(batch, batch.next_obs)
    with torch.no_grad():
        plain = agent.actor_target.modules["network"](batch.next_obs)["policy"].tanh()
    moved = (asked[0] - plain).abs()
    assert float(moved.max()) <= 0.25 + 1e-6
    assert (moved > 0.2).float().mean() > 0.8


def test_the_actor_and_all_targets_wait_for_the_critics(tasks):
    agent, batch = learned(TD3, tasks, updates=4, policy_every=3, tau=0.5)
    assert (agent.critic_learner.updates, agent.actor_learner.updates) == (4, 1)
    targets = [agent.critic_target.vector.clone(), agent.actor_target.vector.clone()]
    agent.update(batch)
    assert agent.critic_target.vector.equal(targets[0])
    agent.update(batch)  # the sixth
    assert agent.actor_learner.updates == 2
    for target, learner, before in (
        (agent.critic_target, agent.critic_learner, targets[0]),
        (agent.actor_target, agent.actor_learner, targets[1]),
    ):
        torch.testing.assert_close(target.vector, before + 0.5 * (learner.flat.vector - before))


def test_the_actor_ascends_the_first_critic_alone(tasks):
    agent, batch = learned(TD3, tasks)
    agent.actor_learner.gradient(agent.actor_loss, batch.obs, None, None)
    gradient = agent.actor_learner.flat.gradient.clone()
    with torch.no_grad():
        agent.critics.heads["q"].weight[1] *= -7.0
        agent.critics.trunk[0].weight[1] += 1.0
    agent.actor_learner.gradient(agent.actor_loss, batch.obs, None, None)
    torch.testing.assert_close(agent.actor_learner.flat.gradient, gradient)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("exploration", ["gaussian", "ornstein_uhlenbeck"])
def test_noise_on_actions_is_drawn_anew_or_drifts_and_begins_anew_with_an_episode(
    tasks, exploration
):
    agent = small(TD3, tasks, exploration=exploration, action_noise=0.2, learning_starts=0)
    obs = np.zeros((2000, 4), np.float32)
    actor = agent.actor(2000, seed=1)
    greedy = agent.act(obs)
    noise = [actor.act(obs)[0] - greedy for _ in range(50)]
    related = np.corrcoef(noise[-2][:, 0], noise[-1][:, 0])[0, 1]
    if exploration == "gaussian":
        assert abs(related) < 0.1
        assert noise[-1].std() == pytest.approx(0.2, rel=0.1)
        assert actor.carried == {}
        return
    assert related > 0.95
    done = np.arange(2000) < 1000
    actor.reset(done)
    assert (actor.carried["noise"][done] == 0).all()
    assert (actor.carried["noise"][~done] != 0).all()
    again = agent.actor(2000, seed=1)
    again.load_state_dict(actor.state_dict())
    np.testing.assert_array_equal(again.act(obs)[0], actor.act(obs)[0])


def test_a_bound_on_noise_that_there_is_not_is_refused():
    message = (
        r"^target_noise_clip is 0\.1, which has no effect without target_noise: set it to 0\.5"
    )
    with pytest.raises(ValueError, match=message):
        DDPG.Config(target_noise_clip=0.1)
