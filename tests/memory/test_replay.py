"""A replay against a plain list of every transition that it was given."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from agents.core.files import join_state, split_state
from agents.memory import Replay
from agents.memory.replay import FIELDS
from envs.transition import Transition

many = settings(max_examples=60)


def replay(
    capacity: int = 10, batch: int = 4, rate: float = 1.0, starts: int = 0, seed: int = 0
) -> Replay:
    return Replay(capacity, batch, rate, starts, np.random.default_rng(seed), obs_size=2)


def transitions(number: np.ndarray, valid: np.ndarray) -> Transition:
    """Each field says the number of its transition."""
    return Transition(
        obs=np.stack([number, -number], -1).astype(np.float32),
        action=number,
        reward=number.astype(np.float32),
        next_obs=np.stack([number + 1, -number], -1).astype(np.float32),
        terminated=number % 2 == 0,
        truncated=number % 3 == 0,
        valid=valid,
    )


def fill(memory: Replay, steps: list[np.ndarray]) -> int:
    """Add steps with this pattern of validity. Returns how many transitions they hold."""
    total = memory.added
    for valid in steps:
        number = np.where(valid, total + np.cumsum(valid) - 1, 10**6)
        memory.add(transitions(number, valid))
        total += int(valid.sum())
    return total


def numbers_of(batch: Any) -> list[int]:
    """The numbers of the transitions in a batch or in rows, once each of them is found whole."""
    fields = batch if isinstance(batch, dict) else {name: getattr(batch, name) for name in FIELDS}
    number = np.asarray(fields["action"])
    expected = transitions(number, np.ones(len(number), bool))
    for name in FIELDS:
        np.testing.assert_array_equal(fields[name], getattr(expected, name))
    return number.tolist()


STEPS = st.integers(1, 7).flatmap(
    lambda envs: st.lists(
        st.lists(st.booleans(), min_size=envs, max_size=envs).map(np.array),
        min_size=1,
        max_size=15,
    )
)


@given(steps=STEPS, capacity=st.integers(1, 20))
@many
def test_it_holds_the_last_valid_transitions_whole_and_no_other(steps, capacity):
    memory = replay(capacity)
    total = fill(memory, steps)
    held = list(range(max(0, total - capacity), total))
    assert (memory.added, len(memory)) == (total, len(held))
    assert numbers_of(memory.rows(total - len(held), total)) == held
    assert sorted(numbers_of(memory.sample(np.arange(len(held))))) == held
    for batch in memory.batches():
        assert set(numbers_of(batch)) <= set(held)
        assert batch.valid.all()
        assert batch.reward.shape == batch.valid.shape == (4,)


def test_draws_are_uniform_and_independent():
    memory = replay(capacity=10, batch=20_000, rate=1.0)
    fill(memory, [np.ones(5, bool)] * 5)
    drawn = np.array(numbers_of(next(memory.batches()))) - 15
    assert stats.chisquare(np.bincount(drawn, minlength=10)).pvalue > 0.01
    pairs = np.zeros((10, 10))
    np.add.at(pairs, (drawn[::2], drawn[1::2]), 1)
    assert stats.chi2_contingency(pairs).pvalue > 0.01


def updates(memory: Replay, envs: int, total: int) -> int:
    count = 0
    for _ in range(total // envs):
        fill(memory, [np.ones(envs, bool)])
        count += sum(1 for _ in memory.batches())
    return count


@given(
    rate=st.sampled_from([0.1, 0.25, 0.3, 1 / 3, 0.7, 1.0, 2.5]),
    starts=st.integers(0, 50),
    blocks=st.integers(1, 6),
)
@many
def test_as_many_updates_are_due_however_many_environments_there_are(rate, starts, blocks):
    total = 12 * blocks
    due = {updates(replay(rate=rate, starts=starts), envs, total) for envs in (1, 2, 3, 4, 6, 12)}
    assert len(due) == 1
    expected = Fraction(rate) * max(0, total - starts)
    assert abs(due.pop() - expected) < 1


def test_a_remainder_is_carried_over_and_what_was_not_drawn_stays_due():
    memory = replay(rate=0.4)
    counts = [updates(memory, 1, 1) for _ in range(10)]
    assert counts == [0, 0, 1, 0, 1, 0, 0, 1, 0, 1]
    memory = replay(rate=2.0)
    fill(memory, [np.ones(2, bool)])
    next(memory.batches())
    assert sum(1 for _ in memory.batches()) == 3
    assert not list(memory.batches())


def test_a_step_that_is_no_transition_makes_nothing_due():
    memory = replay(rate=1.0)
    fill(memory, [np.zeros(3, bool)])
    assert not list(memory.batches())
    fill(memory, [np.array([True, False, True])])
    assert sum(1 for _ in memory.batches()) == 2


@given(
    steps=STEPS,
    more=STEPS,
    capacity=st.integers(1, 20),
    rate=st.sampled_from([0.3, 1.0]),
    cut=st.floats(0.0, 1.0),
)
@many
def test_what_was_saved_in_segments_gives_the_same_draws(steps, more, capacity, rate, cut):
    one, two = replay(capacity, rate=rate), replay(capacity, rate=rate, seed=1)
    total = fill(one, steps)
    next(one.batches(), None)
    first = max(0, total - capacity)
    middle = first + int(cut * (total - first))
    for start, stop in ((first, middle), (middle, total)):
        if stop > start:
            two.restore(start, one.rows(start, stop))
    two.load_state_dict(join_state(*split_state(one.state_dict())))
    for _ in range(2):
        draws = [[numbers_of(batch) for batch in memory.batches()] for memory in (one, two)]
        assert draws[0] == draws[1]
        for memory in (one, two):
            fill(memory, more)
    assert one.state_dict() == two.state_dict()


def test_a_row_is_a_copy():
    memory = replay()
    fill(memory, [np.ones(2, bool)])
    rows, batch = memory.rows(0, 2), memory.sample(np.array([0, 1]))
    rows["reward"][:] = -1.0
    batch.reward[:] = -1.0
    assert numbers_of(memory.rows(0, 2)) == [0, 1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"capacity": 0}, "buffer_size is 0"),
        ({"batch": 0}, "batch_size is 0"),
        ({"rate": 0.0}, r"updates_per_step is 0\.0"),
        ({"rate": float("nan")}, "updates_per_step is nan"),
    ],
)
def test_options_that_make_no_sense_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        replay(**option)


@given(steps=STEPS, every=st.integers(1, 9), rate=st.sampled_from([0.25, 0.5, 1.0, 3.0]))
@many
def test_updates_come_in_bursts_and_none_is_lost(steps, every, rate):
    starts = 5
    often = replay(rate=rate, starts=starts)
    seldom = Replay(10, 4, rate, starts, np.random.default_rng(0), train_every=every, obs_size=2)
    for valid in steps:
        for memory in (often, seldom):
            fill(memory, [valid])
            for _ in memory.batches():
                pass
        bursts = max(0, seldom.added - starts) // every
        assert seldom.drawn == int(bursts * every * rate) <= often.drawn


def test_a_numbered_uniform_batch_tells_its_transitions_numbers():
    memory = Replay(10, 64, 1.0, 0, np.random.default_rng(0), obs_size=2, numbered=True)
    fill(memory, [np.ones(4, bool)] * 6)  # 24 transitions in a ring of 10
    batch = next(memory.batches())
    assert set(batch.extras["index"].tolist()) == set(range(14, 24))
    assert numbers_of(batch) == batch.extras["index"].tolist()
