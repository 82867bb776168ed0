"""Each representation of a value: its head, expectation, target and loss fit each other."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from torch import Tensor

from agents import losses, targets
from agents.core.network import Network, NetworkConfig
from agents.values import ImplicitQuantileValue, Representation, Value, of_action, value_of

same = torch.testing.assert_close
ACTIONS, LOW, HIGH, ATOMS = 3, -2.0, 3.0, 51
KINDS = get_args(Representation)
REWARD = torch.tensor([0.5, -0.3, 1.2, 0.0])
DISCOUNT = torch.tensor([0.9, 0.9, 0.0, 0.5])  # the third one has terminated


def value(kind: Any, atoms: int = ATOMS) -> Value:
    return value_of(kind, "huber", atoms, LOW, HIGH)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def part(kind: str, seed: int = 0) -> Tensor:
    """One action's part of an output, `(4,)` or `(4, n)`, whose returns stay in the support."""
    return 0.3 * (numbers(4, seed=seed) if kind == "scalar" else numbers(4, ATOMS, seed=seed))


def certain_of(kind: str, worth: Tensor) -> Tensor:
    """The part of an action that is certain to return so much, `(B,)`."""
    if kind == "scalar":
        return worth
    if kind in ("quantile", "implicit_quantile"):
        return worth.unsqueeze(-1).expand(-1, ATOMS)
    nothing, support = torch.zeros(len(worth)), torch.linspace(LOW, HIGH, ATOMS)
    return targets.categorical(worth, nothing, torch.ones(len(worth), ATOMS) / ATOMS, support).log()


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (1, 1, 1)])
def test_the_part_of_an_action_is_the_one_that_an_index_gives(shape):
    output = numbers(*shape)
    action = torch.randint(shape[1], (shape[0],), generator=torch.Generator().manual_seed(1))
    expected = torch.stack([output[b, a] for b, a in enumerate(action.tolist())])
    assert torch.equal(of_action(output, action), expected)


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_gives_what_the_expectation_reads(kind, dueling):
    worth = value(kind)
    network = Network(
        spaces.Box(-1, 1, (2,)), {"q": worth.head(ACTIONS, dueling)}, NetworkConfig((8,))
    )
    obs, generator = numbers(4, 2), torch.Generator().manual_seed(0)
    learning = network(obs, tau=worth.fractions(4, generator))["q"]
    acting = network(obs, tau=worth.fixed_fractions(obs.device))["q"]
    q = worth.expectation(acting)
    assert q.shape == worth.expectation(learning).shape == (4, ACTIONS)
    action = torch.tensor([0, 2, 1, 1])
    same(worth.expectation(of_action(acting, action)), q.gather(1, action[:, None])[:, 0])
    taken = of_action(learning, action)
    target = worth.target(REWARD, DISCOUNT, of_action(learning.detach(), action))
    tau = worth.fractions(4, generator)
    for what in (worth.loss(taken, target, tau), worth.error(taken, target)):
        assert what.shape == (4,)
        assert what.isfinite().all()


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_mask_forbids_is_worth_less_than_anything_and_the_rest_what_it_was(kind, dueling):
    worth = value(kind)
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "action_mask": spaces.MultiBinary(3)})
    network: Any = Network(space, {"q": worth.head(ACTIONS, dueling)}, NetworkConfig((8,)))
    with torch.no_grad():  # what is read of the mask itself would tell
        network.trunk[0].weight[..., network.observations.mask] = 0
    tau, seen = worth.fixed_fractions(torch.device("cpu")), numbers(5, 2)
    mask = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 0]])
    q, free = (
        worth.expectation(network(torch.cat([seen, m], -1), tau=tau)["q"])
        for m in (mask, torch.ones(5, 3))
    )
    shut = (mask == 0) & mask.any(-1, keepdim=True)  # none that leaves nothing is heeded
    same(q[~shut], free[~shut])
    assert q[shut].max() < -5e7
    assert not shut.gather(1, q.argmax(-1, keepdim=True)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_expects_the_reward_and_the_discounted_successor(kind):
    """While all of it stays within the support."""
    worth, successor = value(kind), part(kind)
    if kind in ("categorical", "hl_gauss"):  # around 0.5, far from the ends
        successor = -((torch.linspace(LOW, HIGH, ATOMS) - 0.5 - 0.3 * numbers(4, 1)) ** 2) / 0.08
    target = worth.target(REWARD, DISCOUNT, successor)
    if kind in ("categorical", "hl_gauss"):
        same(target.sum(-1), torch.ones(4))
    wanted = REWARD + DISCOUNT * worth.expectation(successor)
    same(worth.target_mean(target), wanted, atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_expectation_is_the_mean_of_what_is_represented(kind):
    certain = torch.tensor([0.0, -1.7, 2.5, 1.0])
    same(value(kind).expectation(certain_of(kind, certain)), certain, atol=1e-5, rtol=0.0)


def test_hl_gauss_smears_the_expected_target_out_by_three_quarters_of_a_bin():
    """Farebrother et al. 2024: the mass of a normal distribution in each bin, σ / width = 0.75."""
    worth, successor = value("hl_gauss"), part("hl_gauss")
    expected = REWARD + DISCOUNT * worth.expectation(successor)
    width = (HIGH - LOW) / (ATOMS - 1)
    edges = LOW + width * (np.arange(ATOMS + 1) - 0.5)
    mass = stats.norm.cdf(edges, expected.numpy()[:, None], 0.75 * width)
    wanted = np.diff(mass) / (mass[:, -1:] - mass[:, :1])  # what lies outside is cut off
    np.testing.assert_allclose(worth.target(REWARD, DISCOUNT, successor), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["categorical", "hl_gauss"])
def test_a_mean_is_not_rounded_with_the_products_of_a_loss(kind):
    worth = value(kind)
    target = worth.target(REWARD, DISCOUNT, part(kind))
    wanted = worth.expectation(part(kind)), worth.target_mean(target)
    with torch.autocast("cpu", torch.bfloat16):
        same((worth.expectation(part(kind)), worth.target_mean(target)), wanted, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_least_where_the_target_is(kind):
    """Descent on the loss ends in an output whose target is its own; the error is then 0."""
    worth = value(kind, atoms=11)
    n = () if kind == "scalar" else (11,)
    successor = torch.tensor([0.4, -0.7, 0.0, 0.9])
    if kind in ("categorical", "hl_gauss"):
        successor = numbers(4, 11)
    elif n:
        successor = successor.unsqueeze(-1).expand(-1, 11)
    target = worth.target(REWARD, DISCOUNT, successor)
    tau = torch.rand((4, 11), generator=torch.Generator().manual_seed(2)).clamp(0.1, 0.9)
    output = torch.zeros(4, *n, requires_grad=True)
    optimizer = torch.optim.Adam([output], lr=0.05)
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 1500)
        optimizer.zero_grad()
        worth.loss(output, target, tau).sum().backward()
        optimizer.step()
    found = output.detach()
    if kind in ("categorical", "hl_gauss"):
        same(found.softmax(-1), target, atol=2e-3, rtol=0.0)
    else:
        same(found, target, atol=1e-3, rtol=0.0)
    same(worth.error(found, target), torch.zeros(4), atol=2e-3, rtol=0.0)
    apart = worth.error(numbers(4, *n, seed=5), target)
    assert (apart.abs() > 1e-2).any()


def test_a_scalar_has_the_loss_asked_for_and_the_td_error():
    taken, target = numbers(4), 3 * numbers(4, seed=1)
    for name, function in (("huber", losses.huber), ("squared", losses.squared)):
        worth = value_of("scalar", name, 1, 0.0, 1.0)  # type: ignore[arg-type]
        same(worth.loss(taken, target), function(taken, target))
        same(worth.error(taken, target), target - taken)


def test_the_error_of_a_histogram_is_the_divergence_from_the_target():
    worth = value("categorical")
    taken, target = numbers(4, ATOMS), numbers(4, ATOMS, seed=1).softmax(-1)
    target[0] = torch.nn.functional.one_hot(torch.tensor(3), ATOMS)  # 0 log 0 is 0
    divergence = torch.nn.functional.kl_div(taken.log_softmax(-1), target, reduction="none").sum(-1)
    same(worth.error(taken, target), divergence)


def test_quantiles_are_learned_at_the_middles_and_implicit_ones_where_they_were_asked_for():
    taken, target = numbers(4, 5), numbers(4, 7, seed=1)
    middles = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    same(value("quantile").loss(taken, target), losses.quantile_huber(taken, target, middles))
    worth = value("implicit_quantile", atoms=5)
    tau = worth.fractions(4, torch.Generator().manual_seed(3))
    assert tau is not None
    assert tau.shape == (4, 5)
    assert ((tau >= 0) & (tau < 1)).all()
    same(worth.loss(taken, target, tau), losses.quantile_huber(taken, target, tau))
    again = worth.fractions(4, torch.Generator().manual_seed(3))
    assert again is not None
    assert torch.equal(tau, again)
    fixed = worth.fixed_fractions(torch.device("cpu"))
    assert fixed is not None
    same(fixed, (torch.arange(ImplicitQuantileValue.ACTING) + 0.5) / ImplicitQuantileValue.ACTING)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "implicit_quantile"])
def test_other_values_ask_for_no_fractions(kind):
    worth = value(kind)
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert worth.fractions(4, generator) is None
    assert worth.fixed_fractions(torch.device("cpu")) is None
    assert torch.equal(generator.get_state(), before)
