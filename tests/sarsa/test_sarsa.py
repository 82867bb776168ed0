"""SARSA's settings are the algorithms they say, and meet Q-learning where the policy is greedy."""

from dataclasses import replace
from itertools import islice
from typing import Any

import gymnasium
import pytest
import torch

import envs
from agents import DQN, PQN, SARSA, ExpectedSARSA, evaluate, train
from agents.core.network import Network
from envs.vector import VectorEnv
from tests.contract.support import batches, small

TASKS: dict[str, Any] = {"num_envs": 3, "max_episode_steps": 9}  # nearly every episode is truncated
NEVER: dict[str, Any] = {"epsilon_start": 0.0, "epsilon_end": 0.0}
HALF: dict[str, Any] = {"epsilon_start": 0.5, "epsilon_end": 0.5}
PLAIN: dict[str, Any] = {"network": {"norm": "none", "hidden_sizes": (16,)}}


def tasks() -> VectorEnv:
    return envs.make("CartPole-v1", **TASKS)


def batch_of(cls, *skip, size=24, **settings):
    """An agent that has learned a little, so that its target network lags, and its next batch."""
    agent = small(cls, tasks(), seed=3, rollout_size=size, target_every=5, **settings)
    found = islice(batches(agent, tasks()), 4)
    for _ in range(3):
        agent.update(next(found))
    return agent, next(found)


def copy_weights(source, *others):
    for agent in others:
        agent.learner.flat.vector.copy_(source.learner.flat.vector)
        if agent.targets:
            agent.target.vector.copy_(source.target.vector)


@pytest.mark.parametrize("expected", [False, True])
@pytest.mark.parametrize("exploration", ["epsilon_greedy", "boltzmann"])
@pytest.mark.parametrize(("n_step", "td_lambda"), [(1, 0.0), (3, 0.0), (8, 0.0), (1, 0.8)])
def test_the_target_is_the_one_of_the_setting(expected, exploration, n_step, td_lambda):
    """By a loop over each row's episode, with the value of the policy in its last state."""
    settings = {"expected": expected, "n_step": n_step, "td_lambda": td_lambda, **HALF}
    if exploration == "boltzmann":
        settings |= {"temperature": 0.3}
    agent, batch = batch_of(SARSA, exploration=exploration, **settings)
    assert batch.truncated.any()
    assert not agent.target.vector.equal(agent.learner.flat.vector)
    gamma = agent.config.gamma
    next_action: Any = None if expected else agent.next_action(batch)
    target = agent.td_target(batch, next_action)
    with torch.no_grad():
        online = agent.network(batch.next_obs)["q"]
        values = agent.target.modules["network"](batch.next_obs)["q"]
    if exploration == "boltzmann":
        policy = torch.exp(online / 0.3) / torch.exp(online / 0.3).sum(-1, keepdim=True)
    else:
        policy = torch.full_like(online, 0.25)
        policy[online == online.amax(-1, keepdim=True)] += 0.5

    def value(t, i):
        if expected:
            return float((policy[t, i] * values[t, i]).sum())
        return float(values[t, i, next_action[t, i]])

    def n_steps(t, i, n):
        total = 0.0
        for k in range(n):
            total += gamma**k * float(batch.reward[t + k, i])
            if batch.terminated[t + k, i]:
                return total
            if batch.truncated[t + k, i] or t + k == len(batch.reward) - 1:
                break
        return total + gamma ** (k + 1) * value(t + k, i)

    for t, i in batch.valid.nonzero().tolist():
        if td_lambda:
            shares = [(1 - td_lambda) * td_lambda**n for n in range(300)]  # the rest is < 1e-20
            wanted = sum(share * n_steps(t, i, n + 1) for n, share in enumerate(shares))
        else:
            wanted = n_steps(t, i, n_step)
        assert float(target[t, i]) == pytest.approx(wanted, abs=1e-5)


def test_next_actions_are_those_taken_and_drawn_where_the_episode_was_cut():
    agent, batch = batch_of(SARSA, **HALF)
    following = agent.next_action(batch)
    goes_on = ~batch.done[:-1]
    assert following[:-1][goes_on].equal(batch.action[1:][goes_on])
    draws = torch.stack([agent.next_action(batch)[batch.truncated] for _ in range(400)])
    with torch.no_grad():
        greedy = agent.network(batch.next_obs[batch.truncated])["q"].argmax(-1)
    assert float((draws == greedy).float().mean()) == pytest.approx(0.75, abs=0.06)


