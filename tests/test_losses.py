"""Losses against torch's, against numbers worked out by hand, and in their limits."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from agents import losses

many = settings(max_examples=50)
same = torch.testing.assert_close


@st.composite
def columns(draw: Any) -> Tensor:
    """Three columns of one shape."""
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=2)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return 2.0 * torch.randn((3, *shape), generator=generator)


def slope(values: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), x)[0]


@given(data=columns(), delta=st.sampled_from([0.1, 1.0, 10.0]))
@many
def test_errors_are_those_of_torch_and_huber_reduces_to_half_the_square(data, delta):
    x, y, _ = data
    same(losses.squared(x, y), F.mse_loss(x, y, reduction="none"))
    same(losses.squared(x, y), (x - y) ** 2)
    same(losses.huber(x, y, delta), F.huber_loss(x, y, reduction="none", delta=delta))
    same(losses.huber(x, y, 1e6), 0.5 * losses.squared(x, y))
    x.requires_grad_()
    same(slope(losses.huber(x, y, delta), x), (x - y).detach().clamp(-delta, delta))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.0, -2.0, 2.0, 2.0),
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # good already, made likelier: no more of it
        (0.5, 2.0, -1.0, -2.0),  # good, made less likely: to be undone
        (0.5, -2.0, 1.6, 0.0),  # bad, made less likely: no more of it
        (1.5, -2.0, 3.0, 2.0),  # bad, made likelier: to be undone
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_the_clipped_surrogate_by_hand(ratio, advantage, loss, gradient):
    rho = torch.tensor([ratio], requires_grad=True)
    value = losses.clipped_surrogate(rho, torch.tensor([advantage]), 0.2)
    assert value.item() == pytest.approx(loss)
    assert slope(value, rho).item() == pytest.approx(gradient)


@given(data=columns(), clip=st.sampled_from([0.1, 0.2, 0.5]))
@many
def test_the_clipped_surrogate_is_the_pessimistic_minimum(data, clip):
    log_ratio, advantage, _ = data
    ratio = log_ratio.exp().requires_grad_()
    value = losses.clipped_surrogate(ratio, advantage, clip)
    held = ratio.clamp(1 - clip, 1 + clip)
    same(value, -torch.minimum(ratio * advantage, held * advantage))
    assert (value >= -ratio * advantage - 1e-6).all()
    clipped = ((ratio > 1 + clip) & (advantage > 0)) | ((ratio < 1 - clip) & (advantage < 0))
    same(slope(value, ratio), torch.where(clipped, 0.0, -advantage))
    same(losses.clipped_surrogate(ratio, advantage, 1e9), -ratio * advantage)


@given(data=columns(), clip=st.sampled_from([0.1, 0.5]))
@many
def test_at_ratio_1_the_gradient_is_the_policy_gradient(data, clip):
    log_prob, advantage, _ = data
    log_prob.requires_grad_()
    ratio = (log_prob - log_prob.detach()).exp()
    surrogate = slope(losses.clipped_surrogate(ratio, advantage, clip), log_prob)
    plain = slope(losses.policy_gradient(log_prob, advantage), log_prob)
    same(surrogate, plain)
    same(plain, -advantage)


@given(data=columns(), clip=st.sampled_from([0.0, 0.2, 1.0]))
@many
def test_the_clipped_value_loss_is_never_below_the_square_and_reduces_to_it(data, clip):
    value, old, returns = data
    loss = losses.clipped_value(value, old, returns, clip)
    assert (loss >= losses.squared(value, returns)).all()
    near = (value - old).abs() <= clip
    same(loss[near], losses.squared(value, returns)[near])
    same(losses.clipped_value(value, old, returns, torch.inf), losses.squared(value, returns))
    value.requires_grad_()
    held = (losses.squared(old + (value - old).clamp(-clip, clip), returns) > loss - 1e-6) & ~near
    inside = held & (losses.squared(value, returns) < loss - 1e-6)
    gradient = slope(losses.clipped_value(value, old, returns, clip), value)
    assert not gradient[inside].any()
    same(gradient[near], 2 * (value - returns)[near].detach())


@pytest.mark.parametrize(
    ("value", "old", "returns", "loss"),
    [
        (1.0, 0.0, 1.0, 0.64),  # right, but too far from the old value
        (1.0, 0.0, 0.0, 1.0),  # wrong, and worse than where it may be
        (0.1, 0.0, 1.0, 0.81),
        (-1.0, 0.0, -0.5, 0.25),
    ],
)
def test_the_clipped_value_loss_by_hand(value, old, returns, loss):
    v, v_old, g = (torch.tensor(x) for x in (value, old, returns))
    assert losses.clipped_value(v, v_old, g, 0.2).item() == pytest.approx(loss)


# Distributions ----------------------------------------------------------------------------------


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return 2.0 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("delta", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("shared", [False, True])
def test_the_quantile_loss_is_the_sum_over_every_pair(delta, shared):
    """Dabney et al. 2018, eq. 9 and 10, pair by pair."""
    quantile, target = numbers(3, 5), numbers(3, 4, seed=1)
    tau = torch.rand((3, 5), generator=torch.Generator().manual_seed(2))
    tau = tau[:1].expand(3, -1) if shared else tau
    expected = []
    for b in range(3):
        total = 0.0
        for i in range(5):
            for j in range(4):
                u = float(target[b, j] - quantile[b, i])
                size = 0.5 * u * u if abs(u) <= delta else delta * (abs(u) - 0.5 * delta)
                total += abs(float(tau[b, i]) - (1.0 if u < 0 else 0.0)) * size / delta / 4
        expected.append(total)
    given = tau[0] if shared else tau
    same(losses.quantile_huber(quantile, target, given, delta), torch.tensor(expected))


@given(data=columns(), delta=st.sampled_from([0.5, 1.0]))
@many
def test_one_quantile_in_the_middle_is_half_the_huber_loss(data, delta):
    x, y, _ = data
    half = losses.quantile_huber(x.unsqueeze(-1), y.unsqueeze(-1), torch.tensor([0.5]), delta)
    same(half, 0.5 * losses.huber(x, y, delta) / delta)


def test_the_quantile_loss_is_least_at_the_quantiles():
    """With a small δ, whose bias is as small, by plain descent on a sample of 0, 1, …, 99."""
    target = torch.arange(100.0).unsqueeze(0)
    tau = torch.tensor([0.105, 0.505, 0.905])  # between two of them no quantile is the only one
    quantile = torch.full((1, 3), 30.0, requires_grad=True)
    for _ in range(3000):
        gradient = slope(losses.quantile_huber(quantile, target, tau, 0.1), quantile)
        quantile = (quantile - 2.0 * gradient).detach().requires_grad_()
    same(quantile.detach(), torch.tensor([[10.0, 50.0, 90.0]]), rtol=0.0, atol=0.1)


def test_the_cross_entropy_is_torchs_and_its_slope_is_the_difference_of_the_distributions():
    logits, probability = numbers(6, 9), numbers(6, 9, seed=1).softmax(-1)
    same(
        losses.cross_entropy(logits, probability),
        F.cross_entropy(logits, probability, reduction="none"),
    )
    logits.requires_grad_()
    gradient = slope(losses.cross_entropy(logits, probability), logits)
    same(gradient, (logits.softmax(-1) - probability).detach())
    entropy = -(probability * probability.log()).sum(-1)
    same(losses.cross_entropy(probability.log(), probability), entropy)


# Over valid entries alone -----------------------------------------------------------------------

VALID = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.7
X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def test_standardised_entries_have_mean_0_and_deviation_1_whatever_is_invalid():
    z = losses.standardized(5.0 + 3.0 * X, VALID)
    same(z[VALID].mean(), torch.tensor(0.0), atol=1e-6, rtol=0.0)
    same(z[VALID].std(correction=0), torch.tensor(1.0))
    spoilt = torch.where(VALID, 5.0 + 3.0 * X, 1e6)
    same(losses.standardized(spoilt, VALID)[VALID], z[VALID])
    assert not losses.standardized(torch.ones(3), VALID.new_ones(3)).any()
    assert not losses.standardized(torch.ones(1), VALID.new_ones(1)).any()


def test_explained_variance_is_1_for_the_truth_0_for_a_constant_and_the_square_of_a_fit():
    def explained(value: Tensor) -> float:
        return losses.explained_variance(torch.where(VALID, value, 99.0), X, VALID)

    assert explained(X) == pytest.approx(1.0)
    assert explained(X + 7.0) == pytest.approx(1.0)
    assert explained(torch.zeros_like(X)) == pytest.approx(0.0, abs=1e-6)
    assert explained(-X) == pytest.approx(-3.0)
    feature = X + 0.5 * X.roll(1, 0)
    x, y = feature[VALID], X[VALID]
    correlation = torch.corrcoef(torch.stack([x, y]))[0, 1].item()
    fit = y.mean() + correlation * y.std() / x.std() * (feature - x.mean())
    assert explained(fit) == pytest.approx(correlation**2, abs=1e-5)


# What is refused --------------------------------------------------------------------------------

B, B1 = torch.ones(4), torch.ones(4, 1)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (losses.squared, (B, B1)),
        (losses.huber, (B1, B)),
        (losses.cross_entropy, (B1, torch.ones(4, 5))),
        (losses.policy_gradient, (B, B1)),
        (losses.clipped_surrogate, (B1, B, 0.2)),
        (losses.clipped_value, (B, B1, B, 0.2)),
        (losses.clipped_value, (B, B, B1, 0.2)),
        (losses.quantile_huber, (torch.ones(4, 1, 5), torch.ones(4, 5), torch.ones(5))),
        (losses.standardized, (B, B1 > 0)),
        (losses.explained_variance, (B, B1, B > 0)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(function, arguments):
    with pytest.raises(ValueError, match=r"shapes \(4.*\) and \(4.*\) must be equal"):
        function(*arguments)
