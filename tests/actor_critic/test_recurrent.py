"""What a recurrent agent learns from is what it acted on, and it learns what takes a memory."""

from dataclasses import replace
from itertools import islice
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from agents import A2C, PPO, NetworkConfig, PPOConfig, RecurrentA2C, RecurrentPPO, evaluate, train
from agents import targets as agent_targets
from agents.memory import samples
from envs import probe
from envs.vector import VectorEnv
from tests.contract.support import batches, small

GAMMA = 0.9
CELLS = pytest.mark.parametrize("cell", ["gru", "lstm"])
BOTH = pytest.mark.parametrize("cls", [RecurrentPPO, RecurrentA2C])


def looped():
    return envs.make("CartPole-v1", num_envs=3, max_episode_steps=9)


def spending():
    """Where a step is spent on each reset."""
    makers = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=9)] * 3
    return VectorEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP))


def acted(monkeypatch, agent, tasks):
    """A rollout, and the policy's outputs while it was acted `(T, N, A)`."""
    outputs, carry_on = [], agent.network.carry_on

    def noted(obs, carried, only):
        outputs.append(carry_on(obs, carried, only))
        return outputs[-1]

    monkeypatch.setattr(agent.network, "carry_on", noted)
    batch = next(batches(agent, tasks))
    monkeypatch.undo()
    return batch, torch.stack(outputs)


@CELLS
@pytest.mark.parametrize("make", [looped, spending])
def test_sequences_give_the_log_probs_of_acting_whole_and_in_stretches(cell, make, monkeypatch):
    network = {"recurrent": cell, "recurrent_size": 12}
    agent = small(RecurrentPPO, make(), rollout_size=90, network=network, normalize_obs=True)
    with torch.no_grad():
        agent.network.heads["policy"].weight.mul_(100)  # log-probabilities that differ
    batch, logits = acted(monkeypatch, agent, make())
    assert batch.done.sum() >= 6
    expected = agent.policy.log_prob(logits, batch.action)
    assert expected[batch.valid].std() > 0.05
    with torch.no_grad():
        step = agent.network(batch.obs, state=batch.extras["state"])
        alone = agent.policy.log_prob(step["policy"], batch.action)
        torch.testing.assert_close(alone[batch.valid], expected[batch.valid], rtol=0, atol=1e-6)
        for length in (None, 1, 4, 7):
            history, action, old = samples(batch, (batch.action, expected), length).whole()
            log_prob = agent.policy.log_prob(agent.network(history)["policy"], action)
            assert len(old) == batch.valid.sum()
            torch.testing.assert_close(log_prob, old, rtol=0, atol=1e-6)


def test_the_first_minibatch_of_an_update_has_ratio_one():
    agent = small(RecurrentPPO, looped(), rollout_size=60, batch_size=100, epochs=1)
    metrics = agent.update(next(batches(agent, looped())))
    assert abs(metrics["kl"]) < 1e-10
    assert metrics["clip_fraction"] == 0


@BOTH
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_half_the_bits_do_for_a_memory(cls, kind):
    network, optim = {"recurrent": kind}, {"precision": "bfloat16"}
    agent = small(cls, looped(), rollout_size=60, network=network, optim=optim)
    agent.update(next(batches(agent, looped())))
    assert agent.learner.updates > 0
    assert agent.learner.skipped == 0


@BOTH
@pytest.mark.parametrize("make", [looped, spending])
def test_a_successor_is_valued_in_the_state_after_the_step_across_a_truncation(
    cls, make, monkeypatch
):
    agent = small(cls, make(), rollout_size=90)
    batch = next(batches(agent, make()))
    found: list[Any] = []
    gae = agent_targets.gae

    def noted(*inputs):
        found.append(inputs)
        return gae(*inputs)

    monkeypatch.setattr(agent_targets, "gae", noted)
    network = agent.network
    expected = torch.zeros_like(batch.reward)
    with torch.no_grad():
        for n in range(batch.reward.shape[1]):
            state = None
            for t in range(len(batch.reward)):
                output = network(batch.obs[t, n], state=state)
                next_output = network(batch.next_obs[t, n], state=output["state"])
                expected[t, n] = next_output["value"]
                state = None if batch.over[t, n] else output["state"]
    agent.update(batch)
    next_value = found[0][3]
    assert (batch.truncated & batch.valid).any()
    torch.testing.assert_close(next_value[batch.valid], expected[batch.valid], rtol=0, atol=1e-6)


