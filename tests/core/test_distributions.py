"""Distributions are those of torch.distributions; what is drawn has their frequencies."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from torch import Tensor
from torch.func import vmap

from agents.core.distributions import (
    Categorical,
    Gaussian,
    SquashedGaussian,
    log_slope_of_tanh,
    policy_for,
)

LEADS: list[tuple[int, ...]] = [(), (5,), (4, 3), (2, 3, 4)]
each_lead = pytest.mark.parametrize("lead", LEADS, ids=str)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 3.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logits_and_reference(lead: tuple[int, ...]) -> tuple[Tensor, torch.distributions.Categorical]:
    logits = draw(*lead, 6).requires_grad_()
    return logits, torch.distributions.Categorical(logits=logits)


def output_and_reference(lead: tuple[int, ...]) -> tuple[Tensor, torch.distributions.Independent]:
    output = (draw(*lead, 6) / 3.0).requires_grad_()
    normal = torch.distributions.Normal(output[..., :3], output[..., 3:].exp())
    return output, torch.distributions.Independent(normal, 1)


CASES: dict[str, tuple[Any, Any]] = {
    "categorical": (Categorical(6), logits_and_reference),
    "gaussian": (Gaussian(3), output_and_reference),
}


@each_lead
@pytest.mark.parametrize("name", CASES)
def test_log_prob_and_entropy_and_their_gradients_are_those_of_torch(name, lead):
    ours, make = CASES[name]
    output, reference = make(lead)
    action = reference.sample()
    for value, expected in (
        (ours.log_prob(output, action), reference.log_prob(action)),
        (ours.entropy(output), reference.entropy()),
    ):
        assert value.shape == lead
        torch.testing.assert_close(value, expected)
        slopes = [
            torch.autograd.grad(v.square().sum(), output, retain_graph=True)[0]
            for v in (value, expected)
        ]
        torch.testing.assert_close(*slopes, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_stack_of_batches_gives_what_each_gives(name):
    ours, make = CASES[name]
    output, reference = make((3, 5))
    action = reference.sample()
    torch.testing.assert_close(vmap(ours.log_prob)(output, action), ours.log_prob(output, action))
    torch.testing.assert_close(vmap(ours.entropy)(output), ours.entropy(output))


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    log_prob = Categorical(3).log_prob(logits, torch.tensor([1]))
    entropy = Categorical(3).entropy(logits)
    (log_prob + entropy).sum().backward()
    assert log_prob.item() == pytest.approx(-2e4)
    assert entropy.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad.isfinite().all()  # type: ignore[union-attr]


def test_equal_logits_have_the_largest_entropy():
    assert Categorical(7).entropy(torch.zeros(1, 7)).item() == pytest.approx(np.log(7))


def test_categorical_actions_have_the_frequencies_of_softmax():
    logits = np.array([0.0, 1.0, 2.0, -1.0], np.float32)
    count = 20_000
    drawn = Categorical(4).sample(np.tile(logits, (count, 1)), np.random.default_rng(0))
    expected = count * np.exp(logits) / np.exp(logits).sum()
    assert stats.chisquare(np.bincount(drawn, minlength=4), expected, sum_check=False).pvalue > 0.01


def test_gaussian_actions_have_their_means_and_deviations_and_no_correlation():
    output = np.array([1.0, -2.0, 0.0, -1.0], np.float32)
    drawn = Gaussian(2).sample(np.tile(output, (20_000, 1)), np.random.default_rng(0))
    assert drawn.dtype == np.float32
    for column, (mean, std) in enumerate([(1.0, 1.0), (-2.0, np.exp(-1.0))]):
        assert stats.kstest((drawn[:, column] - mean) / std, "norm").pvalue > 0.01
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03


@each_lead
@pytest.mark.parametrize("name", CASES)
def test_the_mode_is_the_most_probable_and_draws_depend_on_the_generator_alone(name, lead):
    ours, make = CASES[name]
    output, reference = make(lead)
    array = output.detach().numpy()
    mode = ours.mode(array)
    np.testing.assert_array_equal(mode, reference.mode.detach())
    assert mode.shape == reference.sample().shape
    one, again, other = (ours.sample(array, np.random.default_rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.shape == mode.shape


def test_the_space_chooses_the_distribution():
    assert policy_for(spaces.Discrete(4, start=2)) == Categorical(4)
    assert policy_for(spaces.Box(-1, 1, (2, 3)), -0.5) == Gaussian(6, -0.5)
    with pytest.raises(ValueError, match=r"action space MultiBinary.* use Discrete or Box"):
        policy_for(spaces.MultiBinary(3))


# Squashed ---------------------------------------------------------------------------------------


def squashed(lead: tuple[int, ...]) -> tuple[Tensor, torch.distributions.Independent]:
    output = (draw(*lead, 6).double() / 3.0).clamp(-1.9, 1.9).requires_grad_()
    normal = torch.distributions.Normal(output[..., :3], output[..., 3:].exp())
    tanh = torch.distributions.TanhTransform(cache_size=1)
    whole = torch.distributions.TransformedDistribution(normal, [tanh])
    return output, torch.distributions.Independent(whole, 1)


@each_lead
def test_a_squashed_gaussian_is_that_of_torch_and_so_are_its_gradients(lead):
    """In float64, for from the action alone what lies far out cannot be told in float32."""
    output, reference = squashed(lead)
    mean, log_std = output.chunk(2, -1)
    noise = draw(*lead, 3, seed=1).double().clamp(-6.0, 6.0) / 3.0
    drawn, log_prob = SquashedGaussian(3).draw(output, noise)
    torch.testing.assert_close(drawn, mean.add(log_std.exp() * noise).tanh())
    single = SquashedGaussian(3).draw(output.float(), noise.float())[1]
    torch.testing.assert_close(single, log_prob.float(), rtol=1e-5, atol=1e-5)
    for value in (log_prob, SquashedGaussian(3).log_prob(output, drawn)):
        assert value.shape == lead
        expected = reference.log_prob(drawn)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
        slopes = [
            torch.autograd.grad(v.sum(), output, retain_graph=True)[0] for v in (value, expected)
        ]
        torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("u", [0.0, 1e-4, 0.5, 3.0, 9.0, 20.0, 90.0])
def test_the_slope_of_tanh_is_exact_far_out(u):
    """log(1 - tanh² u) = -2 log cosh u, where 1 - tanh² u itself is 0 in float32 from 9 on."""
    exact = -2.0 * (u + np.log1p(np.exp(-2.0 * u)) - np.log(2.0))
    for sign in (1.0, -1.0):
        at = torch.tensor(sign * u, requires_grad=True)
        value = log_slope_of_tanh(at)
        assert value.item() == pytest.approx(exact, rel=1e-6, abs=1e-6)
        value.backward()
        assert at.grad is not None
        assert at.grad.item() == pytest.approx(-2.0 * np.tanh(sign * u), abs=1e-6)


def test_a_squashed_gaussian_in_its_tails_has_finite_gradients():
    output = torch.tensor([[30.0, -30.0, 50.0, -50.0]], requires_grad=True)
    action, log_prob = SquashedGaussian(2).draw(output, torch.ones(1, 2))
    assert action.abs().max() <= 1
    (gradient,) = torch.autograd.grad(log_prob.sum(), output)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient[0, 2:].eq(0).all()  # log deviations beyond their limits


def test_squashed_actions_have_the_distribution_that_log_prob_says():
    policy, rng = SquashedGaussian(1), np.random.default_rng(0)
    output = np.array([0.7, -0.4], np.float32)
    drawn = policy.sample(np.tile(output, (20_000, 1)), rng)
    assert drawn.dtype == np.float32
    assert stats.kstest((np.arctanh(drawn[:, 0]) - 0.7) / np.exp(-0.4), "norm").pvalue > 0.01
    grid = torch.linspace(-0.99999, 0.99999, 20_001).unsqueeze(-1)
    density = policy.log_prob(torch.from_numpy(output).expand(len(grid), 2), grid).exp()
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(policy.mode(output), np.tanh([0.7]), rtol=1e-6)
