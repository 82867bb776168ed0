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
    Bernoulli,
    Categorical,
    Gaussian,
    Joint,
    PolicyConfig,
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


def bits_and_reference(lead: tuple[int, ...]) -> tuple[Tensor, Any]:
    logits = draw(*lead, 4).requires_grad_()
    return logits, torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)


def state_and_reference(lead: tuple[int, ...]) -> tuple[Tensor, Any]:
    """Its standard deviation is held within bounds, which one number in these passes."""
    output = (draw(*lead, 6) / 3.0).requires_grad_()
    log_std = (output[..., 3:] - 1.5).clamp(-20.0, 2.0)
    normal = torch.distributions.Normal(output[..., :3], log_std.exp())
    return output, torch.distributions.Independent(normal, 1)


class Together:
    """Independent torch distributions over columns that are put side by side."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self.widths = [max(1, sum(part.event_shape)) for part in parts]

    def _columns(self, action: Tensor) -> list[Tensor]:
        pieces = zip(self.parts, action.split(self.widths, -1), strict=True)
        return [x if part.event_shape else x.squeeze(-1) for part, x in pieces]

    def _join(self, values: list[Tensor]) -> Tensor:
        pairs = zip(self.parts, values, strict=True)
        return torch.cat([v if p.event_shape else v.unsqueeze(-1) for p, v in pairs], -1)

    def sample(self) -> Tensor:
        return self._join([part.sample() for part in self.parts])

    @property
    def mode(self) -> Tensor:
        return self._join([part.mode for part in self.parts])

    def log_prob(self, action: Tensor) -> Tensor:
        pairs = zip(self.parts, self._columns(action), strict=True)
        return sum(part.log_prob(x) for part, x in pairs)

    def entropy(self) -> Tensor:
        return sum(part.entropy() for part in self.parts)


def several_and_reference(lead: tuple[int, ...]) -> tuple[Tensor, Any]:
    """Logits of 3, the means of 2, bits, logits of 2, the mean of 1, then 3 log deviations."""
    output = (draw(*lead, 3 + 2 + 2 + 2 + 1 + 3) / 3.0).requires_grad_()
    three, means, bits, two, mean, log_stds, log_std = output.split([3, 2, 2, 2, 1, 2, 1], -1)
    d = torch.distributions
    return output, Together(
        d.Categorical(logits=three),
        d.Independent(d.Normal(means, log_stds.exp()), 1),
        d.Independent(d.Bernoulli(logits=bits), 1),
        d.Categorical(logits=two),
        d.Independent(d.Normal(mean, log_std.exp()), 1),
    )


def digits_and_reference(lead: tuple[int, ...]) -> tuple[Tensor, Any]:
    output = draw(*lead, 11).requires_grad_()
    d = torch.distributions
    return output, Together(
        d.Categorical(logits=output[..., :6]), d.Categorical(logits=output[..., 6:])
    )


SEVERAL = Joint((Categorical(3), Gaussian(2), Bernoulli(2), Categorical(2), Gaussian(1)))
STATE = Gaussian(3, PolicyConfig("state", log_std=-1.5))
CASES: dict[str, tuple[Any, Any]] = {
    "categorical": (Categorical(6), logits_and_reference),
    "bernoulli": (Bernoulli(4), bits_and_reference),
    "gaussian": (Gaussian(3), output_and_reference),
    "gaussian of the state": (STATE, state_and_reference),
    "digits": (Joint((Categorical(6), Categorical(5))), digits_and_reference),
    "several": (SEVERAL, several_and_reference),
}


@each_lead
@pytest.mark.parametrize("name", ["categorical", "bernoulli", "gaussian", "gaussian of the state"])
def test_the_divergence_and_its_gradient_are_those_of_torch(name, lead):
    ours, make = CASES[name]
    output, reference = make(lead)
    other, second = make(lead)
    with torch.no_grad():
        other += 0.5 * torch.randn(other.shape, generator=torch.Generator().manual_seed(1))
    second = rebuilt(name, other)
    value, expected = ours.kl(output, other), torch.distributions.kl_divergence(reference, second)
    assert value.shape == lead
    torch.testing.assert_close(value, expected)
    for x in (output, other):
        slopes = [torch.autograd.grad(v.sum(), x, retain_graph=True)[0] for v in (value, expected)]
        torch.testing.assert_close(*slopes, atol=1e-4, rtol=1e-4)


def rebuilt(name: str, output: Tensor) -> Any:
    """The torch distribution of this output."""
    d = torch.distributions
    if name == "categorical":
        return d.Categorical(logits=output)
    if name == "bernoulli":
        return d.Independent(d.Bernoulli(logits=output), 1)
    log_std = output[..., 3:] if name == "gaussian" else (output[..., 3:] - 1.5).clamp(-20.0, 2.0)
    return d.Independent(d.Normal(output[..., :3], log_std.exp()), 1)


@pytest.mark.parametrize("name", CASES)
def test_the_divergence_is_zero_at_home_and_adds_up_over_parts(name):
    ours, make = CASES[name]
    output, other = make((5,))[0].detach(), draw(*make((5,))[0].shape, seed=3) / 3.0
    torch.testing.assert_close(ours.kl(output, output), torch.zeros(5), atol=1e-6, rtol=0)
    assert (ours.kl(output, other) > 0).all()
    if isinstance(ours, Joint):  # E[log p - log q] over many draws
        drawn = ours.sample(np.tile(output[:1], (40_000, 1)), np.random.default_rng(0))
        action = torch.from_numpy(drawn)
        one, two = (x[:1].expand(len(action), -1) for x in (output, other))
        gap = ours.log_prob(one, action) - ours.log_prob(two, action)
        error = 4 * float(gap.std()) / 200
        assert float(gap.mean()) == pytest.approx(float(ours.kl(output, other)[0]), abs=error)


def test_bits_and_several_parts_have_the_frequencies_of_their_distributions():
    output = np.array([1.0, -1.0, 0.0, 2.0, -2.0, 0.5, -0.5, 0.0, 1.0, 3.0, -1.0, 0.0, -2.0])
    drawn = SEVERAL.sample(
        np.tile(output.astype(np.float32), (20_000, 1)), np.random.default_rng(0)
    )
    assert drawn.dtype == np.float32
    assert drawn.shape == (20_000, 7)
    for column, logits in ((0, output[:3]), (5, output[7:9])):
        expected = 20_000 * np.exp(logits) / np.exp(logits).sum()
        counts = np.bincount(drawn[:, column].astype(int), minlength=len(logits))
        assert stats.chisquare(counts, expected, sum_check=False).pvalue > 0.01
    for column, logit in ((3, 0.5), (4, -0.5)):
        share = 1 / (1 + np.exp(-logit))
        assert stats.binomtest(int(drawn[:, column].sum()), 20_000, share).pvalue > 0.01
    for column, mean, log_std in ((1, 2.0, -1.0), (2, -2.0, 0.0), (6, 3.0, -2.0)):
        assert stats.kstest((drawn[:, column] - mean) / np.exp(log_std), "norm").pvalue > 0.01


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
    narrow = PolicyConfig(log_std=-0.5)
    box, digits, bits = (
        spaces.Box(-1, 1, (2, 3)),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiBinary(3),
    )
    assert policy_for(box, narrow) == Gaussian(6, narrow)
    assert policy_for(digits) == Joint((Categorical(3), Categorical(2)))
    assert policy_for(bits) == Bernoulli(3)
    parts = (Categorical(3), Categorical(2), Gaussian(6, narrow), Bernoulli(3))
    assert policy_for(spaces.Tuple([digits, box, bits]), narrow) == Joint(parts)
    assert policy_for(spaces.Dict({"only": bits})) == Joint((Bernoulli(3),))
    nested = spaces.Dict({"inner": spaces.Dict({"deep": box})})
    for space, match in (
        (spaces.Text(5), r"action space Text.* use Discrete, Box"),
        (nested, r"action space Dict\('deep'.* use Discrete, Box"),
        (spaces.Dict({}), "is empty"),
    ):
        with pytest.raises(ValueError, match=match):
            policy_for(space)


@pytest.mark.parametrize(
    ("config", "space", "match"),
    [
        ({"std": "gsde"}, spaces.Discrete(2), "no effect on Discrete"),
        ({"log_std": -1.0}, spaces.MultiBinary(2), "no effect on MultiBinary"),
        ({"std": "state"}, spaces.Tuple([spaces.Box(-1, 1)]), "for Box actions alone"),
        ({"gsde_steps": 4}, spaces.Box(-1, 1), "with policy.std=gsde"),
        ({"std": "gsde", "gsde_steps": 0}, spaces.Box(-1, 1), "use 1 or more"),
        ({"log_std": np.nan}, spaces.Box(-1, 1), "use a number"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(config, space, match):
    with pytest.raises(ValueError, match=match):
        policy_for(space, PolicyConfig(**config))


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
