"""CrossQ is SAC with its target made in the same pass, and statistics that are learned in place."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional as F

from agents import SAC, CrossQ, CrossQConfig, NetworkConfig
from agents.core.batch_renorm import EPS, BatchRenorm
from envs.transition import Transition

OBS, ACTIONS = spaces.Box(-5, 5, (3,)), spaces.Box(-2, 2, (2,))
B = 64
GAMMA = 0.9


def batch(seed: int = 0) -> Transition:
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(B, 3, generator=g), 1 + 2 * torch.randn(B, 3, generator=g)
    action = 2 * torch.rand(B, 2, generator=g) - 1
    terminated = torch.rand(B, generator=g) < 0.2
    truncated = torch.rand(B, generator=g) < 0.2
    reward, valid = torch.randn(B, generator=g), torch.ones(B, dtype=torch.bool)
    return Transition(obs, action, reward, next_obs, terminated, truncated, valid, {})


class AnyNorm(CrossQConfig):
    """Of which critics without normalisation, which SAC's can be compared with, are not refused."""

    def __post_init__(self) -> None: ...


class AnyNormCrossQ(CrossQ):
    name, Config = "any_norm_crossq", AnyNorm


def agent(cls: Any = CrossQ, norm: str = "batch_renorm", **settings: Any) -> Any:
    cls = AnyNormCrossQ if cls is CrossQ and norm == "none" else cls
    config = cls.Config(gamma=GAMMA, batch_size=B, **settings)
    small: dict[str, Any] = {"hidden_sizes": (16, 16), "norm": norm}
    network = replace(config.network, **small)
    critic_network = replace(config.critic_network, **small)
    return cls(OBS, ACTIONS, replace(config, network=network, critic_network=critic_network))


def inputs_of(agent: Any, monkeypatch: Any, loss: str, **update: Any) -> Any:
    """What an update gives this loss, without a step being made."""
    seen: list[Any] = []
    for learner in agent.learners.values():
        minimize = learner.minimize

        def noted(function: Any, *inputs: Any, minimize: Any = minimize) -> Any:
            if function.__name__ == loss:
                seen.append([x.clone() if torch.is_tensor(x) else x for x in inputs])
            return minimize(function, *inputs)

        monkeypatch.setattr(learner, "minimize", noted)
    agent.update(batch(**update))
    monkeypatch.undo()
    (found,) = seen
    return found


