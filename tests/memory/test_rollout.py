"""A rollout gives out exactly what it was given, once, when there is enough of it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.core.files import join_state, split_state
from agents.memory import Rollout
from agents.memory.rollout import FIELDS
from envs.transition import Transition

many = settings(max_examples=60)


@st.composite
def streams(draw: Any) -> list[Transition]:
    """Steps of N environments, with ends and rows that are no transition."""
    steps, envs = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ends = rng.random((2, steps, envs)) < draw(st.sampled_from([0.0, 0.1, 0.4]))
    valid = rng.random((steps, envs)) < draw(st.sampled_from([0.8, 1.0]))
    ends &= valid
    return [
        Transition(
            obs=rng.standard_normal((envs, 2)).astype(np.float32),
            action=rng.integers(5, size=envs),
            reward=rng.standard_normal(envs).astype(np.float32),
            next_obs=rng.standard_normal((envs, 2)).astype(np.float32),
            terminated=ends[0, t],
            truncated=ends[1, t],
            valid=valid[t],
            extras={"log_prob": rng.standard_normal(envs).astype(np.float32)},
        )
        for t in range(steps)
    ]


def feed(memory: Rollout, stream: list[Transition]) -> list[tuple[int, Transition]]:
    """The batches, each with the number of steps after which it came."""
    found = []
    for t, step in enumerate(stream, 1):
        memory.add(step)
        found += [(t, batch) for batch in memory.batches()]
    return found


def same(batch: Transition, rows: list[Transition], fields: tuple[str, ...] = FIELDS) -> None:
    for name in fields:
        expected = np.stack([getattr(row, name) for row in rows])
        assert getattr(batch, name).numpy().dtype == expected.dtype
        np.testing.assert_array_equal(getattr(batch, name), expected)
    log_prob = np.stack([row.extras["log_prob"] for row in rows])
    np.testing.assert_array_equal(batch.extras["log_prob"], log_prob)


def ends(stream: list[Transition], transitions: int) -> list[int]:
    """After how many steps each batch is full: the least that hold so many valid transitions."""
    found, held = [0], 0
    for t, step in enumerate(stream, 1):
        held += int(step.valid.sum())
        if held >= transitions:
            found.append(t)
            held = 0
    return found


@given(stream=streams(), transitions=st.integers(1, 20))
@many
def test_after_enough_transitions_it_yields_what_was_added_and_forgets_it(stream, transitions):
    found = feed(Rollout(transitions), stream)
    cuts = ends(stream, transitions)
    assert [t for t, _ in found] == cuts[1:]
    for start, (t, batch) in zip(cuts, found, strict=False):
        same(batch, stream[start:t])
        assert set(batch.extras) == {"log_prob"}


@given(stream=streams(), transitions=st.integers(1, 20))
@many
def test_with_the_next_action_it_waits_one_step_and_begins_the_next_batch_with_it(
    stream, transitions
):
    found = feed(Rollout(transitions, next_action=True), stream)
    cuts = ends(stream[:-1], transitions)
    assert [t - 1 for t, _ in found] == cuts[1:]
    for start, (t, batch) in zip(cuts, found, strict=False):
        same(batch, stream[start : t - 1])
        following = np.stack([step.action for step in stream[start + 1 : t]])
        np.testing.assert_array_equal(batch.extras["next_action"], following)


@given(stream=streams(), episodes=st.integers(1, 6))
@many
def test_of_each_environment_it_yields_as_many_whole_episodes_of_one_policy(stream, episodes):
    each = -(-episodes // len(stream[0].reward))
    stale, start = np.zeros(len(stream[0].reward), bool), 0
    found = dict(feed(Rollout(episodes=episodes), stream))
    for t in range(1, len(stream) + 1):
        rows = stream[start:t]
        whole: list[range] = []
        for i, late in enumerate(stale):  # the rest of an episode that began before does not count
            ends = [k for k, row in enumerate(rows) if row.done[i]]
            begin = 0 if not late else ends[0] + 1 if ends else t
            ends = [k for k in ends if k >= begin]
            whole.append(range(begin, ends[each - 1] + 1) if len(ends) >= each else range(0))
        assert (t in found) == all(whole)
        if t not in found:
            continue
        same(found[t], rows, tuple(name for name in FIELDS if name != "valid"))
        for i, span in enumerate(whole):
            expected = [bool(row.valid[i]) and k in span for k, row in enumerate(rows)]
            assert found[t].valid[:, i].tolist() == expected
        start, stale = t, stream[t - 1].valid & ~stream[t - 1].done


@given(stream=streams(), where=st.lists(st.booleans(), min_size=4, max_size=4))
@many
def test_a_cut_truncates_the_last_row_and_nothing_else(stream, where):
    mask = np.array(where[: len(stream[0].reward)])
    memory, kept = Rollout(transitions=10**6), Rollout(transitions=10**6)
    for step in stream:
        memory.add(step)
        kept.add(step)
    memory.cut(mask)
    for row, was in zip(memory.rows[:-1], kept.rows[:-1], strict=True):
        assert row is was
    last, was = memory.rows[-1], kept.rows[-1]
    np.testing.assert_array_equal(last.done & last.valid, (was.done | mask) & was.valid)
    np.testing.assert_array_equal(last.terminated, was.terminated)
    assert memory.held == kept.held
    assert (memory.ended - kept.ended).tolist() == (mask & was.valid & ~was.done).tolist()
    memory.cut(np.ones(7, bool))  # another number of environments
    assert memory.rows == []


@given(
    stream=streams(),
    kind=st.sampled_from(
        [{"transitions": 9}, {"episodes": 2}, {"transitions": 5, "next_action": True}]
    ),
    cut=st.floats(0.0, 1.0),
)
@many
def test_a_saved_rollout_goes_on_as_if_nothing_had_happened(stream, kind, cut):
    at = int(cut * len(stream))
    one, two = Rollout(**kind), Rollout(**kind)
    feed(one, stream[:at])
    two.load_state_dict(join_state(*split_state(one.state_dict())))
    pairs = zip(feed(one, stream[at:]), feed(two, stream[at:]), strict=True)
    for (t, a), (u, b) in pairs:
        assert t == u
        assert list(a.extras) == list(b.extras)
        for x, y in [
            *((getattr(a, name), getattr(b, name)) for name in FIELDS),
            *((a.extras[name], b.extras[name]) for name in a.extras),
        ]:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@given(stream=streams())
@many
def test_a_batch_is_a_copy_of_what_was_added(stream):
    before = [{name: getattr(row, name).copy() for name in FIELDS} for row in stream]
    for _, batch in feed(Rollout(episodes=1), stream):
        for name in FIELDS:
            getattr(batch, name).zero_()
    for row, kept in zip(stream, before, strict=True):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(row, name), kept[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one"),
        ({"transitions": 3, "episodes": 1}, "give one"),
        ({"transitions": 0}, "a rollout of 0 holds nothing"),
        ({"episodes": -1}, "a rollout of -1 holds nothing"),
        ({"episodes": 2, "next_action": True}, "next_action is for"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Rollout(**options)
