"""TRPO's steps: the Fisher matrix, the natural direction, the trust region, the line search."""

from itertools import islice

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.func import jacrev

import envs
from agents import NPG, TRPO, NetworkConfig, NPGConfig, OptimConfig, TRPOConfig
from tests.contract.support import batches

BOX = spaces.Box(-1, 1, (3,))
TINY_NET = NetworkConfig(hidden_sizes=(4,))


def agent(action_space, cls=TRPO, **settings):
    made = cls(BOX, action_space, cls.Config(network=TINY_NET, **settings), seed=1)
    for learner in made.learners.values():  # as it may be after some learning
        torch.manual_seed(0)
        learner.flat.vector.add_(0.3 * torch.randn_like(learner.flat.vector))
    return made


def data(agent, count=40, seed=0):
    """What `improve` is given, of random states and advantages."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(count, 3, generator=generator)
    with torch.no_grad():
        output = agent.network(obs)["policy"]
    drawn = agent.policy.sample(output.numpy(), np.random.default_rng(seed))
    action = torch.from_numpy(drawn)
    log_prob = agent.policy.log_prob(output, action)
    return [obs, action, output, log_prob, torch.randn(count, generator=generator)]


def fisher_of_scores(agent, obs):
    """E[∇ log π ∇ log πᵀ], the expectation over discrete actions taken exactly."""

    def log_probs(vector):
        weights = {
            name.removeprefix("network."): w for name, w in agent.learner.flat.split(vector).items()
        }
        output = torch.func.functional_call(agent.network, weights, (obs,))["policy"]
        return torch.log_softmax(output, -1)

    vector = agent.learner.flat.vector.clone()
    scores, probability = jacrev(log_probs)(vector), log_probs(vector).exp()
    return torch.einsum("ba,bai,baj->ij", probability, scores, scores) / len(obs)


def fisher_of_gaussian(agent, obs):
    """Jᵀ M J with M the Fisher matrix of a normal distribution: 1/σ² for means, 2 for log σ."""

    def outputs(vector):
        weights = {
            name.removeprefix("network."): w for name, w in agent.learner.flat.split(vector).items()
        }
        return torch.func.functional_call(agent.network, weights, (obs,))["policy"]

    vector = agent.learner.flat.vector.clone()
    jacobian, output = jacrev(outputs)(vector), outputs(vector)
    mean, log_std = output.chunk(2, -1)
    inner = torch.cat([torch.exp(-2 * log_std), torch.full_like(mean, 2.0)], -1)
    return torch.einsum("bo,boi,boj->ij", inner, jacobian, jacobian) / len(obs)


CASES = {
    "discrete": (spaces.Discrete(4), fisher_of_scores),
    "box": (spaces.Box(-1, 1, (2,)), fisher_of_gaussian),
}


@pytest.mark.parametrize("name", CASES)
def test_the_hessian_of_the_divergence_is_the_fisher_matrix(name):
    space, explicit = CASES[name]
    trpo = agent(space)
    obs, _, output, *_ = data(trpo)
    matrix = explicit(trpo, obs)
    product = trpo.learner.hessian(trpo.divergence, obs, output)
    for seed in range(3):
        v = torch.randn(len(matrix), generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(product(v), matrix @ v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_the_direction_is_the_natural_gradient_at_the_edge_of_the_region(name):
    space, explicit = CASES[name]
    trpo = agent(space, cg_steps=60, damping=0.1, max_kl=0.02)
    inputs = data(trpo)
    trpo.learner.gradient(trpo.policy_loss, *inputs)
    gradient = trpo.learner.flat.gradient.clone()
    matrix = explicit(trpo, inputs[0]) + 0.1 * torch.eye(len(gradient))
    natural = torch.linalg.solve(matrix, gradient)
    direction = trpo.natural(gradient, inputs)
    along = torch.nn.functional.cosine_similarity(direction, natural, dim=0)
    assert float(along) == pytest.approx(1.0, abs=1e-4)
    assert float(0.5 * direction @ matrix @ direction) == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_a_step_improves_the_surrogate_within_the_region(name):
    trpo = agent(CASES[name][0], max_kl=0.05, damping=1e-3)
    inputs = data(trpo)
    with torch.no_grad():
        before, _ = trpo.policy_loss(*inputs)
    share, kl, skipped = trpo.improve(inputs)
    with torch.no_grad():
        terms, aux = trpo.policy_loss(*inputs)
    assert not skipped
    assert 0 < share <= 1
    assert float(aux["kl"]) == pytest.approx(kl, rel=1e-3)
    assert 0.1 * 0.05 < kl <= 0.05
    assert float(terms["policy"]) < float(before["policy"])


def test_a_step_too_long_is_shortened_and_none_is_taken_where_all_are():
    trpo = agent(spaces.Discrete(4), shorter=0.5, backtracks=4)
    inputs = data(trpo)
    terms, _ = trpo.learner.gradient(trpo.policy_loss, *inputs)
    direction = trpo.natural(trpo.learner.flat.gradient, inputs)
    start = float(terms["policy"])
    share, kl = trpo.line_search(8.0 * direction, start, inputs)
    assert share in (0.0625, 0.125)
    assert kl <= trpo.config.max_kl
    assert trpo.line_search(-direction, start, inputs) == (0.0, 0.0)  # uphill
    before = trpo.learner.flat.vector.clone()
    assert trpo.improve([*inputs[:4], torch.zeros(40)]) == (0.0, 0.0, False)  # nothing to gain
    assert trpo.learner.flat.vector.equal(before)
    assert trpo.learner.updates == trpo.learner.skipped == 0


def test_after_a_rollback_the_shorter_step_is_the_one_that_was_searched():
    trpo = agent(spaces.Discrete(4), max_kl=0.05)
    trpo.learner.lr_scale = 0.5
    inputs = data(trpo)
    _, kl, _ = trpo.improve(inputs)
    with torch.no_grad():
        _, aux = trpo.policy_loss(*inputs)
    assert float(aux["kl"]) == pytest.approx(kl, rel=1e-3)
    assert kl < 0.5**2 * 0.05 * 1.5


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (750, 0.25), (1000, 0.0)])
def test_a_schedule_shortens_the_policys_steps_as_it_does_the_values(step, share):
    optim = OptimConfig(lr=1e-3, schedule="linear", schedule_steps=1000)
    trpo, usual = agent(spaces.Discrete(4), optim=optim), agent(spaces.Discrete(4))
    trpo.learner.env_steps = trpo.value_learner.env_steps = step
    inputs = data(usual)
    before = usual.learner.flat.vector.clone()
    assert usual.improve(inputs)[0] == 1.0
    trpo.improve(inputs)
    whole = usual.learner.flat.vector - before
    torch.testing.assert_close(trpo.learner.flat.vector, before + share * whole)
    assert trpo.value_learner.lr == pytest.approx(share * 1e-3)
    assert trpo.learner.skipped == 0


def test_without_backtracking_it_is_the_natural_policy_gradient():
    npg, trpo = agent(spaces.Discrete(4), NPG), agent(spaces.Discrete(4), backtracks=0)
    inputs = data(npg)
    before = npg.learner.flat.vector.clone()
    npg.learner.gradient(npg.policy_loss, *inputs)
    direction = npg.natural(npg.learner.flat.gradient.clone(), inputs)
    assert npg.improve(inputs)[0] == trpo.improve(inputs)[0] == 1.0
    torch.testing.assert_close(npg.learner.flat.vector, before - direction)
    assert npg.learner.flat.vector.equal(trpo.learner.flat.vector)
    assert NPGConfig() == NPGConfig(backtracks=0)


def test_a_step_that_is_never_shortened_takes_no_share_of_it():
    with pytest.raises(
        ValueError, match=r"^shorter is 0\.5, .* without backtracks: set it to 0\.8"
    ):
        NPGConfig(shorter=0.5)


def test_the_policy_never_leaves_the_region_in_training():
    tasks = envs.make("CartPole-v1", num_envs=2)
    config = TRPOConfig(rollout_size=128, network=NetworkConfig(hidden_sizes=(8, 8)))
    trpo = TRPO(tasks.observation_space, tasks.action_space, config)
    for batch in islice(batches(trpo, tasks), 8):
        metrics = trpo.update(batch)
        assert metrics["kl"] <= config.max_kl
    assert trpo.learner.updates >= 6
    assert trpo.value_learner.updates == 80
