"""What is looked at on demand, against closed forms."""

import math
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from agents.core import examination
from agents.core.distributions import PolicyConfig, policy_for
from agents.core.learner import Learner
from agents.core.network import Head, Network, NetworkConfig
from agents.core.optimizers import OptimConfig, Optimizer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def orthogonal(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=generator(seed), dtype=torch.float64))[0]


def with_spectrum(*sigma):
    """Features (20, 5) with these singular values."""
    left, right = orthogonal(20)[:, :5], orthogonal(5, 1)
    return left @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ right


@pytest.mark.parametrize(
    ("sigma", "effective", "stable"),
    [
        ((1.0, 1.0, 1.0, 1.0, 1.0), 5, 5.0),
        ((1.0, 0.0, 0.0, 0.0, 0.0), 1, 1.0),
        ((98.0, 0.8, 0.8, 0.4, 0.0), 3, 1 + 1.44 / 98**2),
        ((4.0, 3.0, 0.0, 0.0, 0.0), 2, 25 / 16),
        ((0.0, 0.0, 0.0, 0.0, 0.0), 0, 0.0),
    ],
)
def test_ranks_of_features_with_a_known_spectrum(sigma, effective, stable):
    features = with_spectrum(*sigma)
    assert examination.effective_rank(features) == effective
    assert examination.stable_rank(features) == pytest.approx(stable, rel=1e-6)


@pytest.mark.parametrize("batch", [4, 32])
def test_the_noise_scale_of_gaussian_gradients_is_known(batch):
    mean = torch.full((50,), 0.3)
    spread = 2.0
    noise = torch.randn(20_000, 50, generator=generator()) * spread / batch**0.5
    found = examination.noise_scale(mean + noise, batch)
    assert found.signal == pytest.approx(50 * 0.09, rel=0.03)
    assert found.noise == pytest.approx(50 * spread**2, rel=0.01)
    assert found.scale == pytest.approx(spread**2 / 0.09, rel=0.03)


def test_the_noise_scale_of_a_few_gradients_is_right_on_average():
    draws = torch.randn(4000, 3, 8, generator=generator()) + 1.0
    found = [examination.noise_scale(gradients, 1) for gradients in draws]
    assert np.mean([one.signal for one in found]) == pytest.approx(8.0, rel=0.02)
    assert np.mean([one.noise for one in found]) == pytest.approx(8.0, rel=0.02)


def test_equal_gradients_have_no_noise_and_one_is_not_enough():
    gradient = torch.randn(1, 10, generator=generator())
    same = examination.noise_scale(gradient.expand(5, -1), 8)
    assert same.scale == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match="two or more"):
        examination.noise_scale(gradient, 8)
    assert math.isinf(examination.noise_scale(torch.tensor([[1.0], [-1.0]]), 1).scale)


@pytest.mark.parametrize(
    "spectrum", [(5.0, 1.0, -3.0), (1.0, 0.5, -8.0), (-1.0, -2.0, -3.0), (0.0, 0.0, 0.0)]
)
def test_the_top_eigenvalue_is_the_largest_not_the_one_of_largest_size(spectrum):
    basis = orthogonal(3)
    matrix = basis @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ basis.T
    start = torch.ones(3, dtype=torch.float64)
    found = examination.top_eigenvalue(lambda v: matrix @ v, start, 1000, 1e-12)
    assert found == pytest.approx(max(spectrum), abs=1e-6)


def bulk(*others, spread):
    """500 eigenvalues near 0 beside others."""
    return [*others, *np.random.default_rng(0).normal(0.0, spread, 500)]