@BOTH
@CELLS
def test_what_was_seen_once_is_recalled(cls, cell):
    tasks = envs.make(probe.Recall.id, num_envs=8)
    settings = {
        "gamma": GAMMA,
        "rollout_size": 128,
        "batch_size": 32,
        "network": {"recurrent": cell, "hidden_sizes": (16,)},
        "optim": {"optimizer": "adam", "lr": 1e-2, "max_grad_norm": 0.5, "schedule": "linear"},
    }
    if cls is RecurrentA2C:
        settings |= {"rollout_size": 64}
    agent = small(cls, tasks, seed=1, **settings)
    train(agent, tasks, 6_000)
    assert evaluate(agent, tasks, 40).min == 1.0
    env = probe.Recall()
    for seed in range(6):
        obs, _ = env.reset(seed=seed)
        actor, over = agent.actor(1, explore=False), False
        while not over:
            state = torch.from_numpy(actor.carried["state"])
            with torch.no_grad():
                value = agent.network(torch.from_numpy(obs)[None], state=state)["value"]
            assert float(value) == pytest.approx(probe.Recall.values(GAMMA)[env.state], abs=0.1)
            obs, _, over, _, _ = env.step(actor.act(obs[None])[0][0])


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_without_a_memory_nothing_is_recalled(cls):
    tasks = envs.make(probe.Recall.id, num_envs=8)
    agent = small(cls, tasks, seed=1, rollout_size=128, batch_size=32, optim={"lr": 1e-2})
    train(agent, tasks, 8_000)
    assert evaluate(agent, tasks, 200).mean == pytest.approx(0, abs=0.3)


@BOTH
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_values_of_pixels_are_those_of_an_episode_that_begins(cls, dtype):
    pixels = gymnasium.spaces.Box(0, 255, (4, 4, 1), dtype)
    agent = cls(pixels, gymnasium.spaces.Discrete(2), seed=1)
    obs = np.stack([pixels.sample(), pixels.sample()])
    state = torch.zeros(2, agent.network.memory.state_size)
    flat = torch.from_numpy(agent.observations.flatten(obs))
    with torch.no_grad():
        torch.testing.assert_close(agent.estimate(flat), agent.network(flat, state=state)["value"])


def test_nothing_is_carried_and_kept_without_a_recurrent_layer():
    agent = small(PPO, looped())
    actor = agent.actor(3)
    assert actor.carried == {}
    assert actor.act(looped().reset(0))[1] == {}
    assert next(batches(agent, looped())).extras == {}


def test_the_recurrent_agents_are_settings_of_the_plain_ones():
    """The same bits by either name."""
    network = NetworkConfig((16, 16), shared_trunk=False, recurrent="gru")
    config = PPOConfig(rollout_size=16, batch_size=8, epochs=2, sequence_length=32, network=network)
    tasks = looped()
    plain = PPO(tasks.observation_space, tasks.action_space, config)
    recurrent = small(RecurrentPPO, tasks)
    for agent in (plain, recurrent):
        for batch in islice(batches(agent, looped()), 3):
            agent.update(batch)
    vectors = [next(iter(a.learners.values())).flat.vector for a in (plain, recurrent)]
    assert torch.equal(*vectors)


def test_stretches_of_a_network_without_a_memory_are_refused():
    with pytest.raises(ValueError, match="sequence_length is 8: use 1 or more with"):
        PPOConfig(sequence_length=8)
    with pytest.raises(ValueError, match="sequence_length is 0"):
        replace(RecurrentPPO.Config(), sequence_length=0)


@pytest.mark.parametrize("start", [[True, False], [True] * 4])
def test_episodes_that_begin_are_those_of_the_observations(start):
    tasks = looped()
    agent = small(RecurrentPPO, tasks)
    obs = tasks.reset(0)
    state = agent.predict(obs)[1]
    said = rf"^episode_start is of {len(start)} episodes, the observations are 3: give one for each"
    with pytest.raises(ValueError, match=said):
        agent.predict(obs, state, start)
    for all_of_them in (True, [True], [True] * 3):
        anew = agent.predict(obs, state, all_of_them)[1]
        assert np.array_equal(anew["state"], state["state"])


def test_the_actions_of_evaluate_and_predict_are_those_of_the_actor():
    tasks = looped()
    agent = small(RecurrentPPO, tasks)
    obs = tasks.reset(0)
    state, start, actor = None, np.ones(3, bool), agent.actor(3, explore=False)
    for _ in range(20):
        action, state = agent.predict(obs, state, start)
        assert np.array_equal(action, actor.act(obs)[0])
        transition, obs = tasks.step(action)
        start = transition.over
        actor.reset(start)
        np.testing.assert_array_equal(
            np.where(start[:, None], 0, state["state"]), actor.carried["state"]
        )
