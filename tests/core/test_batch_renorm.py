"""Batch renormalisation is what Ioffe says, and nothing changes but by an accepted step."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from agents.core.batch_renorm import EPS, MOMENTUM, WARM_UP, BatchRenorm, batch_renorm
from agents.core.learner import Learner, Target
from agents.core.network import Head, Network, NetworkConfig
from agents.core.optimizers import OptimConfig
from tests.contract.support import bits

BOX = spaces.Box(-1, 1, (5,))
E, B, WIDTH = 3, 64, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(*shape: int, seed: int = 0) -> Tensor:
    """Units that are far from mean 0 and variance 1."""
    at = torch.linspace(-1, 2, shape[-1])
    return at + (1 + at.abs()) * torch.randn(shape, generator=generator(seed))


def build(members: int = 2, **options: Any) -> Any:
    config: dict[str, Any] = {
        "hidden_sizes": (8, 8),
        "norm": "batch_renorm",
        "shared_trunk": False,
    } | options
    network = Network(BOX, {"q": Head(None, members=members)}, NetworkConfig(**config))
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):  # no bias of 0, no scale of 1
            p.data += 0.1 * torch.randn(p.shape, generator=generator(i))
    return network


# The function -----------------------------------------------------------------------------------


def test_without_a_correction_it_is_batch_normalisation_with_its_gradient():
    norm = nn.BatchNorm1d(WIDTH, eps=EPS)
    x = batch(B, WIDTH).requires_grad_()
    weight = torch.randn(B, WIDTH, generator=generator(1))
    expected = norm(x)
    (gradient,) = torch.autograd.grad((weight * expected).sum(), x)
    ones, zeros = torch.ones(1, WIDTH), torch.zeros(1, WIDTH)
    mean, variance = batch(1, WIDTH, seed=2), ones + 3  # whatever they are
    y, batch_mean, batch_variance = batch_renorm(x, mean, variance, ones, zeros, 1.0, 0.0)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad((weight * y).sum(), x)[0], gradient)
    with torch.no_grad():
        torch.testing.assert_close(batch_mean[0], x.mean(0))
        torch.testing.assert_close(batch_variance[0], x.var(0, unbiased=False))


def test_unclipped_it_is_what_the_running_statistics_give():
    x = batch(B, WIDTH)
    mean, variance = 0.2 * batch(1, WIDTH, seed=1), torch.full((1, WIDTH), 2.0)
    scale, shift = batch(1, WIDTH, seed=2), batch(1, WIDTH, seed=3)
    y, *_ = batch_renorm(x, mean, variance, scale, shift, 1e3, 1e3)
    torch.testing.assert_close(y, (x - mean) / (variance + EPS).sqrt() * scale + shift)


def test_the_corrections_are_clipped_and_constant_to_the_gradient():
    """In float64, by the numbers of algorithm 1 written out for single units."""
    x = batch(B, 3).double().requires_grad_()
    mean = torch.tensor([[0.5, 40.0, 0.0]], dtype=torch.float64)
    variance = torch.tensor([[1.5, 1.0, 100.0]], dtype=torch.float64)
    one, nil = torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    y, *_ = batch_renorm(x, mean, variance, one, nil, 3.0, 5.0)
    clipped = []
    for j in range(3):
        column = x.detach()[:, j].numpy()
        sigma, running = np.sqrt(column.var() + EPS), np.sqrt(float(variance[0, j]) + EPS)
        r = min(max(sigma / running, 1 / 3), 3.0)
        d = min(max((column.mean() - float(mean[0, j])) / running, -5.0), 5.0)
        clipped.append((r in (1 / 3, 3.0), d in (-5.0, 5.0)))
        expected = (column - column.mean()) / sigma * r + d
        np.testing.assert_allclose(y.detach()[:, j], expected, rtol=1e-10)
        normal = (x[:, j] - x[:, j].mean()) / (x[:, j].var(unbiased=False) + EPS).sqrt()
        weight = torch.linspace(-1, 3, B, dtype=torch.float64)
        ours = torch.autograd.grad((weight * y[:, j]).sum(), x, retain_graph=True)[0][:, j]
        theirs = torch.autograd.grad((weight * normal).sum() * r, x)[0][:, j]
        torch.testing.assert_close(ours, theirs)
    assert clipped == [(False, False), (False, True), (True, False)]


def test_the_members_of_a_stack_have_statistics_of_their_own():
    x = batch(E, B, WIDTH)
    stack = BatchRenorm(WIDTH, ("0.a", "1.a", "2.a"))
    with torch.no_grad():
        stack.norm_scale.copy_(batch(E, 1, WIDTH, seed=1))
        stack.mean.copy_(batch(E, 1, WIDTH, seed=2))
        stack.batches.fill_(WARM_UP)
    y, new = stack.learn(x)
    for k in range(E):
        alone = BatchRenorm(WIDTH, ("a",))
        with torch.no_grad():
            alone.norm_scale.copy_(stack.norm_scale[k])
            alone.mean.copy_(stack.mean[k])
            alone.batches.fill_(WARM_UP)
        own, own_new = alone.learn(x[k])
        torch.testing.assert_close(y[k], own)
        torch.testing.assert_close(stack(x)[k], alone(x[k]))
        for name in ("mean", "variance"):
            torch.testing.assert_close(new[name][k], own_new[name])


# The layer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (7,), (2, 3)])
def test_a_row_is_treated_alike_in_any_company(lead):
    layer = BatchRenorm(WIDTH, ("a",))
    layer.mean.copy_(batch(1, WIDTH))
    layer.variance.copy_(1 + batch(1, WIDTH).abs())
    row = batch(WIDTH, seed=1)
    together = batch(*lead, WIDTH, seed=2)
    together.reshape(-1, WIDTH)[-1] = row
    out = layer(together)
    assert out.shape == together.shape
    torch.testing.assert_close(out.reshape(-1, WIDTH)[-1], layer(row), rtol=0, atol=0)


def test_the_running_statistics_come_to_those_of_the_data_and_then_correct_batches():
    layer = BatchRenorm(WIDTH, ("a",))
    kept = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    for i in range(1000):
        _, new = layer.learn(batch(B, WIDTH, seed=i))
        assert all(torch.equal(b, kept[name]) for name, b in layer.named_buffers())  # handed back
        for name, value in new.items():
            layer.get_buffer(name).copy_(value)
            kept[name] = value
    assert float(layer.batches) == 1000
    at = torch.linspace(-1, 2, WIDTH)
    torch.testing.assert_close(layer.mean[0], at, rtol=0, atol=0.15)
    torch.testing.assert_close(layer.variance[0], (1 + at.abs()) ** 2, rtol=0.1, atol=0)
    x = batch(B, WIDTH, seed=5000)
    early, _ = layer.learn(x)
    torch.testing.assert_close(early, F.batch_norm(x, None, None, training=True, eps=EPS))
    layer.batches.fill_(WARM_UP)
    late, _ = layer.learn(x)
    torch.testing.assert_close(late, layer(x))  # so close that nothing is clipped
    assert not late.allclose(early, atol=1e-2)


def test_a_batch_moves_the_running_statistics_by_a_hundredth():
    layer = BatchRenorm(2, ("a",))
    layer.mean.copy_(torch.tensor([[1.0, -1.0]]))
    _, new = layer.learn(torch.tensor([[0.0, 2.0], [4.0, 2.0]]))
    share = 1 - MOMENTUM
    torch.testing.assert_close(new["mean"], torch.tensor([[1 + share, -1 + 3 * share]]))
    torch.testing.assert_close(new["variance"], torch.tensor([[1 + 3 * share, 1 - share]]))


# In a network -----------------------------------------------------------------------------------


def test_the_output_is_what_the_layers_give_one_after_the_other():
    """Normalised: what the first layer reads, and what each gives after its activation."""
    network = build(activation="relu")
    obs = batch(B, 5)
    statistics: dict[str, Tensor] = {}
    out = network(obs, statistics=statistics)["q"]
    norms = [layer for layer in network.trunk if isinstance(layer, BatchRenorm)]
    hidden = [layer for layer in network.trunk if not isinstance(layer, BatchRenorm)]
    assert len(norms) == len(hidden) + 1 == 3
    for k in range(2):
        seen, h = [], obs
        for norm, layer in zip(norms, [*hidden, network.heads["q"]], strict=True):
            seen.append(h)
            h = F.batch_norm(h, None, None, training=True, eps=EPS)
            h = (h * norm.norm_scale[k] + norm.norm_bias[k]) @ layer.weight[k] + layer.bias[k]
            if layer in hidden:
                h = torch.relu(h)
        torch.testing.assert_close(out[k], h.squeeze(-1), rtol=1e-4, atol=1e-5)
        for i, x in zip((0, 2, 4), seen, strict=True):
            mean = (1 - MOMENTUM) * x.mean(0)
            torch.testing.assert_close(statistics[f"trunk.{i}.mean"][k, 0], mean)
    assert statistics.keys() == dict(network.named_buffers()).keys()


def test_what_a_network_says_of_an_observation_does_not_depend_on_its_batch():
    network = build()
    obs = batch(B, 5)
    alone = torch.stack([network(row)["q"] for row in obs], -1)
    torch.testing.assert_close(network(obs)["q"], alone)
    learning = network(obs, statistics={})["q"], network(obs[:8], statistics={})["q"]
    assert not learning[0][:, :8].allclose(learning[1], atol=1e-2)


def test_the_names_of_its_weights_are_those_of_the_layers_they_follow():
    learner = Learner({"critics": build()}, OptimConfig())
    names = [f"{k}.q.{part}" for part in ("input", "trunk.0", "trunk.1", "head") for k in (0, 1)]
    assert set(learner.statistics.layers) == set(names)
    matrices = 5 * 8 + 8 * 8 + 8  # scales and biases do not decay
    assert learner.flat.decaying == 2 * matrices


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"residual": True}, "network.residual"),
        ({"hidden_sizes": ()}, "network.norm"),
        ({"block": "simba"}, "network.norm"),
    ],
)
def test_what_makes_no_sense_together_is_refused(options, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        build(**options)


# With a learner ---------------------------------------------------------------------------------


def squared(network: Any, key: str = "") -> Any:
    def loss(obs: Tensor, target: Tensor) -> Any:
        statistics: dict[str, Tensor] = {}
        q = network(obs, statistics=statistics)["q"]
        aux = {key + name: value for name, value in statistics.items()}
        return {"td": (q - target).square().mean()}, {"q": q.detach().mean(), **aux}

    return loss


@pytest.mark.parametrize("several", [False, True])
def test_an_accepted_step_commits_the_statistics_and_a_refused_one_does_not(several):
    network = build()
    modules = {"critics": network} | ({"other": nn.Linear(1, 1)} if several else {})
    learner = Learner(modules, OptimConfig())
    loss = squared(network, "critics." if several else "")
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    step = learner.minimize(loss, batch(B, 5), torch.zeros(B))
    assert not step.skipped
    assert step.scalars.keys() == {"q"}
    for name, buffer in network.named_buffers():
        assert not buffer.equal(before[name])
        assert buffer.equal(step.aux["critics." * several + name])
    kept = bits(learner.state_dict())
    bad = batch(B, 5)
    bad[3, 1] = torch.nan
    for obs, target in ((bad, 0.0), (batch(B, 5), torch.nan)):
        assert learner.minimize(loss, obs, torch.full((B,), target)).skipped
    learner.skipped = 0
    assert bits(learner.state_dict()) == kept


def test_a_statistic_that_overflows_is_not_committed_though_the_loss_is_finite():
    network = build()
    learner = Learner({"critics": network}, OptimConfig())
    obs = batch(B, 5)
    obs[0, 0] = 1e30  # its square is not a float any more; divided by infinity all is 0
    step = learner.minimize(squared(network), obs, torch.zeros(B))
    assert step.skipped
    assert np.isfinite(step.loss)
    assert "statistic 'trunk.0" in step.nonfinite
    assert all(buffer.isfinite().all() for buffer in network.buffers())


def test_a_resumed_learner_and_a_target_have_the_statistics():
    network = build()
    learner = Learner({"critics": network}, OptimConfig())
    for i in range(3):
        learner.minimize(squared(network), batch(B, 5, seed=i), torch.zeros(B))
    state = learner.state_dict()
    again = build()
    other = Learner({"critics": again}, OptimConfig())
    other.load_state_dict(state)
    target = Target(learner)
    for i in range(3):
        for net, own in ((network, learner), (again, other)):
            own.minimize(squared(net), batch(B, 5, seed=10 + i), torch.zeros(B))
    assert bits(other.state_dict()) == bits(learner.state_dict())
    assert not target.modules["critics"](OBS)["q"].equal(network(OBS)["q"])
    target.follow()
    assert target.modules["critics"](OBS)["q"].equal(network(OBS)["q"])


OBS = batch(7, 5, seed=99)


def test_a_loss_with_statistics_stacks_and_compiles():
    network = build()
    learner = Learner({"critics": network}, OptimConfig())
    functional = learner.functional(squared(network))
    inputs = batch(B, 5), torch.zeros(B)

    def total(vector: Tensor) -> Any:
        terms, aux = functional(vector, *inputs)
        return sum(terms.values()), aux

    own = learner.flat.vector.clone()
    stack = torch.stack([own, own + 0.02 * torch.randn(own.shape, generator=generator(7))])
    gradients, (_, aux) = torch.vmap(torch.func.grad_and_value(total, has_aux=True))(stack)
    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)
    for k, vector in enumerate(stack):
        weights = vector.clone().requires_grad_()
        value, compiled_aux = compiled(weights)
        value.backward()
        learner.flat.vector.copy_(vector)
        _, alone = learner.gradient(squared(network), *inputs)
        torch.testing.assert_close(gradients[k], learner.flat.gradient, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights.grad, learner.flat.gradient, rtol=1e-4, atol=1e-5)
        for name, value in alone.items():
            torch.testing.assert_close(aux[name][k], value, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(compiled_aux[name], value, rtol=1e-4, atol=1e-5)
