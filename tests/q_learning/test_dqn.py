"""DQN's extensions: what target they make, what the loss is made of, and what is refused."""

from dataclasses import replace
from itertools import islice
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import envs
from agents import AGENTS, C51, DQN, IQN, QRDQN, DQNConfig, Rainbow, SARSAConfig
from agents.core.network import NetworkConfig
from agents.values import of_action
from envs.vector import VectorEnv
from tests.contract.support import batches, bits, chooses, config, small

BOX, DISCRETE = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
PRIORITIZED: dict[str, Any] = {"priority_exponent": 0.6, "importance_exponent": 1.0}


class Counting(gymnasium.Env):
    """Shows how many steps were made, and pays that; ends or is cut off after nine."""

    observation_space = spaces.Box(0, 10, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, terminates):
        self.terminates = terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.array([0], np.float32), {}

    def step(self, action):
        self.at += 1
        over = self.at == 9
        obs = np.array([self.at], np.float32)
        return obs, float(self.at), over and self.terminates, over and not self.terminates, {}


def tasks():
    return envs.make("CartPole-v1", num_envs=3, max_episode_steps=9)


def batch_of(cls, environments=None, **settings):
    """An agent that has learned a little, so that its target network lags, and its next batch."""
    environments = environments or tasks()
    agent = small(cls, environments, seed=3, target_every=5, **settings)
    found = islice(batches(agent, environments), 8)
    for _ in range(7):
        agent.update(next(found))
    assert not agent.target.vector.equal(agent.learner.flat.vector)
    return agent, next(found)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("terminates", [False, True])
def test_an_n_step_target_is_the_sum_of_the_rewards_and_the_value_behind_them(double, terminates):
    """At t the rewards are t + 1, t + 2, … up to the ninth."""
    environments = VectorEnv([Counting(terminates) for _ in range(2)])
    agent, batch = batch_of(
        DQN, environments=environments, n_step=3, double=double, gamma=0.9, batch_size=64
    )
    target = agent.td_target(batch, batch.obs, batch.next_obs)
    ends = 0
    for i, at in enumerate(batch.obs[:, 0].int().tolist()):
        last = int(batch.next_obs[i, 0])
        assert at < last <= min(at + 3, 9)  # fewer before an end, and where no more is known yet
        expected = sum(0.9**k * (at + k + 1) for k in range(last - at))
        with torch.no_grad():
            q = agent.target.modules["network"](batch.next_obs[i])["q"]
            online = agent.network(batch.next_obs[i])["q"]
        best = q[online.argmax()] if double else q.max()
        if not (terminates and last == 9):
            expected += 0.9 ** (last - at) * float(best)
        ends += last == 9
        assert float(target[i]) == pytest.approx(expected, rel=1e-5)
    assert 0 < ends < 64


def test_double_takes_the_online_networks_action_and_the_targets_value():
    """With networks that disagree about every action."""
    agent, batch = batch_of(DQN, gamma=0.5)
    with torch.no_grad():
        head, behind = agent.network.heads["q"], agent.target.modules["network"].heads["q"]
        for layer, bias in ((head, [5.0, -5.0]), (behind, [1.0, 2.0])):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(bias))
    going_on = ~batch.terminated
    for double, value in ((True, 1.0), (False, 2.0)):
        agent.config = replace(agent.config, double=double)
        target = agent.td_target(batch, batch.obs, batch.next_obs)
        torch.testing.assert_close(target, batch.reward + 0.5 * value * going_on)


@pytest.mark.parametrize("cls", [C51, QRDQN])
@pytest.mark.parametrize("double", [False, True])
def test_a_distribution_is_that_of_the_action_with_the_best_expectation(cls, double):
    agent, batch = batch_of(cls, double=double, atoms=7)
    with torch.no_grad():
        output = agent.target.modules["network"](batch.next_obs)["q"]
        chooser = agent.network(batch.next_obs)["q"] if double else output
    if cls is C51:
        mean = (chooser.softmax(-1) * agent.value.support).sum(-1)
    else:
        mean = chooser.mean(-1)
    best = torch.stack([output[i, a] for i, a in enumerate(mean.argmax(-1).tolist())])
    discount = batch.discount(agent.config.gamma)
    expected = agent.value.target(batch.reward, discount, best)
    torch.testing.assert_close(agent.td_target(batch, batch.obs, batch.next_obs), expected)


