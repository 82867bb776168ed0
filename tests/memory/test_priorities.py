"""Prioritised draws against the formulas of Schaul et al. 2016."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from agents.memory import Replay
from agents.memory.replay import LEAST_ERROR
from envs.transition import Transition

many = settings(max_examples=60)


def new(capacity: int, batch: int = 8, alpha: float = 0.6, seed: int = 0, **options: Any) -> Replay:
    rng = np.random.default_rng(seed)
    return Replay(capacity, batch, 1.0, 0, rng, obs_size=1, priority_exponent=alpha, **options)


def fill(memory: Replay, count: int, envs: int = 4) -> None:
    """Add transitions whose action is their number."""
    for start in range(0, count, envs):
        size = min(envs, count - start)
        number = memory.added + np.arange(size)
        flag = np.zeros(size, bool)
        obs = number[:, None].astype(np.float32)
        memory.add(Transition(obs, number, flag.astype(np.float32), obs, flag, flag, ~flag))


def draw(memory: Replay) -> Transition:
    return next(memory.batches())


@given(
    capacity=st.integers(1, 30),
    alpha=st.sampled_from([0.3, 0.6, 1.0]),
    beta=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
@many
def test_priorities_and_weights_are_those_of_the_paper(capacity, alpha, beta, seed):
    """p = |δ| + ε; P = p^α / Σ p^α; w = (N P)^-β / max w; a new transition has the largest p."""
    rng = np.random.default_rng(seed)
    memory = new(capacity, 5, alpha, importance_exponent=beta, importance_steps=80)
    priority: dict[int, float] = {}
    largest = 1.0
    for _ in range(int(rng.integers(1, 25))):
        size = int(rng.integers(1, 6))
        fill(memory, size, size)
        priority |= dict.fromkeys(range(memory.added - size, memory.added), largest)
        held = range(max(0, memory.added - capacity), memory.added)
        batch = draw(memory)
        index = batch.extras["index"].tolist()
        assert batch.action.tolist() == index
        assert set(index) <= set(held)
        p = np.array([priority[i] for i in held]) ** alpha
        chance = dict(zip(held, p / p.sum(), strict=True))
        now = beta + (1 - beta) * min(1.0, memory.added / 80)
        weight = np.array([(len(held) * chance[i]) ** -now for i in index])
        np.testing.assert_allclose(batch.extras["weight"], weight / weight.max(), rtol=1e-5)
        assert batch.extras["weight"].dtype == torch.float32
        # each falls into its own fifth of the cumulative priorities, place by place
        places = sorted(held, key=lambda i: i % capacity)
        above = dict(zip(places, np.cumsum([chance[i] for i in places]), strict=True))
        for k, i in enumerate(index):
            assert above[i] >= k / 5 - 1e-9
            assert above[i] - chance[i] <= (k + 1) / 5 + 1e-9
        known = rng.integers(max(0, memory.added - 2 * capacity), memory.added + 3, 6)
        known = np.unique(known)
        error = rng.standard_normal(len(known)) * rng.choice([0.0, 1.0, 10.0], len(known))
        error[rng.random(len(known)) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
        memory.reprioritize(torch.from_numpy(known), torch.from_numpy(error))
        for i, e in zip(known.tolist(), error.tolist(), strict=True):
            if i in held and np.isfinite(e):
                priority[i] = abs(e) + LEAST_ERROR
                largest = max(largest, priority[i])


def test_transitions_are_drawn_as_often_as_their_priorities_say():
    memory = new(50, batch=64, alpha=0.7)
    fill(memory, 4000)
    error = np.random.default_rng(1).exponential(size=50)
    memory.reprioritize(np.arange(3950, 4000), error)
    count = np.zeros(50)
    for _ in range(1000):
        count += np.bincount(draw(memory).extras["index"].numpy() - 3950, minlength=50)
    p = (error + LEAST_ERROR) ** 0.7
    expected = 64_000 * p / p.sum()
    # Strata make the counts vary less than independent draws would: far less than √expected.
    assert stats.chi2.cdf(((count - expected) ** 2 / expected).sum(), df=49) < 0.99


def test_equal_priorities_are_uniform_and_weigh_the_same():
    memory = new(50, batch=50)
    fill(memory, 75)
    batch = draw(memory)
    assert sorted(batch.extras["index"].tolist()) == list(range(25, 75))
    assert batch.extras["weight"].tolist() == [1.0] * 50


def test_without_priorities_nothing_is_weighted_and_nothing_to_be_done():
    memory = new(50, alpha=0.0)
    fill(memory, 10)
    assert draw(memory).extras == {}
    memory.reprioritize(np.array([1]), np.array([5.0]))
    assert "priorities" not in memory.state_dict()


def test_errors_that_are_not_finite_move_nothing():
    memory = new(20)
    fill(memory, 20)
    memory.reprioritize(np.arange(20), np.linspace(0, 3, 20))
    before = memory.state_dict()["priorities"]
    memory.reprioritize(np.arange(20), torch.full((20,), torch.nan))
    memory.reprioritize(np.arange(20), np.full(20, np.inf, np.float32))
    np.testing.assert_array_equal(memory.state_dict()["priorities"], before)
    assert memory.largest == (3 + LEAST_ERROR) ** 0.6


def test_an_error_for_another_number_of_transitions_is_refused():
    memory = new(20)
    fill(memory, 20)
    with pytest.raises(ValueError, match=r"td_error is \(3, 1\): give one for each index, \(3,\)"):
        memory.reprioritize(np.arange(3), np.ones((3, 1)))