def test_the_mean_of_sarsa_targets_over_the_policy_is_the_expected_one():
    agent, batch = batch_of(SARSA, expected=True, **HALF)
    with torch.no_grad():
        policy = agent.policy(agent.network(batch.next_obs)["q"])
    mean = sum(
        policy[..., a] * agent.td_target(batch, torch.full_like(batch.action, a)) for a in range(2)
    )
    torch.testing.assert_close(agent.td_target(batch, None), mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("td_lambda", [0.0, 0.7, 1.0])
def test_a_greedy_policy_is_learned_as_by_q_learning(td_lambda):
    """On-policy or off, it is the same algorithm then: the same weights after several updates."""
    one_pass: dict[str, Any] = {"epochs": 1, "td_lambda": td_lambda, "rollout_size": 24, **NEVER}
    single = one_pass | {"batch_size": 24, "target_every": 1, "loss": "squared", **PLAIN}
    sarsa, pqn = (
        small(cls, tasks(), **(single | extra))
        for cls, extra in ((SARSA, {"expected": True}), (PQN, {}))
    )
    assert sarsa.learner.flat.vector.equal(pqn.learner.flat.vector)
    before = pqn.learner.flat.vector.clone()
    for batch in islice(batches(pqn, tasks()), 5):
        sarsa.update(batch)
        pqn.update(batch)
    assert not before.allclose(pqn.learner.flat.vector)
    torch.testing.assert_close(sarsa.learner.flat.vector, pqn.learner.flat.vector)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dueling", [True, False])
def test_expected_sarsa_from_replay_with_a_greedy_policy_is_dqn(double, dueling):
    agent, batch = batch_of(ExpectedSARSA, double=double, dueling=dueling, **PLAIN, **NEVER)
    dqn = small(DQN, tasks(), double=double, dueling=dueling, **PLAIN)
    copy_weights(agent, dqn)
    torch.testing.assert_close(
        agent.td_target(batch, batch.next_obs), dqn.td_target(batch, batch.obs, batch.next_obs)
    )


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("exploration", ["epsilon_greedy", "boltzmann"])
def test_expected_sarsa_from_replay_values_the_policy_that_acts_now(double, exploration):
    settings: dict[str, Any] = {"double": double, "exploration": exploration, **HALF}
    if exploration == "boltzmann":
        settings |= {"temperature": 0.3}
    agent, batch = batch_of(ExpectedSARSA, **settings)
    with torch.no_grad():
        next_q = agent.target.modules["network"](batch.next_obs)["q"]
        selector = agent.network(batch.next_obs)["q"] if double else next_q
    if exploration == "boltzmann":
        policy = torch.exp(selector / 0.3) / torch.exp(selector / 0.3).sum(-1, keepdim=True)
    else:
        policy = 0.25 + 0.5 * (selector == selector.amax(-1, keepdim=True))
    ahead = torch.where(batch.terminated, 0.0, (policy * next_q).sum(-1))
    wanted = batch.reward + agent.config.gamma * ahead
    torch.testing.assert_close(agent.td_target(batch, batch.next_obs), wanted)


@pytest.mark.parametrize("settings", [HALF, {"exploration": "boltzmann", "temperature": 0.3}])
@pytest.mark.parametrize("cls", [SARSA, ExpectedSARSA])
def test_it_acts_with_the_frequencies_of_the_policy_that_it_values(cls, settings):
    agent = small(cls, tasks(), **settings)
    obs = torch.zeros(1, 4)
    with torch.no_grad():
        agent.network.heads["q"].bias.copy_(torch.tensor([0.0, 0.3]))
        policy = agent.policy(agent.network(obs)["q"])
    drawn = agent.act(obs.expand(4000, -1).numpy(), explore=True)
    assert drawn.mean() == pytest.approx(float(policy[0, 1]), abs=0.03)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (SARSA, {"n_step": 3, "td_lambda": 0.5}, "n_step is 3 and td_lambda 0.5: .* use n_step 1"),
        (SARSA, {"n_step": 33}, "n_step is 33: use rollout_size or less"),
        (SARSA, {"td_lambda": 0.9, "rollout_size": 1}, "td_lambda is 0.9: use 0 with rollout_size"),
        (PQN, {"rollout_size": 1}, r"td_lambda is 0\.65: use 0 with rollout_size 1, or more"),
        (SARSA, {"n_step": 0}, "n_step is 0: use 1 or more"),
        (SARSA, {"td_lambda": 1.1}, r"td_lambda is 1\.1: use a number in"),
        (SARSA, {"td_lambda": float("nan")}, "td_lambda is nan"),
        (ExpectedSARSA, {"exploration": "greedy"}, "exploration is .greedy.: use epsilon_greedy"),
        (ExpectedSARSA, {"temperature": 0.0}, r"temperature is 0\.0: use a number above 0"),
        (PQN, {"td_lambda": -0.1}, r"td_lambda is -0\.1"),
        (PQN, {"td_lambda": 0.0, "watkins": True}, "watkins is True and td_lambda 0: .* no trace"),
        (PQN, {"batch_size": 0}, "batch_size is 0: use 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        replace(cls.Config(), **settings)


@pytest.mark.parametrize(
    ("cls", "settings", "enough"),
    [
        (SARSA, {"n_step": 5}, 33),  # five steps of eight environments, the last of them begun
        (SARSA, {"td_lambda": 0.5}, 9),
        (PQN, {"td_lambda": 0.5}, 9),
    ],
)
def test_a_rollout_that_is_too_short_for_a_setting_to_tell_is_refused(cls, settings, enough):
    with envs.make("CartPole-v1", num_envs=8) as tasks:
        agent = small(cls, tasks, rollout_size=enough - 1, **settings)
        with pytest.raises(ValueError, match=rf"^rollout_size is {enough - 1}, .* use {enough} or"):
            train(agent, tasks, 80)
        agent = small(cls, tasks, rollout_size=enough, **settings)
        train(agent, tasks, 80)
        assert agent.learner.updates > 0


@pytest.mark.parametrize("settings", [{}, {"expected": True}, {"n_step": 3}, {"td_lambda": 0.9}])
def test_the_algorithms_that_it_lists_are_one_setting_away_from_the_defaults(settings):
    with envs.make("CartPole-v1") as tasks:
        config = SARSA.Config(**settings)
        train(SARSA(tasks.observation_space, tasks.action_space, config), tasks, 80)


def test_a_dueling_sarsa_values_the_state_apart():
    sarsa = small(SARSA, tasks(), dueling=True, **PLAIN)
    heads = sarsa.network.heads["q"]
    assert heads.weight.shape == (3, 16)  # the value's, and the advantages' of two actions


# Tasks whose states are numbered ------------------------------------------------------------------


@pytest.mark.parametrize("cls", [SARSA, ExpectedSARSA, PQN, DQN])
def test_a_linear_network_learns_the_frozen_lake(cls):
    options: dict[str, Any] = {"desc": ["SFF", "FHF", "FFG"], "is_slippery": False}
    settings: dict[str, Any] = {
        "gamma": 0.9,
        "epsilon_end": 0.3,
        "epsilon_steps": 3000,
        "buffer_size": 4000,
        "network": {"hidden_sizes": (), "norm": "none"},
        "optim": {"lr": 3e-2, "schedule": "linear"},
    }
    with envs.make("FrozenLake-v1", num_envs=8, **options) as lake:
        agent = small(cls, lake, seed=1, **settings)
        network = agent.network
        assert isinstance(network, Network)
        assert sum(p.numel() for p in network.parameters()) == 9 * 4 + 4
        train(agent, lake, 4000)
        assert evaluate(agent, lake, 8).min == 1.0


@pytest.mark.parametrize("cls", [SARSA, ExpectedSARSA, PQN, DQN])
@pytest.mark.parametrize("task", ["CliffWalking-v1", "Taxi-v4"])
def test_teaching_tasks_are_learned_from(cls, task):
    if task not in gymnasium.registry:
        pytest.skip(f"this Gymnasium has no {task}")
    with envs.make(task, num_envs=4, max_episode_steps=20) as tasks:
        agent = small(cls, tasks, network={"hidden_sizes": (), "norm": "none"})
        before = agent.learner.flat.vector.clone()
        train(agent, tasks, 200)
        after = agent.learner.flat.vector
        assert after.isfinite().all()
        assert not after.equal(before)