@pytest.mark.parametrize("double", [False, True])
def test_the_quantiles_that_are_learned_from_do_not_choose_the_action(double, monkeypatch):
    """Two actions are worth 0, one spread wide: drawn fractions would flatter it by chance."""
    agent, batch = batch_of(IQN, double=double)

    def output(network, obs, tau=None):
        tau = agent.value.fractions(len(obs), agent.noise) if tau is None else tau
        wide = 2.0 * torch.sqrt(torch.tensor(3.0)) * (tau - 0.5)  # of standard deviation 1
        wide = wide.expand(len(obs), -1)
        return torch.stack([wide, 0.001 * wide], dim=1)

    monkeypatch.setattr(agent, "output", output)
    obs = torch.zeros(20_000, 3)
    zero = torch.zeros(len(obs))
    batch = replace(batch, reward=zero, terminated=zero.bool())
    target = agent.td_target(batch, obs, obs)
    assert abs(target.mean().item()) < 0.01


def spied(monkeypatch, agent, batch):
    """The arguments of the loss and of `reprioritize` in one update, and the step made."""
    told, steps = [], []
    minimize = agent.learner.minimize

    def noted(loss, *inputs):
        steps.append((inputs, minimize(loss, *inputs)))
        return steps[-1][1]

    monkeypatch.setattr(agent.learner, "minimize", noted)
    monkeypatch.setattr(agent.memory, "reprioritize", lambda *given: told.append(given))
    before = agent.learner.flat.vector.clone()
    agent.update(batch)
    return before, steps[0], told


@pytest.mark.parametrize("cls", [DQN, C51, QRDQN])
def test_weights_multiply_the_loss_and_errors_go_back_in_order(cls, monkeypatch):
    agent, batch = batch_of(cls, **PRIORITIZED)
    assert batch.extras["weight"].shape == (8,)
    batch = replace(batch, extras={**batch.extras, "weight": torch.linspace(0.2, 1.0, 8)})
    before, (inputs, step), told = spied(monkeypatch, agent, batch)
    agent.learner.flat.vector.copy_(before)  # as it was when the loss was worked out
    obs, action, target, weight, tau, _ = inputs
    assert weight is batch.extras["weight"]
    with torch.no_grad():
        taken = of_action(agent.network(obs)["q"], action)
        each = agent.value.loss(taken, target, tau)
    assert step.loss == pytest.approx(
        sum(float(w * e) for w, e in zip(weight, each, strict=True)) / 8
    )
    ((index, error),) = told
    assert torch.equal(index, batch.extras["index"])
    torch.testing.assert_close(error, agent.value.error(taken, target))
    if cls is DQN:
        torch.testing.assert_close(error, target - taken)


def test_the_priorities_of_a_batch_become_its_absolute_errors():
    agent, batch = batch_of(DQN, **PRIORITIZED)
    with torch.no_grad():
        taken = of_action(agent.network(batch.obs)["q"], batch.action)
        error = agent.td_target(batch, batch.obs, batch.next_obs) - taken
    agent.update(batch)
    held = agent.memory.state_dict()["priorities"]
    place = batch.extras["index"].numpy() - agent.memory.oldest
    np.testing.assert_allclose(held[place], error.abs().numpy() ** 0.6, rtol=1e-3, atol=1e-3)


def test_the_exponent_of_the_weights_rises_from_the_configs_start_over_its_steps():
    settings = {"priority_exponent": 0.6, "importance_exponent": 0.2, "importance_steps": 200}
    agent, _ = batch_of(DQN, **settings)
    assert 0 < agent.steps < 200
    assert agent.memory.beta == pytest.approx(0.2 + 0.8 * agent.steps / 200)


def test_a_skipped_step_tells_the_memory_nothing(monkeypatch):
    agent, batch = batch_of(Rainbow)
    reward = batch.reward.clone()
    reward[2] = torch.inf
    held = bits(agent.memory.state_dict())
    agent.update(replace(batch, reward=reward))
    assert agent.learner.skipped == 1
    assert bits(agent.memory.state_dict()) == held


def test_munchausen_adds_the_log_probability_and_softens_the_maximum():
    agent, batch = batch_of(DQN, munchausen=True, double=False)
    with torch.no_grad():
        network = agent.target.modules["network"]
        q, next_q = network(batch.obs)["q"] / 0.03, network(batch.next_obs)["q"]
    log_prob = torch.stack([x[a] - x.logsumexp(0) for x, a in zip(q, batch.action, strict=True)])
    bonus = 0.9 * (0.03 * log_prob).clamp(-1, 0)
    soft = 0.03 * (next_q / 0.03).logsumexp(-1)
    expected = batch.reward + bonus + batch.discount(agent.config.gamma) * soft
    target = agent.td_target(batch, batch.obs, batch.next_obs)
    torch.testing.assert_close(target, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"double": True}, {"n_step": 3}, *({"value": v} for v in ("categorical", "quantile"))],
    ids=str,
)
def test_munchausen_with_what_the_paper_does_not_say_is_refused(settings):
    with pytest.raises(
        ValueError, match=r"^munchausen is True: use it with a scalar value, [^\n]*$"
    ):
        DQNConfig(**{"munchausen": True, "double": False, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value": "categorical", "v_min": 1.0, "v_max": 1.0}, r"^v_max is 1\.0: use more than"),
        ({"value": "hl_gauss", "atoms": 1}, "^atoms is 1: use 2 or more"),
        ({"value": "quantile", "atoms": 0}, "^atoms is 0: use 1 or more"),
        ({"value": "gaussian"}, "^value is 'gaussian': use scalar, categorical"),
        *(
            ({"value": "hl_gauss", name: number}, f"^{name} is {number}: use a finite number")
            for name in ("v_min", "v_max")
            for number in (np.inf, -np.inf, np.nan)
        ),
    ],
)
def test_a_distribution_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DQNConfig(**settings)


