"""Bootstrapped DQN: members of their own, priors that stay, masks that are drawn once."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import agents
import envs
from agents import BootstrappedDQN, BootstrappedDQNConfig
from agents.q_learning.bootstrapped_dqn import bootstrap_mask
from tests.contract.support import batches, bits, small

OBS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
K = 5


@pytest.fixture
def tasks():
    with envs.make("CartPole-v1", num_envs=4) as tasks:
        yield tasks


def learned(tasks, updates=6, **settings):
    """An agent after some updates, and the batch that would come next."""
    agent = small(BootstrappedDQN, tasks, members=K, **settings)
    *before, last = islice(batches(agent, tasks), updates + 1)
    for batch in before:
        agent.update(batch)
    return agent, last


# Acting -----------------------------------------------------------------------------------------


def test_each_environment_follows_a_member_of_its_own_for_a_whole_episode(tasks):
    agent, _ = learned(tasks)
    with torch.no_grad():
        best = agent.q(OBS).argmax(-1).numpy()  # (K, N)
    assert len({row.tobytes() for row in best}) > 1
    actor = agent.actor(60, seed=1)
    member = actor.carried["member"].copy()
    assert set(member.tolist()) == set(range(K))
    for _ in range(3):
        np.testing.assert_array_equal(actor.act(OBS.numpy())[0], best[member, np.arange(60)])
    done = np.arange(60) < 30
    actor.reset(done)
    now = actor.carried["member"]
    np.testing.assert_array_equal(now[~done], member[~done])
    assert (now[done] != member[done]).any()
    np.testing.assert_array_equal(actor.act(OBS.numpy())[0], best[now, np.arange(60)])


def test_members_are_followed_equally_often(tasks):
    agent = small(BootstrappedDQN, tasks, members=K)
    member = agent.actor(5000).carried["member"]
    assert stats.chisquare(np.bincount(member, minlength=K)).pvalue > 0.01


def test_greedily_it_acts_by_the_mean_of_the_members_values(tasks):
    agent, _ = learned(tasks)
    mean = np.mean([q.numpy() for q in agent.q(OBS).detach()], axis=0)
    np.testing.assert_array_equal(agent.act(OBS.numpy()), mean.argmax(-1))


# Learning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [True, False])
def test_each_member_bootstraps_from_its_own_target_and_prior(tasks, double):
    agent, batch = learned(tasks, double=double, target_every=5, gamma=0.9)
    got = agent.td_target(batch, batch.next_obs, agent.prior(batch.next_obs)).numpy()
    assert not agent.target.vector.equal(agent.learner.flat.vector)
    with torch.no_grad():
        prior = agent.prior(batch.next_obs).numpy()
        online = agent.network(batch.next_obs)["q"].numpy()
        target = agent.target.modules["network"](batch.next_obs)["q"].numpy()
    for k in range(K):
        for b in range(len(batch.reward)):
            values = target[k, b] + prior[k, b]
            chooser = online[k, b] + prior[k, b] if double else values
            future = 0.0 if batch.terminated[b] else 0.9 * values[chooser.argmax()]
            assert got[k, b] == pytest.approx(float(batch.reward[b]) + future, abs=1e-5)


def test_an_update_adds_to_each_observations_values_its_own_prior(tasks):
    agent, batch = learned(tasks)
    target = agent.td_target(batch, batch.next_obs, agent.prior(batch.next_obs))
    steps = []
    agent.learner.observer = lambda learner, step: steps.append(step)
    with torch.no_grad():
        q = agent.q(batch.obs)[:, torch.arange(8), batch.action]
    agent.update(batch)
    torch.testing.assert_close(steps[0].aux["prediction"], q)
    torch.testing.assert_close(steps[0].aux["td_error"], target - q)


def parts(agent):
    """The gradient of each member, flattened."""
    gradients: list[list[torch.Tensor]] = [[] for _ in range(K)]
    for segment in agent.learner.flat.segments:
        member = int(segment.layer.split(".")[1])  # network.<member>.q.…
        gradients[member].append(agent.learner.flat.gradient[segment.start : segment.stop])
    return [torch.cat(pieces) for pieces in gradients]


def test_a_member_learns_from_what_its_mask_lets_through_and_from_no_other(tasks):
    agent, batch = learned(tasks)
    target = agent.td_target(batch, batch.next_obs, agent.prior(batch.next_obs))
    prior = agent.prior(batch.obs)

    def gradients(mask, rows=slice(None)):
        inputs = batch.obs[rows], batch.action[rows], prior[:, rows], target[:, rows]
        agent.learner.gradient(agent.loss, *inputs, mask, None)
        return parts(agent)

    mask = torch.zeros(K, 8)
    mask[3, :2] = 1
    masked = gradients(mask)
    assert [bool(g.any()) for g in masked] == [False, False, False, True, False]
    alone = gradients(torch.ones(K, 2), slice(2))[3]
    torch.testing.assert_close(masked[3], alone * 2 / 8)


def test_with_one_head_each_on_a_shared_trunk_it_learns_too(tasks):
    agent, batch = learned(tasks, network={"shared_trunk": True})
    before = agent.learner.flat.vector.clone()
    agent.update(batch)
    assert not before.equal(agent.learner.flat.vector)
    assert agent.q(OBS).shape == (K, 60, 2)


# Priors -----------------------------------------------------------------------------------------


def test_priors_differ_and_stay_as_they_were_drawn(tasks):
    drawn = small(BootstrappedDQN, tasks, members=K)
    agent, _ = learned(tasks)
    with torch.no_grad():
        prior = agent.prior(OBS)
        assert prior.equal(drawn.prior(OBS))
        assert agent.target.modules["prior"](OBS).equal(prior)
        assert not agent.network(OBS)["q"].equal(drawn.network(OBS)["q"])
        at_zero = agent.prior(torch.zeros(1, 4))
    for values in (prior, at_zero):
        assert (values.std(0) > 0.01).all()
    assert sum(p.numel() for p in agent.network.parameters()) == agent.learner.flat.vector.numel()


def test_the_scale_multiplies_the_priors_and_0_leaves_them_out(tasks):
    one, three, none = (
        small(BootstrappedDQN, tasks, prior_scale=scale) for scale in (1.0, 3.0, 0.0)
    )
    torch.testing.assert_close(three.prior(OBS), 3 * one.prior(OBS))
    assert none.q(OBS).equal(none.network(OBS)["q"])


def test_priors_are_in_the_file_and_in_the_state(tasks, tmp_path):
    """Another machine may draw other numbers from the same seed."""
    agent = small(BootstrappedDQN, tasks, members=K)
    for buffer in agent.prior.buffers():
        buffer.mul_(1.5)
    agent.save(tmp_path / "agent.safetensors")
    loaded: Any = agents.load(tmp_path / "agent.safetensors")
    assert loaded.q(OBS).equal(agent.q(OBS))
    other = small(BootstrappedDQN, tasks, members=K)
    other.load_state_dict(agent.state_dict())
    assert other.q(OBS).equal(agent.q(OBS))
    assert bits(other.state_dict()) == bits(agent.state_dict())


# Masks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_masks_are_independent_coins_with_this_probability(probability):
    mask = bootstrap_mask(torch.arange(20_000), K, probability, seed=0).numpy()
    assert set(np.unique(mask)) == {0.0, 1.0}
    for row in mask:
        assert stats.binomtest(int(row.sum()), row.size, probability).pvalue > 0.001
    pairs = [(mask[i], mask[j]) for i in range(K) for j in range(i)]  # members
    pairs += [(row[:-1], row[1:]) for row in mask]  # neighbours in the replay
    for one, two in pairs:
        table = np.zeros((2, 2))
        np.add.at(table, (one.astype(int), two.astype(int)), 1)
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_transition_keeps_its_mask_whenever_it_is_drawn():
    index = torch.tensor([7, 3, 99_999, 3])
    every = bootstrap_mask(torch.arange(100_000), K, 0.5, seed=2)
    assert bootstrap_mask(index, K, 0.5, seed=2).equal(every[:, index])
    assert not bootstrap_mask(torch.arange(100_000), K, 0.5, seed=3).equal(every)
    assert bootstrap_mask(index, K, 1.0, seed=2).equal(torch.ones(K, 4))


def test_an_update_masks_by_the_transitions_places(tasks, monkeypatch):
    agent, batch = learned(tasks, mask_probability=0.5)
    seen: list[torch.Tensor] = []
    loss = agent.loss

    def spy(obs, action, prior, target, mask, noise):
        seen.append(mask)
        return loss(obs, action, prior, target, mask, noise)

    monkeypatch.setattr(agent, "loss", spy)
    agent.update(batch)
    assert seen[0].equal(bootstrap_mask(batch.extras["index"], K, 0.5, agent.seed))
    again = agent.memory.sample(batch.extras["index"].numpy())
    assert again.obs.equal(batch.obs)


@pytest.mark.parametrize(
    "settings",
    [{"members": 1}, {"prior_scale": -1.0}, {"mask_probability": 0.0}, {"mask_probability": 1.1}],
)
def test_impossible_settings_are_refused_by_name(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        BootstrappedDQNConfig(**settings)
