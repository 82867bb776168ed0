"""Explorers draw with the frequencies that they promise."""

import numpy as np
import pytest
import torch
from scipy import stats

from agents.core.network import FORBIDDEN
from agents.exploration import (
    LONGEST,
    boltzmann,
    boltzmann_probabilities,
    epsilon_greedy,
    epsilon_greedy_probabilities,
    ez_greedy,
    ornstein_uhlenbeck,
)

COUNT = 20_000
Q = np.array([0.5, 2.0, -1.0, 1.0], np.float32)


def frequencies_fit(drawn: np.ndarray, probability: np.ndarray) -> bool:
    observed = np.bincount(drawn, minlength=len(probability))
    return stats.chisquare(observed, COUNT * probability / probability.sum()).pvalue > 0.01


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 1.0])
def test_epsilon_greedy_draws_any_action_with_probability_epsilon(epsilon):
    drawn = epsilon_greedy(np.tile(Q, (COUNT, 1)), epsilon, np.random.default_rng(0))
    assert frequencies_fit(drawn, epsilon / 4 + (1 - epsilon) * np.eye(4)[1])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_boltzmann_draws_in_proportion_to_the_exponential_of_the_values(temperature):
    drawn = boltzmann(np.tile(Q, (COUNT, 1)), temperature, np.random.default_rng(0))
    assert frequencies_fit(drawn, np.exp(Q.astype(np.float64) / temperature))


def test_without_exploration_the_best_action_is_taken_in_each_environment():
    q = np.random.default_rng(1).standard_normal((1000, 6)).astype(np.float32)
    np.testing.assert_array_equal(epsilon_greedy(q, 0.0, np.random.default_rng(0)), q.argmax(-1))
    np.testing.assert_array_equal(boltzmann(q, 1e-8, np.random.default_rng(0)), q.argmax(-1))
    rng, untouched = np.random.default_rng(0), np.random.default_rng(0)
    epsilon_greedy(q, 0.0, rng)
    assert rng.random() == untouched.random()