def test_without_normalisation_the_loss_is_that_of_sac_whose_targets_are_the_critics(monkeypatch):
    """The same weights and the same noise: the same loss, and the same gradient."""
    ours, theirs = agent(norm="none"), agent(SAC, norm="none")
    for name in ("critic", "actor"):
        theirs.learners[name].flat.vector.copy_(ours.learners[name].flat.vector)
    theirs.target.follow()
    for each in (ours, theirs):
        each.noise.manual_seed(0)
    target = theirs.td_target(batch(), batch().next_obs)
    expected, _ = theirs.critic_learner.gradient(
        theirs.critic_loss, batch().obs, batch().action, target, None
    )
    inputs = inputs_of(ours, monkeypatch, "critic_loss")
    ours.critic_learner.flat.vector.copy_(theirs.critic_learner.flat.vector)
    terms, _ = ours.critic_learner.gradient(ours.critic_loss, *inputs)
    torch.testing.assert_close(terms["td"], expected["td"])
    gradients = [each.critic_learner.flat.gradient for each in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_both_halves_are_normalised_by_the_statistics_of_their_mixture(monkeypatch):
    """By PyTorch's batch normalisation over the joint batch; the target has no gradient."""
    crossq = agent()
    vector = crossq.critic_learner.flat.vector.clone()
    obs, action, reward, discount, _ = inputs_of(crossq, monkeypatch, "critic_loss")
    crossq.critic_learner.flat.vector.copy_(vector)
    assert obs[:B].equal(batch().obs)
    assert obs[B:].equal(batch().next_obs)
    assert action[:B].equal(batch().action)
    assert discount.equal(GAMMA * (~batch().terminated).float())
    q = []
    for k in range(2):
        h = torch.cat([obs, action], -1)
        for layer in (*crossq.critics.trunk, crossq.critics.heads["q"]):
            if isinstance(layer, BatchRenorm):
                h = F.batch_norm(h, None, None, training=True, eps=EPS)
            else:
                h = h @ layer.weight[k] + layer.bias[k]
                h = torch.relu(h) if layer in list(crossq.critics.trunk) else h
        q.append(h.squeeze(-1))
    target = (reward + discount * torch.minimum(*q)[B:]).detach()
    expected = sum((own[:B] - target).square().mean() for own in q)
    terms, aux = crossq.critic_learner.gradient(
        crossq.critic_loss, obs, action, reward, discount, None
    )
    torch.testing.assert_close(terms["td"], expected)
    parameters = [p for p in crossq.critics.parameters() if p.ndim == 3 and p.shape[1] > 1]
    gradients = torch.autograd.grad(expected, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)
    joint = torch.cat([obs, action], -1).mean(0)
    kept = crossq.critic_learner.buffers["trunk.0.mean"][0, 0]  # the update has moved it
    torch.testing.assert_close(aux["trunk.0.mean"][0, 0], 0.99 * kept + 0.01 * joint)


def test_critics_learn_their_statistics_in_every_update_and_the_actor_in_every_third():
    crossq = agent(policy_every=3)
    for updates in range(1, 8):
        crossq.update(batch(seed=updates))
        count = {name: learner.buffers for name, learner in crossq.learners.items()}
        assert count["critic"]["trunk.0.batches"].item() == updates
        assert count["actor"]["trunk.0.batches"].item() == updates // 3
    assert crossq.temperature_learner.updates == 2
    assert crossq.targets == {}


def test_the_actors_loss_reads_the_critics_by_their_running_statistics(monkeypatch):
    crossq = agent(policy_every=1)
    obs, noise, temperature, *_ = inputs_of(crossq, monkeypatch, "actor_loss")
    terms, aux = crossq.actor_learner.gradient(
        crossq.actor_loss, obs, noise, temperature, None, None
    )
    policy = crossq.actor_network(obs, statistics={})["policy"]
    action, log_prob = crossq.policy.draw(policy, noise)
    torch.testing.assert_close(terms["value"], -crossq.q_values(obs, action).amin(0).mean())
    torch.testing.assert_close(terms["entropy"], temperature * log_prob.mean())
    own = {name for name in aux if name in crossq.actor_learner.buffers}
    assert own == dict(crossq.actor_network.named_buffers()).keys()


def test_an_action_does_not_depend_on_the_others_that_are_asked_for_with_it():
    crossq = agent()
    for seed in range(12):
        crossq.update(batch(seed=seed))
    obs = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    before = crossq.state_dict()["parts"]["actor"]["buffers"]
    together = crossq.act(obs)
    alone = np.stack([crossq.act(row) for row in obs])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(crossq.act(obs[:3]), together[:3], rtol=1e-4, atol=1e-5)
    after = crossq.state_dict()["parts"]["actor"]["buffers"]
    assert all(after[name].equal(value) for name, value in before.items())


@pytest.mark.parametrize("field", ["reward", "obs", "next_obs"])
def test_a_bad_batch_leaves_the_statistics_as_they_were(field):
    crossq = agent(policy_every=1)
    for seed in range(3):
        crossq.update(batch(seed=seed))
    buffers = {
        (name, key): value.clone()
        for name, learner in crossq.learners.items()
        for key, value in learner.buffers.items()
    }
    bad = batch(seed=9)
    column = getattr(bad, field).clone()
    column[3] = torch.nan
    crossq.update(replace(bad, **{field: column}))
    for (name, key), value in buffers.items():
        assert crossq.learners[name].buffers[key].equal(value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic_network": NetworkConfig()}, "^critic_network.norm is 'none', .*use batch_renorm"),
        ({"target_entropy": np.inf}, "^target_entropy is inf: use a finite number, or None"),
        (
            {"temperature": 0.1, "initial_temperature": 0.5},
            "^initial_temperature is 0.5, which has",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CrossQConfig(**settings)