@pytest.mark.parametrize(
    ("config", "settings", "why"),
    [
        (DQNConfig(), {"atoms": 11}, "on a scalar value: set it to 51"),
        (DQNConfig(), {"v_min": -1.0}, r"with value scalar, no histogram: set it to 0\.0"),
        (QRDQN.Config(), {"v_max": 1.0}, r"with value quantile, no histogram: set it to 100\.0"),
        (C51.Config(), {"loss": "squared"}, "with value categorical: set it to huber"),
        (IQN.Config(), {"loss": "squared"}, "with value implicit_quantile: set it to huber"),
        (DQNConfig(), {"importance_exponent": 1.0}, r"without priorities: set it to 0\.4"),
        (DQNConfig(), {"importance_steps": 9}, "without priorities: set it to 100000"),
        (DQNConfig(), {"temperature": 2.0}, r"with exploration epsilon_greedy: set it to 1\.0"),
        (
            DQNConfig(exploration="boltzmann"),
            {"duration_exponent": 3.0},
            r"with exploration boltzmann: set it to 2\.0",
        ),
        (SARSAConfig(), {"temperature": 2.0}, r"with exploration epsilon_greedy: set it to 1\.0"),
    ],
)
def test_a_setting_of_what_was_not_chosen_is_refused(config, settings, why):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"^{name} is {value}, which has no effect {why}$"):
        replace(config, **settings)


@pytest.mark.parametrize("cls", [C51, QRDQN, IQN, Rainbow])
def test_its_own_defaults_do_not_keep_a_dqn_by_another_name_from_a_scalar(cls):
    assert cls.Config(value="scalar").atoms == cls.Config().atoms


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network": NetworkConfig((8,))},
            "epsilon_start is 0.0: use an epsilon above 0 at the start",
        ),
        ({"exploration": "ez_greedy"}, "exploration is ez_greedy: use it with an epsilon above 0"),
    ],
)
def test_exploring_by_what_is_not_there_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Rainbow.Config(**changes)
    assert Rainbow.Config(**changes, epsilon_start=0.1)


@pytest.mark.parametrize("cls", AGENTS.values(), ids=list(AGENTS))
def test_noisy_layers_are_for_agents_that_use_them(cls):
    if cls.Config().network.recurrent != "none":
        return  # its own default contradicts the question
    settings = replace(config(cls), network=NetworkConfig((8,), noisy=True))
    if cls.noisy:
        agent = cls(BOX, DISCRETE, settings)
        assert agent.network.noisy
        return
    with pytest.raises(ValueError, match=rf"^network\.noisy explores for [^\n]*{cls.name}[^\n]*$"):
        cls(BOX, DISCRETE if chooses(cls) else spaces.Box(-1, 1, (1,)), settings)


def test_noise_is_drawn_to_explore_and_to_learn_but_not_to_act_greedily(monkeypatch):
    """Every step of acting from the actor's stream, so that a run goes on bit for bit."""
    agent, batch = batch_of(Rainbow)
    obs = batch.obs.numpy()
    assert len({agent.act(obs).tobytes() for _ in range(20)}) == 1
    with torch.no_grad():
        agent.learner.flat.vector += 1.0  # spreads too: large enough to change an action
    explored = [agent.act(obs, explore=True).tobytes() for _ in range(20)]
    assert len(set(explored)) > 1
    _, (inputs, _), _ = spied(monkeypatch, agent, batch)
    assert [len(x) for x in inputs[-1]] == [
        layer.inputs + layer.outputs for layer in agent.network.noisy
    ]
    target = [agent.td_target(batch, batch.obs, batch.next_obs) for _ in range(2)]
    assert not torch.equal(*target)


def test_implicit_quantiles_are_drawn_anew_to_learn_and_are_fixed_to_act():
    agent, batch = batch_of(IQN)
    one, two = (agent.td_target(batch, batch.obs, batch.next_obs) for _ in range(2))
    assert one.shape == (8, 8)
    assert not torch.equal(one, two)
    before = agent.noise.get_state()
    q = agent.q_values(batch.obs)
    assert torch.equal(q, agent.q_values(batch.obs))
    assert torch.equal(before, agent.noise.get_state())
    torch.testing.assert_close(q[:1], agent.q_values(batch.obs[:1]))