@pytest.mark.parametrize("explore", [epsilon_greedy, boltzmann])
def test_environments_draw_for_themselves_and_the_generator_decides(explore):
    q = np.tile(Q, (COUNT, 1))
    drawn, again, other = (explore(q, 0.8, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(drawn, again)
    assert not np.array_equal(drawn, other)
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (drawn[::2], drawn[1::2]), 1)  # neighbours, as a contingency table
    assert stats.chi2_contingency(pairs).pvalue > 0.01


TIED = np.array([[2.0, 2.0, -1.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 3.0, 3.0, 1.0]], np.float32)


@pytest.mark.parametrize(
    ("draw", "policy", "setting"),
    [
        (epsilon_greedy, epsilon_greedy_probabilities, 0.3),
        (epsilon_greedy, epsilon_greedy_probabilities, 1.0),
        (boltzmann, boltzmann_probabilities, 0.7),
    ],
)
@pytest.mark.parametrize("q", [Q, *TIED], ids=str)
def test_a_policy_is_what_its_explorer_draws_from(draw, policy, setting, q):
    """Of equal values too: the expectation over a policy is over the actions that it takes."""
    drawn = draw(np.tile(q, (COUNT, 1)), setting, np.random.default_rng(0))
    probability = policy(torch.from_numpy(q), setting)
    assert float(probability.sum()) == pytest.approx(1, abs=1e-6)
    assert frequencies_fit(drawn, probability.double().numpy())


@pytest.mark.parametrize("lead", [(), (3,), (5, 2)])
def test_policies_of_batches_are_those_of_their_rows(lead):
    q = torch.from_numpy(np.random.default_rng(1).standard_normal((*lead, 4)).round())  # ties
    for policy in (epsilon_greedy_probabilities, boltzmann_probabilities):
        rows = [policy(row, 0.4) for row in q.reshape(-1, 4)]
        torch.testing.assert_close(policy(q, 0.4), torch.stack(rows).reshape(q.shape))


def test_without_exploration_a_policy_is_the_best_action():
    greedy = epsilon_greedy_probabilities(torch.from_numpy(TIED), 0.0)
    drawn = epsilon_greedy(TIED, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(greedy, np.eye(4)[drawn])
    cold = boltzmann_probabilities(torch.from_numpy(Q), 1e-3)
    np.testing.assert_array_equal(cold, np.eye(4)[Q.argmax()])
    hot = boltzmann_probabilities(torch.from_numpy(Q), 1e6)
    np.testing.assert_allclose(hot, np.full(4, 0.25), atol=1e-6)


# Masks ------------------------------------------------------------------------------------------

SHUT = np.array([0.5, FORBIDDEN, -1.0, 1.0], np.float32)
"""What was the best action is forbidden."""


def test_a_value_that_is_merely_low_is_allowed_and_better_than_none():
    low = np.array([-1e9, FORBIDDEN, -2e9, -2e9], np.float32)
    rows = np.tile(low, (COUNT, 1))
    for epsilon, allowed in ((0.0, [0]), (1.0, [0, 2, 3])):
        drawn = epsilon_greedy(rows, epsilon, np.random.default_rng(0))
        assert np.unique(drawn).tolist() == allowed
        probability = epsilon_greedy_probabilities(torch.from_numpy(low), epsilon)
        assert probability.nonzero().flatten().tolist() == allowed
    drawn = boltzmann(rows, 1e12, np.random.default_rng(0))  # so hot that the rest are all alike
    assert np.unique(drawn).tolist() == [0, 2, 3]


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_draws_any_allowed_action_with_probability_epsilon(epsilon):
    probability = epsilon_greedy_probabilities(torch.from_numpy(SHUT), epsilon)
    expected = [epsilon / 3, 0.0, epsilon / 3, 1 - 2 * epsilon / 3]
    np.testing.assert_allclose(probability, expected, atol=1e-6)
    rows = np.tile(SHUT, (COUNT, 1))
    for drawn in (
        epsilon_greedy(rows, epsilon, np.random.default_rng(0)),
        ez_greedy(rows, epsilon, 2.0, *begun(COUNT), np.random.default_rng(0))[0],
    ):
        counts = np.bincount(drawn, minlength=4)
        assert counts[1] == 0
        if epsilon:
            fit = stats.chisquare(counts[[0, 2, 3]], COUNT * np.array(expected)[[0, 2, 3]])
            assert fit.pvalue > 0.01


def test_boltzmann_leaves_out_what_is_forbidden():
    drawn = boltzmann(np.tile(SHUT, (COUNT, 1)), 5.0, np.random.default_rng(0))
    assert np.bincount(drawn, minlength=4)[1] == 0
    allowed = boltzmann_probabilities(torch.from_numpy(SHUT[[0, 2, 3]]), 5.0)
    both = boltzmann_probabilities(torch.from_numpy(SHUT), 5.0)
    torch.testing.assert_close(both[[0, 2, 3]], allowed)


def test_an_action_that_lasts_ends_where_it_is_forbidden():
    q, last, left = np.stack([SHUT, SHUT]), np.array([1, 2]), np.array([5, 5])
    action, after = ez_greedy(q, 0.0, 2.0, last, left, np.random.default_rng(0))
    assert action.tolist() == [3, 2]
    assert after.tolist() == [0, 4]


# ε-z-greedy -------------------------------------------------------------------------------------

BRIEF = 60.0
"""An exponent for which every duration is one step."""


def begun(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The last actions of `count` environments, and steps left to take them: none."""
    return np.zeros(count, np.int64), np.zeros(count, np.int64)


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("exponent", [1.5, 2.0, BRIEF])
def test_ez_greedy_begins_any_action_with_probability_epsilon(epsilon, exponent):
    q, rng = np.tile(Q, (COUNT, 1)), np.random.default_rng(0)
    drawn, left = ez_greedy(q, epsilon, exponent, *begun(COUNT), rng)
    assert frequencies_fit(drawn, epsilon / 4 + (1 - epsilon) * np.eye(4)[1])
    if exponent == BRIEF:
        assert not left.any()
    else:  # what lasts is a random action, the best one as often as the others
        assert stats.chisquare(np.bincount(drawn[left > 0], minlength=4)).pvalue > 0.01


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0])
def test_durations_follow_the_zeta_distribution(exponent):
    q, rng = np.tile(Q, (COUNT, 1)), np.random.default_rng(0)
    _, left = ez_greedy(q, 1.0, exponent, *begun(COUNT), rng)
    probability = stats.zipf.pmf(np.arange(1, 12), exponent)
    probability = np.append(probability, 1.0 - probability.sum())  # 12 steps and more
    assert frequencies_fit(np.minimum(left, 11), probability)


def test_no_duration_is_longer_than_the_longest():
    rng = np.random.default_rng(0)
    _, left = ez_greedy(np.tile(Q, (COUNT, 1)), 1.0, 1.01, *begun(COUNT), rng)
    assert left.max() == LONGEST - 1


def test_an_action_that_lasts_is_taken_until_its_steps_are_done_whatever_the_values():
    rng, values = np.random.default_rng(0), np.random.default_rng(1)
    last, left = begun(200)
    for step in range(300):
        action, after = ez_greedy(values.normal(size=(200, 4)), 0.2, 2.0, last, left, rng)
        going = left > 0
        assert going.any() or step == 0
        np.testing.assert_array_equal(action[going], last[going])
        np.testing.assert_array_equal(after[going], left[going] - 1)
        last, left = action, after


def test_the_share_of_random_steps_is_that_of_a_renewal_process():
    """A random action lasts ζ(2) / ζ(3) steps on average for an exponent of 3."""
    q, rng, epsilon = np.tile(Q, (2000, 1)), np.random.default_rng(0), 0.2
    last, left = begun(2000)
    other = 0
    for _ in range(400):
        last, left = ez_greedy(q, epsilon, 3.0, last, left, rng)
        other += int(np.count_nonzero(last != 1))
    steps = epsilon * 1.644934 / 1.202057
    share = 0.75 * steps / (steps + 1 - epsilon)  # a quarter of them is the best action
    assert other / (2000 * 400) == pytest.approx(share, rel=0.02)


def test_without_epsilon_ez_greedy_is_greedy_but_ends_what_it_began():
    q = np.random.default_rng(1).standard_normal((1000, 6))
    last, left = np.full(1000, 5), np.arange(1000) % 3
    action, after = ez_greedy(q, 0.0, 2.0, last, left, np.random.default_rng(0))
    np.testing.assert_array_equal(action, np.where(left > 0, 5, q.argmax(-1)))
    np.testing.assert_array_equal(after, [0, 0, 1] * 333 + [0])


def test_ornstein_uhlenbeck_noise_has_the_deviation_and_the_memory_of_its_process():
    """The autoregression x' = (1 - θ dt) x + σ √dt ε, whose moments are known."""
    rng, kept = np.random.default_rng(0), 1.0 - 0.15 * 0.01
    x = np.zeros((4000, 1), np.float32)
    for _ in range(3000):
        before, x = x, ornstein_uhlenbeck(x, 0.5, rng)
    deviation = 0.5 * 0.01**0.5 / (1.0 - kept**2) ** 0.5
    assert x.dtype == np.float32
    assert x.std() == pytest.approx(deviation, rel=0.05)
    assert x.std() == pytest.approx(0.5 / (2 * 0.15) ** 0.5, rel=0.05)
    assert (x - kept * before).std() == pytest.approx(0.05, rel=0.05)
    assert abs(x.mean()) < 0.05
