"""SAC and its relatives: what their targets are, what each loss moves, and when."""

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

import envs
from agents import REDQ, SAC, TQC, DroQ, SACConfig
from envs import probe
from envs.vector import VectorEnv
from tests.contract.support import batches, small, task

RNG = np.random.default_rng(0)


@pytest.fixture
def tasks():
    with envs.make(task(SAC), num_envs=4) as tasks:
        yield tasks


def learned(cls, tasks, updates=4, **settings: Any) -> Any:
    """An agent after some updates, and the batch that would come next."""
    agent = small(cls, tasks, **settings)
    *before, last = islice(batches(agent, tasks), updates + 1)
    for batch in before:
        agent.update(batch)
    return agent, last


# Targets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.3}, {"critics": 5, "subset": 5}])
def test_the_target_is_the_least_critic_and_the_entropy_discounted(tasks, settings):
    agent, batch = learned(SAC, tasks, **settings)
    batch = replace(batch, terminated=torch.arange(8) < 3)
    state = agent.noise.get_state()
    target = agent.td_target(batch, batch.next_obs)
    agent.noise.set_state(state)
    noise = agent.policy.noise(8, agent.noise)
    with torch.no_grad():
        mean, log_std = agent.actor_network(batch.next_obs)["policy"].double().chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        policy = torch.distributions.TransformedDistribution(
            normal, [torch.distributions.TanhTransform(cache_size=1)]
        )
        action = (mean + log_std.exp() * noise).tanh()
        log_prob = policy.log_prob(action).sum(-1)
        critics = agent.target.modules["critics"]
        q = critics(batch.next_obs, action=action.float())["q"].min(0).values
    alpha = settings.get("temperature", float(agent.temperature().detach()))
    expected = batch.reward + 0.99 * ~batch.terminated * (q - alpha * log_prob)
    torch.testing.assert_close(target, expected.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(target[:3], batch.reward[:3])


def test_a_subset_of_the_critics_is_drawn_anew_and_is_never_below_all(tasks):
    agent, batch = learned(REDQ, tasks)
    state = agent.noise.get_state()
    some = []
    for subset in (2, 10):
        agent.noise.set_state(state)
        agent.config = replace(agent.config, subset=subset)
        some.append(agent.td_target(batch, batch.next_obs))
    assert (some[0] >= some[1]).all()
    assert (some[0] > some[1]).any()


def test_a_single_quantile_at_one_half_is_an_unclipped_mean(tasks):
    """One critic with one quantile: the target is that of SAC with one critic."""
    one: dict[str, Any] = {"network": {"hidden_sizes": (16, 16), "shared_trunk": True}}
    quantile, batch = learned(TQC, tasks, updates=0, critics=1, quantiles=1, dropped=0, **one)
    mean = small(SAC, tasks, critics=1, **one)
    pair = [agent.td_target(batch, batch.next_obs) for agent in (quantile, mean)]
    assert pair[0].shape == (8, 1)
    torch.testing.assert_close(pair[0][:, 0], pair[1])


def test_dropout_is_on_while_learning_and_off_while_acting(tasks):
    agent, batch = learned(DroQ, tasks, critic_network={"hidden_sizes": (16, 16), "dropout": 0.5})
    first, second = (agent.td_target(batch, batch.next_obs) for _ in range(2))
    assert not first.equal(second)
    with torch.no_grad():
        assert agent.q_values(batch.obs, batch.action).equal(
            agent.q_values(batch.obs, batch.action)
        )


# What moves what --------------------------------------------------------------------------------


def test_the_actor_moves_by_its_own_loss_alone_and_pays_for_no_other_gradient(tasks):
    agent, batch = learned(SAC, tasks)
    critic = agent.critic_learner.flat
    weights, gradient = critic.vector.clone(), critic.gradient.clone()
    noise = agent.policy.noise(8, agent.noise)
    with FlopCounterMode(display=False) as forward:
        agent.actor_loss(batch.obs, noise, agent.temperature().detach(), None, None)
    with FlopCounterMode(display=False) as both:
        inputs = batch.obs, noise, agent.temperature().detach(), None, None
        assert not agent.actor_learner.minimize(agent.actor_loss, *inputs).skipped
    assert critic.vector.equal(weights)
    assert critic.gradient.equal(gradient)

    def products(network):  # of one pass forwards
        return 2 * 8 * sum(p.numel() for n, p in network.named_parameters() if "weight" in n)

    actor, critics = products(agent.actor_network), products(agent.critics)
    assert forward.get_total_flops() == actor + critics
    # backwards: through the critics to the action, and twice through the actor, for the weights
    # and for what lies below; below the first layer of the actor there is nothing.
    first = 2 * 8 * agent.actor_network.trunk[0].weight.numel()
    assert both.get_total_flops() == actor + critics + critics + 2 * actor - first


@pytest.mark.parametrize(("held", "rises"), [(-5.0, False), (5.0, True)])
def test_the_temperature_rises_where_the_entropy_is_too_low_and_falls_where_it_is_not(
    tasks, held, rises
):
    agent, batch = learned(SAC, tasks, target_entropy=held)
    before = float(agent.temperature().detach())
    assert not agent.improve(batch.obs).skipped
    assert (float(agent.temperature().detach()) > before) == rises


def test_a_given_temperature_stays_and_has_no_learner(tasks):
    agent, _ = learned(SAC, tasks, temperature=0.0)
    assert set(agent.learners) == {"critic", "actor"}
    assert float(agent.temperature().detach()) == 0.0


@pytest.mark.parametrize("every", [1, 3])
def test_actor_and_temperature_wait_for_the_critics(tasks, every):
    agent, _ = learned(SAC, tasks, updates=7, policy_every=every)
    counts = {name: learner.updates for name, learner in agent.learners.items()}
    assert counts == {"critic": 7, "actor": 7 // every, "temperature": 7 // every}


# Acting -----------------------------------------------------------------------------------------


def test_anything_is_done_before_learning_starts_and_the_policy_after_that():
    low, high = np.array([-1.0, 0.0]), np.array([1.0, 5.0])
    space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
    agent: Any = SAC(probe.BoxAction().observation_space, space, SACConfig(learning_starts=10))
    obs = RNG.normal(size=(5000, 1)).astype(np.float32)
    drawn = agent.actor(5000).act(obs)[0]
    for k in range(2):
        width = (low[k], high[k] - low[k])
        assert stats.kstest(drawn[:, k], "uniform", width).pvalue > 0.01
    agent.steps = 10
    drawn = agent.actor(5000).act(obs)[0]
    assert stats.kstest(drawn[:, 1], "uniform", (0.0, 5.0)).pvalue < 0.01
    assert (drawn >= low).all()
    assert (drawn <= high).all()
    greedy = agent.actor(5000, explore=False).act(obs)[0]
    np.testing.assert_array_equal(greedy, agent.act(obs))


@pytest.mark.parametrize("cls", [SAC, TQC], ids=lambda cls: cls.name)
def test_with_gsde_noise_is_a_function_of_the_state_for_some_steps_and_is_learned(cls, tasks):
    """Until it is drawn anew the same action is taken where the same is seen, off the mean."""
    policy = {"std": "gsde", "log_std": -1.0, "gsde_steps": 3}
    agent, _ = learned(cls, tasks, policy=policy)
    factors = agent.actor_network.heads["policy"].log_std
    assert factors.isfinite().all()
    assert factors.ne(-1.0).float().mean() > 0.5  # those of dead units have no gradient
    actor, obs = agent.actor(5, seed=1), RNG.normal(size=(5, 4)).astype(np.float32)
    actions = [actor.act(obs)[0] for _ in range(6)]
    for i, j in ((0, 1), (1, 2), (3, 5)):
        np.testing.assert_array_equal(actions[i], actions[j])
    assert (actions[2] != actions[3]).all()
    assert (actions[0] != agent.act(obs)).all()


def test_what_gsde_does_has_the_density_that_the_losses_take_it_to_have(tasks):
    """u = atanh(a) is normal, with the mean and the deviation that the head tells of the state."""
    agent, _ = learned(SAC, tasks, policy={"std": "gsde", "log_std": -1.0})
    obs = np.tile(RNG.normal(size=(1, 4)).astype(np.float32), (20_000, 1))
    drawn = np.arctanh(agent.actor(len(obs), seed=1).act(obs)[0][:, 0].astype(np.float64))
    with torch.no_grad():
        mean, log_std = agent.actor_network(torch.from_numpy(obs[:1]))["policy"][0].tolist()
    assert stats.kstest(drawn, "norm", (mean, np.exp(log_std))).pvalue > 0.01


# Settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset": 3}, "^subset is 3: use 1 to critics, 2, without quantiles, or None"),
        ({"subset": 1, "quantiles": 5}, "^subset is 1: use"),
        ({"quantiles": 0}, "^quantiles is 0: use 1 or more, or None"),
        ({"quantiles": 2, "dropped": 2}, "^dropped is 2: use 0 or more, and fewer than quantiles"),
        ({"temperature": -1.0}, "^temperature is -1.0: use 0 or more, or None"),
        ({"initial_temperature": 0.0}, "^initial_temperature is 0.0: use a positive number"),
        ({"critics": 0}, "^critics is 0: use 1 or more"),
        ({"dropped": 1}, "^dropped is 1, which has no effect without quantiles: set it to 2"),
        ({"target_entropy": np.nan}, "^target_entropy is nan: use a finite number, or None"),
        (
            {"temperature": 0.1, "target_entropy": -3.0},
            "^target_entropy is -3.0, which has no effect .*fixed temperature: set it to None",
        ),
        (
            {"temperature": 0.0, "initial_temperature": 0.1},
            "^initial_temperature is 0.1, which has no effect .*: set it to 1.0",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SACConfig(**settings)


def test_actions_without_bounds_are_refused():
    space = spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(ValueError, match=r"^sac needs actions with finite bounds.*inf"):
        SAC(VectorEnv([probe.BoxAction()]).observation_space, space)