@pytest.mark.parametrize(
    "spectrum",
    [
        bulk(-10.0, 1.0, spread=0.05),
        bulk(-10.0, 0.1, spread=0.005),
        bulk(-10.0, 5.0, spread=0.3),
        bulk(10.0, -9.0, spread=0.3),
        [-2.0],
        [3.0] * 8,
        [-3.0] * 8,
        [1.0, 1.0, -10.0, -10.0],
    ],
    ids=["-10, 1", "-10, 0.1", "-10, 5", "10, -9", "of 1", "3 I", "-3 I", "pairs"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_top_eigenvalue_is_found_in_fifty_products_whatever_lies_below(spectrum, dtype):
    basis = orthogonal(len(spectrum))
    matrix = (basis @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ basis.T).to(dtype)
    start = torch.randn(len(spectrum), generator=generator(), dtype=dtype)
    found = examination.top_eigenvalue(lambda v: matrix @ v, start)
    assert found == pytest.approx(np.linalg.eigvalsh(matrix.double().numpy())[-1], rel=1e-4)


def test_the_top_eigenvalue_of_a_random_matrix_is_found_within_a_hundredth():
    for seed in range(10):
        matrix = torch.randn(200, 200, generator=generator(seed))
        matrix = matrix + matrix.T
        start = torch.randn(200, generator=generator(seed + 100))
        found = examination.top_eigenvalue(matrix.mv, start)
        assert found == pytest.approx(np.linalg.eigvalsh(matrix.double().numpy())[-1], rel=1e-2)


def test_the_top_eigenvalue_of_nothing_is_0_and_of_what_is_not_finite_nan():
    start = torch.ones(3)
    assert examination.top_eigenvalue(torch.zeros_like, start) == 0.0
    assert math.isnan(examination.top_eigenvalue(lambda v: v * math.nan, start))
    assert math.isnan(examination.top_eigenvalue(lambda v: v * math.inf, start))


def quadratic(curvature, **optim):
    """A learner whose loss is ½ Σ a_i w_i²: its Hessian is diag(a). The last weight is a bias."""
    module = nn.Linear(len(curvature) - 1, 1)
    learner = Learner({"m": module}, OptimConfig(stats_every=0, **optim))
    learner.flat.vector.fill_(1.0)
    a = torch.tensor(curvature)

    def loss():
        w = torch.cat([module.weight[0], module.bias])
        return {"half": 0.5 * (a * w.square()).sum()}, {}

    return learner, loss


def test_the_sharpness_of_a_quadratic_is_its_largest_curvature():
    learner, loss = quadratic([1.0, 40.0, 3.0], optimizer="sgd", lr=0.01)
    found = examination.sharpness(learner, loss, generator=generator())
    assert found.eigenvalue == pytest.approx(40.0, rel=1e-3)
    assert found.times_lr == pytest.approx(0.4, rel=1e-3)
    assert found.limit == 2.0


@pytest.mark.parametrize("lr", [0.9, 1.1])
def test_gradient_descent_diverges_just_beyond_the_limit(lr):
    learner, loss = quadratic([2.0, 1.0], optimizer="sgd", lr=lr)
    found = examination.sharpness(learner, loss, generator=generator())
    for _ in range(200):
        step = learner.minimize(loss)
    assert (step.loss > 1.0) == (found.times_lr > found.limit)


@pytest.mark.parametrize("lr", [0.9, 1.1])
def test_so_does_momentum_at_its_own(lr):
    learner, loss = quadratic([3.6, 1.0], optimizer="sgd", lr=lr, momentum=0.8)
    found = examination.sharpness(learner, loss, generator=generator())
    assert found.limit == pytest.approx(3.6)
    for _ in range(400):
        step = learner.minimize(loss)
    assert (step.loss > 1.0) == (found.times_lr > found.limit)


def test_the_sharpness_that_adam_sees_is_scaled_by_its_second_moments():
    learner, loss = quadratic([1.0, 40.0, 3.0], lr=0.01)
    learner.moments["exp_avg_sq"].copy_(torch.tensor([1.0, 1e6, 4.0]))
    learner.moments["step"].fill_(1e9)  # the moments need no correction
    found = examination.sharpness(learner, loss, generator=generator())
    assert found.eigenvalue == pytest.approx(40.0, rel=1e-3)
    assert found.times_lr == pytest.approx(0.01 * 3.0 / 2.0, rel=1e-3)
    assert found.limit == pytest.approx(38.0)


@pytest.mark.parametrize(("l2", "largest"), [(5.0, 45.0), (200.0, 240.0)])
def test_an_l2_penalty_adds_to_the_curvature_of_what_it_is_on(l2, largest):
    learner, loss = quadratic([1.0, 40.0, 44.0], optimizer="sgd", lr=0.01, l2=l2)
    found = examination.sharpness(learner, loss, generator=generator())
    assert found.eigenvalue == pytest.approx(largest, rel=1e-3)


@pytest.mark.parametrize("share", [0.9, 1.1])
@pytest.mark.parametrize("l2", [0.0, 3.0])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_the_loss_falls_below_the_limit_and_rises_above_it(optimizer, momentum, l2, share):
    still = 1.0 - 1e-12  # second moments stay as they are
    optim = {
        "sgd": {"momentum": momentum},
        "rmsprop": {"momentum": momentum, "alpha": still},
        "adagrad": {},
    }.get(optimizer, {"betas": (momentum, still), "weight_decay": 0.0})

    def examined(lr):
        learner, loss = quadratic([5.0, 40.0, 3.0], optimizer=optimizer, lr=lr, l2=l2, **optim)
        for name in {"square_avg", "sum", "exp_avg_sq"} & learner.moments.keys():
            learner.moments[name].copy_(torch.tensor([1e20, 1e26, 1e24]))
        if "step" in learner.moments:
            learner.moments["step"].fill_(1e15)  # the moments need no correction
        return examination.sharpness(learner, loss, generator=generator()), learner, loss

    one, *_ = examined(1.0)
    found, learner, loss = examined(share * one.limit / one.times_lr)
    assert found.times_lr == pytest.approx(share * found.limit)
    first, *_, last = (learner.minimize(loss).loss for _ in range(30))
    assert (last > first) == (share > 1.0)


def actor_critic(shared, **penalties):
    network = Network(
        spaces.Box(-1, 1, (3,)),
        {"policy": 2, "value": "scalar"},
        NetworkConfig((6,), shared_trunk=shared),
        generator(),
    )
    learner = Learner({"network": network}, OptimConfig(stats_every=0, **penalties))

    def loss(obs, scale):
        out = network(obs)
        return {
            "policy": out["policy"].square().mean(),
            "value": scale * out["value"].mean(),
            "again": -2.0 * scale * out["value"].mean(),
        }, {}

    return learner, loss


OBS = torch.randn(16, 3, generator=generator())


@pytest.mark.parametrize("penalties", [{}, {"l1": 0.3}, {"l1": 0.3, "l2": 0.2}])
def test_the_gradients_of_terms_and_penalties_add_up_to_the_gradient(penalties):
    learner, loss = actor_critic(True, **penalties)
    parts = examination.term_gradients(learner, loss, OBS, 3.0)
    terms, _ = learner.gradient(loss, OBS, 3.0)
    assert parts.keys() == terms.keys()
    whole = torch.stack(list(parts.values())).sum(0)
    assert torch.allclose(whole, learner.flat.gradient, atol=1e-6)


def test_norms_and_cosines_of_terms_in_a_shared_trunk():
    learner, loss = actor_critic(True)
    where = examination.trunk_weights(learner)
    assert where is not None
    assert len(where) == 3 * 6 + 6
    found = examination.attribution(examination.term_gradients(learner, loss, OBS, 3.0), where)
    assert found.cosines["value~again"] == pytest.approx(-1.0)
    assert found.norms["again"] == pytest.approx(2 * found.norms["value"])
    three, one = (
        examination.attribution(examination.term_gradients(learner, loss, OBS, s), where)
        for s in (3.0, 1.0)
    )
    assert three.norms["value"] == pytest.approx(3 * one.norms["value"])
    assert three.cosines["policy~value"] == pytest.approx(one.cosines["policy~value"])
    assert -1 < one.cosines["policy~value"] < 1


@pytest.mark.parametrize(
    "settings",
    [
        {"recurrent": "gru"},
        {"recurrent": "lstm", "hidden_sizes": (), "recurrent_size": 5},
        {"norm": "batch_renorm"},
        {"norm": "layer"},
        {"block": "simba"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_shared_are_the_weights_that_two_heads_pull_at(settings):
    """Whatever their layers are called; a second network of the learner has separate trunks."""
    config = NetworkConfig(**{"hidden_sizes": (6,)} | settings)
    box, heads = spaces.Box(-1, 1, (3,)), {"policy": Head(2, log_std=0.0), "value": Head(None)}
    network, other = (
        Network(box, heads, replace(config, shared_trunk=shared), generator())
        for shared in (True, False)
    )
    learner = Learner({"network": network, "other": other}, OptimConfig(stats_every=0))
    size = network.memory.state_size if network.memory else 0
    state = torch.randn(16, size, generator=generator()) if size else None
    pulls = []
    for head in heads:
        learner.flat.gradient.zero_()
        network(OBS, state=state)[head].sin().sum().backward()
        pulls.append(learner.flat.gradient != 0)
    where = examination.trunk_weights(learner)
    assert where is not None
    assert sorted(where.tolist()) == torch.nonzero(pulls[0] & pulls[1]).squeeze(1).tolist()


def test_separate_trunks_share_nothing():
    learner, loss = actor_critic(False)
    assert examination.trunk_weights(learner) is None
    found = examination.attribution(examination.term_gradients(learner, loss, OBS, 1.0))
    assert list(found.cosines) == ["value~again"]  # these are of one head


def test_random_functions_have_mean_0_and_variance_1_and_are_smooth():
    x = torch.randn(50_000, 4, generator=generator()) * 7.0 + 3.0
    values = examination.random_function(x, 40, generator(1))
    assert values.shape == (50_000, 40)
    assert float(values.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(values.square().mean()) == pytest.approx(1.0, abs=0.05)
    near = examination.random_function(x + 7e-4, 40, generator(1))
    assert float((near - values).abs().max()) < 2e-3


def test_random_functions_of_bytes_are_those_of_the_same_numbers():
    x = torch.randint(256, (20, 4), generator=generator(), dtype=torch.uint8)
    found = examination.random_function(x, 3, generator(1))
    assert torch.equal(found, examination.random_function(x.float(), 3, generator(1)))


def test_a_dead_network_cannot_learn_and_a_fresh_one_can():
    config = NetworkConfig((64, 64), activation="relu")
    box = spaces.Box(-1, 1, (3,))
    fresh = Network(box, {"q": 2}, config, generator())
    dead = Network(box, {"q": 2}, config, generator())
    with torch.no_grad():
        dead.trunk[1].bias -= 100.0  # type: ignore[index]
    before = [p.clone() for p in dead.parameters()]
    errors = [examination.fit_random(n, {"obs": OBS}, generator(1), lr=1e-2) for n in (fresh, dead)]
    assert errors[0] < 0.05
    assert errors[1] > 0.5  # what a constant can fit of it
    assert all(torch.equal(p, q) for p, q in zip(before, dead.parameters(), strict=True))


SEEN = spaces.Box(-1, 1, (4,))
MASKED = spaces.Dict({"a": SEEN, "action_mask": spaces.MultiBinary(6)})
MANY = torch.randn(512, 4, generator=generator())
ALLOWED = (torch.rand(512, 6, generator=generator()) < 0.5).float()
HEADS = {
    f"{size} {std}": policy_for(spaces.Box(-1, 1, (size,)), PolicyConfig(std)).head
    for size in (1, 6)
    for std in get_args(get_type_hints(PolicyConfig)["std"])
} | {
    **dict.fromkeys(["choices", "masked", "recurrent"], policy_for(spaces.Discrete(6)).head),
    "dict": policy_for(spaces.Dict({"a": spaces.Discrete(3), "b": SEEN})).head,
    "atoms": Head(6, atoms=11),
    "ensemble": Head(6, members=3),
}


@pytest.mark.parametrize("kind", HEADS)
def test_whatever_the_outputs_a_dead_network_is_told_from_a_fresh_one(kind):
    config = NetworkConfig((64, 64), activation="relu", shared_trunk=False)
    if kind == "recurrent":
        config = replace(config, recurrent="gru")
    space, obs = (MASKED, torch.cat([MANY, ALLOWED], 1)) if kind == "masked" else (SEEN, MANY)

    def network(seed):
        heads = {"policy": HEADS[kind], "value": Head(None)}
        return Network(space, heads, config, generator(seed))

    def error(network, steps=200):
        return examination.fit_random(network, {"obs": obs}, generator(1), steps=steps)

    fresh, dead = network(0), network(1)
    with torch.no_grad():
        for layer in dead.trunk:
            layer.bias.fill_(-1000.0)
    assert error(fresh, steps=0) == pytest.approx(1.0, abs=0.1)
    assert error(network(2)) / error(fresh) == pytest.approx(1.0, abs=0.2)
    assert error(dead) / error(fresh) > 2.5
