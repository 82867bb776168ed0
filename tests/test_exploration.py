"""Explorers draw with the frequencies that they promise."""

import numpy as np
import pytest
from scipy import stats

from agents.exploration import boltzmann, epsilon_greedy

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
