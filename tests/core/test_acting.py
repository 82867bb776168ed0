"""gSDE's noise and what it carries, deviations of the state, and masks in acting and in losses."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import TimeLimit
from scipy import stats

from agents import A2C, DQN, PPO, REINFORCE, TRPO, NetworkConfig, PPOConfig, train
from agents.core import acting
from agents.core.distributions import PolicyConfig, policy_for
from agents.core.network import Head, Network
from agents.core.spaces import Actions
from envs.vector import VectorEnv
from envs.wrappers import ObserveActionMask
from tests.contract.support import small, updates

BOX = spaces.Box(-1, 1, (3,))
SEEN = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


# gSDE -------------------------------------------------------------------------------------------


def gsde(steps=None, log_std=-1.0, space=BOX):
    config = PolicyConfig("gsde", log_std, steps)
    policy = policy_for(spaces.Box(-1, 1, (2,)), config)
    network = Network(space, {"policy": policy.head}, NetworkConfig(hidden_sizes=(8,)))
    return policy, network


def drawn(policy, network, obs, carried, rng, explore=True):
    with torch.no_grad():
        return acting.draw(policy, network, torch.from_numpy(obs), carried, explore, rng)


def test_the_noise_is_a_function_of_the_state_until_it_is_drawn_anew():
    policy, network = gsde(steps=3)
    rng = np.random.default_rng(1)
    carried = acting.begin(policy, network, 6, True, rng)
    actions = [drawn(policy, network, SEEN, carried, rng) for _ in range(9)]
    for i, j in ((0, 1), (1, 2), (3, 5), (6, 8)):
        np.testing.assert_array_equal(actions[i], actions[j])
    for i, j in ((2, 3), (5, 6), (0, 6)):
        assert (actions[i] != actions[j]).all()
    mode = drawn(policy, network, SEEN, {}, rng, explore=False)
    np.testing.assert_array_equal(drawn(policy, network, SEEN, carried, rng, False), mode)


def test_what_gsde_draws_has_the_distribution_that_its_head_tells():
    policy, network = gsde()
    with torch.no_grad():
        network.heads["policy"].log_std.add_(0.5 * torch.randn(8, 2))
        output = network(torch.from_numpy(SEEN[:1]))["policy"][0]
    count, rng = 20_000, np.random.default_rng(0)
    obs = np.repeat(SEEN[:1], count, axis=0)
    actions = drawn(policy, network, obs, acting.begin(policy, network, count, True, rng), rng)
    mean, log_std = output.numpy().reshape(2, 2)
    for i in range(2):
        z = (actions[:, i] - mean[i]) / np.exp(log_std[i])
        assert stats.kstest(z, "norm").pvalue > 0.01
    # σ_j² = Σ_i φ_i² σ_ij² (Raffin et al. 2022, eq. 7)
    with torch.no_grad():
        phi = torch.tanh(network.trunk[0].affine(torch.from_numpy(SEEN[0])))
        variance = (phi**2) @ (network.heads["policy"].log_std.exp() ** 2)
    np.testing.assert_allclose(np.exp(2 * log_std), variance, rtol=1e-4)


def test_in_bfloat16_the_spread_of_gsde_keeps_what_a_step_changes():
    policy, network = gsde()
    obs = torch.from_numpy(SEEN)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = policy.parts(network(obs)["policy"])[1]
        network.heads["policy"].log_std.add_(1e-3)
        after = policy.parts(network(obs)["policy"])[1]
    torch.testing.assert_close(after - before, torch.full_like(before, 1e-3), rtol=0.05, atol=0.0)


def test_noise_is_no_byte_where_observations_are():
    policy, network = gsde(space=spaces.Box(0, 255, (10, 10, 2), np.uint8))
    count, rng = 4_000, np.random.default_rng(0)
    obs = np.repeat(rng.integers(0, 256, (1, 200), np.uint8), count, axis=0)
    actions = drawn(policy, network, obs, acting.begin(policy, network, count, True, rng), rng)
    with torch.no_grad():
        mean, log_std = network(torch.from_numpy(obs[:1]))["policy"][0].numpy().reshape(2, 2)
    for i in range(2):
        assert stats.kstest((actions[:, i] - mean[i]) / np.exp(log_std[i]), "norm").pvalue > 0.01


def test_an_actor_gives_each_episode_a_noise_of_its_own():
    tasks = VectorEnv([gymnasium.make("Pendulum-v1") for _ in range(4)])
    agent = small(PPO, tasks, policy={"std": "gsde"})
    actor, obs = agent.actor(4, seed=3), tasks.reset(0)
    first = actor.act(obs)[0]
    np.testing.assert_array_equal(actor.act(obs)[0], first)
    actor.reset(np.array([True, False, False, True]))
    again = actor.act(obs)[0]
    assert (again != first)[:, 0].tolist() == [True, False, False, True]


@pytest.mark.parametrize("cls", [PPO, A2C, REINFORCE, TRPO], ids=lambda cls: cls.name)
@pytest.mark.parametrize("policy", [{"std": "gsde", "gsde_steps": 4}, {"std": "state"}], ids=str)
def test_every_policy_agent_learns_with_it(cls, policy):
    envs = [TimeLimit(gymnasium.make("Pendulum-v1").unwrapped, 20) for _ in range(2)]
    tasks = VectorEnv(envs)
    agent = small(cls, tasks, policy=policy)
    head = agent.network.heads["policy"]
    before = (head.weight if policy["std"] == "state" else head.log_std).clone()
    train(agent, tasks, 200)
    after = head.weight if policy["std"] == "state" else head.log_std
    assert updates(agent) >= 2
    assert not after.equal(before)
    assert after.isfinite().all()


# Masks ------------------------------------------------------------------------------------------


class Doors(gymnasium.Env[Any, Any]):
    """Some doors are locked, others each time. Insists on an open one; the last open one pays."""

    observation_space = spaces.Box(-1, 1, (2,))

    def __init__(self, actions=None):
        self.action_space: Any = actions or spaces.Discrete(4, start=3)

    def _info(self):
        n = self.action_space
        sizes = [int(n.n)] if isinstance(n, spaces.Discrete) else n.nvec.tolist()
        masks = [self.np_random.permutation(np.arange(k) < k // 2).astype(np.int8) for k in sizes]
        self.open = masks
        return {"action_mask": masks[0] if isinstance(n, spaces.Discrete) else tuple(masks)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), self._info()

    def step(self, action):
        digits = np.atleast_1d(np.asarray(action) - self.action_space.start)
        assert all(mask[digit] for mask, digit in zip(self.open, digits, strict=True))
        paid = sum(
            digit == mask.nonzero()[0][-1] for mask, digit in zip(self.open, digits, strict=True)
        )
        ended = self.np_random.random() < 0.2
        return np.zeros(2, np.float32), float(paid), bool(ended), False, self._info()


@pytest.mark.parametrize(
    "settings",
    [
        {"exploration": "boltzmann", "temperature": 10.0},
        {"exploration": "ez_greedy", "duration_exponent": 1.1},
        {"munchausen": True, "double": False},
        {"value": "hl_gauss", "v_max": 10.0, "n_step": 3},
        {"value": "quantile", "dueling": True},
    ],
    ids=str,
)
def test_no_way_to_explore_and_no_value_leads_to_a_forbidden_action(settings):
    tasks = VectorEnv([ObserveActionMask(Doors()) for _ in range(3)])
    agent = small(DQN, tasks, **settings)
    train(agent, tasks, 300)
    assert updates(agent) > 2
    with torch.no_grad():  # 5 is the most that is earned on average
        assert np.abs(agent.expected_return(tasks.obs)).max() < 10


@pytest.mark.parametrize("cls", [PPO, A2C, REINFORCE, TRPO], ids=lambda cls: cls.name)
@pytest.mark.parametrize(
    "actions", [spaces.Discrete(4, start=3), spaces.MultiDiscrete([4, 2], start=[1, 0])], ids=str
)
def test_a_forbidden_action_is_never_taken(cls, actions):
    tasks = VectorEnv([ObserveActionMask(Doors(actions)) for _ in range(3)])
    agent = small(cls, tasks, normalize_obs=True)
    train(agent, tasks, 300)
    assert updates(agent) > 2
    obs = tasks.reset(1)
    for explore in (True, False):
        for _ in range(20):
            _, obs = tasks.step(agent.act(obs, explore=explore))


def masked_policy(width=4):
    space = spaces.Dict({"observation": BOX, "action_mask": spaces.MultiBinary(4)})
    policy = policy_for(spaces.Discrete(width))
    return policy, Network(space, {"policy": policy.head, "value": "scalar"})


def test_a_forbidden_action_has_no_probability_no_entropy_and_no_gradient():
    policy, network = masked_policy()
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    obs = torch.cat([mask, torch.tensor(SEEN[0])])  # the parts of a Dict in the order of its keys
    logits = network(obs)["policy"]
    assert network.observations.mask == slice(0, 4)
    allowed = torch.distributions.Categorical(logits=logits[[0, 2]])
    for i, action in enumerate((0, 2)):
        log_prob = policy.log_prob(logits, torch.tensor(action))
        torch.testing.assert_close(log_prob, allowed.log_prob(torch.tensor(i)))
    torch.testing.assert_close(policy.entropy(logits), allowed.entropy())
    torch.testing.assert_close(policy.kl(logits, logits.detach() + 0.0), torch.tensor(0.0))
    assert policy.log_prob(logits, torch.tensor(1)) < -1e7
    total = policy.log_prob(logits, torch.tensor(0)) + policy.entropy(logits)
    total.backward()
    rows = network.heads["policy"].weight.grad
    assert rows[[0, 2]].abs().sum(1).min() > 0
    assert not rows[[1, 3]].any()
    assert not network.heads["policy"].bias.grad[[1, 3]].any()


def test_a_choice_of_which_nothing_is_allowed_is_made_as_without_a_mask():
    space = spaces.Dict({"observation": BOX, "action_mask": spaces.MultiBinary(5)})
    policy = policy_for(spaces.MultiDiscrete([2, 3]))
    network = Network(space, {"policy": policy.head})
    obs = np.tile(np.concatenate([[1, 0, 0, 0, 0], SEEN[0]]).astype(np.float32), (2000, 1))
    actions = drawn(policy, network, obs, {}, np.random.default_rng(0))
    counts = np.bincount(actions[:, 1], minlength=3)
    assert not actions[:, 0].any()
    with torch.no_grad():
        logits = network(torch.from_numpy(obs[:3]))["policy"]
        every = torch.tensor([[0, 0], [0, 1], [0, 2]])
        expected = policy.log_prob(logits, every).exp().double().numpy()
        assert expected.sum() == pytest.approx(1.0)
        assert stats.chisquare(counts, 2000 * expected / expected.sum()).pvalue > 0.001
        free = torch.distributions.Categorical(logits=logits[0, 2:])
        torch.testing.assert_close(policy.entropy(logits)[0], free.entropy())


def test_the_value_does_not_depend_on_what_is_masked_but_for_reading_it():
    _, network = masked_policy()
    outputs = network(torch.cat([torch.ones(4), torch.tensor(SEEN[0])]))
    assert outputs["value"].shape == ()
    assert outputs["policy"].min() > -10


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="action_mask has 4 entries, but there are 5 actions"):
        masked_policy(5)
    space = spaces.Dict({"observation": BOX, "action_mask": spaces.Discrete(4)})
    with pytest.raises(ValueError, match="action_mask is Discrete"):
        Network(space, {"policy": Head(4)})
    with pytest.raises(ValueError, match="a mask is for Discrete or MultiDiscrete actions"):
        ObserveActionMask(gymnasium.make("Pendulum-v1"))
    with pytest.raises(ValueError, match=r"gives no info\['action_mask'\]"):
        ObserveActionMask(gymnasium.make("CartPole-v1")).reset()


def test_a_mask_is_not_normalized():
    tasks = VectorEnv([ObserveActionMask(Doors()) for _ in range(2)])
    agent = PPO(tasks.observation_space, tasks.action_space, PPOConfig(normalize_obs=True))
    assert agent.obs_normalizer is not None
    assert agent.obs_normalizer.numeric.tolist() == [False] * 4 + [True] * 2


def test_taxi_tells_what_is_allowed_and_a_dict_keeps_its_parts():
    env = ObserveActionMask(gymnasium.make("Taxi-v4"))
    obs, info = env.reset(seed=0)
    assert obs in env.observation_space
    np.testing.assert_array_equal(obs["action_mask"], info["action_mask"])
    again, *_ = env.step(int(obs["action_mask"].argmax()))
    assert set(again) == {"observation", "action_mask"}


# Actions as they are stored -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (spaces.Discrete(4, start=-2), (), np.int64),
        (spaces.Box(-1, 1, (2, 3), np.float64), (6,), np.float32),
        (
            spaces.MultiDiscrete(np.array([[3, 4], [2, 2]]), start=np.array([[1, 2], [0, -3]])),
            (4,),
            np.int64,
        ),
        (spaces.MultiBinary([2, 2]), (4,), np.int64),
        (spaces.Dict({"b": BOX, "a": spaces.Discrete(3, start=7)}), (4,), np.float32),
        (spaces.Tuple([spaces.MultiBinary(3), spaces.Discrete(2)]), (4,), np.int64),
    ],
    ids=str,
)
def test_actions_go_and_come_back(space, shape, dtype):
    actions = Actions(space)
    assert (actions.shape, actions.dtype) == (shape, dtype)
    batch = batch_space(space, 5)
    batch.seed(0)
    drawn = batch.sample()
    stored = actions.flatten(drawn)
    assert stored.shape == (5, *shape)
    assert stored.dtype == dtype
    if dtype is np.int64:
        assert stored.min() >= 0
    back = actions.unflatten(stored, fit=True)
    assert back in batch
    np.testing.assert_array_equal(actions.flatten(back), stored)
    assert data_equivalence(back, drawn) or isinstance(space, spaces.Box)  # float64 is rounded
    assert actions.unflatten(stored[2], fit=True) in space
