"""Discrete SAC: sums over actions in the place of draws, what each loss moves, and when."""

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import special

import envs
from agents import DiscreteSAC, DiscreteSACConfig, train
from envs import probe
from envs.transition import Transition
from tests.contract.support import batches, config, small
from tests.contract.test_values import CLOSE, GAMMA, QUICK


@pytest.fixture
def tasks():
    with envs.make("CartPole-v1", num_envs=4) as tasks:
        yield tasks


def learned(tasks, updates=4, **settings: Any) -> Any:
    """An agent after some updates, and the batch that would come next."""
    agent = small(DiscreteSAC, tasks, **settings)
    *before, last = islice(batches(agent, tasks), updates + 1)
    for batch in before:
        agent.update(batch)
    return agent, last


# Targets ----------------------------------------------------------------------------------------


def soft_value(logits, q, alpha) -> float:
    """Σ_a π(a) (Q(a) - α log π(a)) of one state, action by action, with the log in double."""
    log_prob = special.log_softmax(logits.astype(np.float64))
    pairs = zip(log_prob, q, strict=True)
    return float(sum(math.exp(log) * (value - alpha * log) for log, value in pairs))


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.3}, {"critics": 5}])
def test_the_target_is_the_soft_value_of_the_least_critics(tasks, settings):
    agent, batch = learned(tasks, **settings)
    batch = replace(batch, terminated=torch.arange(8) < 3)
    with torch.no_grad():
        for weight in agent.network.heads["policy"].parameters():
            weight.mul_(100.0)  # far from uniform
        logits = agent.network(batch.next_obs)["policy"].numpy()
        every_q = agent.target.modules["critics"](batch.next_obs)["q"].numpy()
    assert len(every_q) == settings.get("critics", 2)
    alpha = settings.get("temperature", float(agent.temperature().detach()))
    ahead = [soft_value(logits[i], every_q[:, i].min(0), alpha) for i in range(8)]
    discount = np.array([0.0] * 3 + [0.99] * 5)
    expected = batch.reward.numpy() + discount * ahead
    np.testing.assert_allclose(agent.td_target(batch, batch.next_obs), expected, rtol=1e-5)


def test_a_target_counts_allowed_actions_alone():
    """Three actions of five: as for a policy and critics that know no others."""
    mask = np.array([1, 0, 1, 1, 0])
    space = spaces.Dict({"seen": spaces.Box(-1, 1, (3,)), "action_mask": spaces.MultiBinary(5)})
    agent: Any = DiscreteSAC(space, spaces.Discrete(5), config(DiscreteSAC))
    row = agent.observations.flatten({"seen": np.array([0.1, -0.2, 0.3]), "action_mask": mask})
    obs = torch.from_numpy(row)[None]
    with torch.no_grad():
        logits = agent.network(obs)["policy"][0].numpy()[mask > 0]
        q = agent.target.modules["critics"](obs)["q"].amin(0)[0].numpy()[mask > 0]
    action, no = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
    batch: Any = Transition(obs, action, torch.ones(1), obs, no, no, ~no)
    expected = 1.0 + 0.99 * soft_value(logits, q, 0.5)
    assert float(agent.td_target(batch, obs)) == pytest.approx(expected, rel=1e-5)
    _, aux = agent.actor_loss(obs, agent.q_values(obs), torch.tensor(0.5), None)
    excess = special.entr(special.softmax(logits)).sum() - 0.98 * math.log(3)
    assert float(aux["excess"]) == pytest.approx(excess, abs=1e-5)


def test_entropy_is_worth_its_temperature_and_is_discounted_once():
    """Two steps, the second pays 1, actions do not matter: V = (γ (1 + α log 2), 1 + α log 2)."""
    kind, alpha = probe.TwoStepDiscount, 0.5
    with envs.make(kind.id, num_envs=4) as tasks:
        agent = small(DiscreteSAC, tasks, seed=1, **QUICK | CLOSE | {"temperature": alpha})
        train(agent, tasks, 3000)
        with torch.no_grad():
            q = agent.q_values(torch.from_numpy(kind.observations))
    ahead = GAMMA * (1 + alpha * math.log(2))
    np.testing.assert_allclose(q, [[ahead, ahead], [1.0, 1.0]], atol=0.04)


# What moves what --------------------------------------------------------------------------------


def test_the_actor_comes_to_the_softmax_of_the_values(tasks):
    """Of all policies π ∝ exp(Q / α) has the least loss, -α log Σ exp(Q / α)."""
    agent, batch = learned(tasks, optim={"lr": 1e-2})
    obs, q, alpha = batch.obs[:1], torch.tensor([[0.3, -0.4]]), torch.tensor(0.5)
    for _ in range(300):
        step = agent.actor_learner.minimize(agent.actor_loss, obs, q, alpha, None)
    with torch.no_grad():
        policy = agent.network(obs)["policy"].softmax(-1)
    torch.testing.assert_close(policy, (q / alpha).softmax(-1), atol=1e-3, rtol=0.0)
    least = -float(alpha * (q / alpha).logsumexp(-1))
    assert float(sum(step.terms.values())) == pytest.approx(least, abs=1e-5)


@pytest.mark.parametrize(("held", "rises"), [(0.0, False), (1.0, True)])
def test_the_temperature_rises_where_the_entropy_is_too_low_and_falls_where_it_is_not(
    tasks, held, rises
):
    agent, batch = learned(tasks, target_entropy=held)
    before = float(agent.temperature().detach())
    assert not agent.improve(batch.obs).skipped
    assert (float(agent.temperature().detach()) > before) == rises


def test_a_given_temperature_stays_and_has_no_learner(tasks):
    agent, _ = learned(tasks, temperature=0.0)
    assert set(agent.learners) == {"critic", "actor"}
    assert float(agent.temperature().detach()) == 0.0


@pytest.mark.parametrize("every", [1, 3])
def test_actor_and_temperature_wait_for_the_critics_and_the_target_does_not(tasks, every):
    agent, batch = learned(tasks, updates=7, policy_every=every, tau=0.25)
    counts = {name: learner.updates for name, learner in agent.learners.items()}
    assert counts == {"critic": 7, "actor": 7 // every, "temperature": 7 // every}
    before = agent.target.vector.clone()
    agent.update(batch)
    expected = before + 0.25 * (agent.critic_learner.flat.vector - before)
    torch.testing.assert_close(agent.target.vector, expected)


# Settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "^temperature is -1.0: use 0 or more, or None"),
        ({"initial_temperature": 0.0}, "^initial_temperature is 0.0: use a positive number"),
        ({"target_entropy": 1.2}, r"^target_entropy is 1.2: use a share in \[0, 1\]"),
        ({"temperature": 0.1, "target_entropy": 0.5}, "^target_entropy is 0.5, .* set it to 0.98"),
        ({"critics": 0}, "^critics is 0: use 1 or more"),
        ({"tau": 0.0}, "^tau is 0.0: use a number in"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DiscreteSACConfig(**settings)
