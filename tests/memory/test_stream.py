"""A stream gives out each transition once, as it comes, and says where an episode begins."""

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.core.files import join_state, split_state
from agents.memory import Stream
from agents.memory.stream import FIELDS
from envs.transition import Transition
from tests.memory.test_rollout import many, streams


def feed(memory: Stream, stream: list[Transition]) -> list[tuple[int, Transition]]:
    """What is given out, each with the number of the step after which it came."""
    found = []
    for t, step in enumerate(stream):
        memory.add(step)
        found += [(t, batch) for batch in memory.batches()]
    return found


def expected(stream: list[Transition]) -> list[tuple[int, int, bool]]:
    """(step, env, whether an episode begins there) of each valid transition, in their order."""
    first, found = [True] * len(stream[0].reward), []
    for t, step in enumerate(stream):
        for env in range(len(first)):
            if step.valid[env]:
                found.append((t, env, first[env]))
                first[env] = bool(step.done[env])
    return found


def same(batch: Transition, stream: list[Transition], t: int, env: int, first: bool) -> None:
    for name in FIELDS:
        value, source = getattr(batch, name), getattr(stream[t], name)
        assert value.numpy().dtype == source.dtype
        np.testing.assert_array_equal(value, source[env : env + 1])
    assert batch.extras["env"].tolist() == [env]
    assert batch.extras["first"].tolist() == [first]
    assert batch.extras["log_prob"].tolist() == [stream[t].extras["log_prob"][env]]


@given(stream=streams())
@many
def test_every_valid_transition_comes_once_and_at_once(stream):
    found, order = feed(Stream(), stream), expected(stream)
    assert [t for t, _ in found] == [t for t, *_ in order]
    for (_, batch), (t, env, first) in zip(found, order, strict=True):
        same(batch, stream, t, env, first)
        assert set(batch.extras) == {"first", "env", "log_prob"}


@given(stream=streams())
@many
def test_with_the_next_action_it_comes_one_step_later(stream):
    found = feed(Stream(next_action=True), stream)
    order = [row for row in expected(stream) if row[0] < len(stream) - 1]
    assert [t - 1 for t, _ in found] == [t for t, *_ in order]
    for (_, batch), (t, env, first) in zip(found, order, strict=True):
        same(batch, stream, t, env, first)
        assert batch.extras["next_action"].tolist() == [stream[t + 1].action[env]]


@given(stream=streams(), where=st.lists(st.booleans(), min_size=4, max_size=4))
@many
def test_after_a_cut_an_episode_begins_and_what_waits_is_truncated(stream, where):
    mask = np.array(where[: len(stream[0].reward)])
    for next_action in (False, True):
        memory = Stream(next_action)
        feed(memory, stream)
        memory.cut(mask)
        found = feed(memory, [stream[-1]] * 2)
        last = stream[-1]
        if next_action:
            for _, batch in found[: int(last.valid.sum())]:
                env = int(batch.extras["env"])
                assert batch.terminated.item() == last.terminated[env]
                assert batch.done.item() == bool(last.done[env] or mask[env])
            found = found[int(last.valid.sum()) :]
        begun = dict.fromkeys(range(len(mask)), False)
        for _, batch in found:
            env = int(batch.extras["env"])
            if mask[env] and not begun[env]:
                assert batch.extras["first"].item()
            begun[env] = True
    memory.cut(np.ones(7, bool))  # another number of environments
    assert memory.rows == []
    assert memory.first.tolist() == [True] * 7


@given(stream=streams(), at=st.integers(0, 30), next_action=st.booleans())
@many
def test_a_stream_put_back_goes_on_as_if_nothing_had_happened(stream, at, next_action):
    memory, again = Stream(next_action), Stream(next_action)
    feed(memory, stream[:at])
    again.load_state_dict(join_state(*split_state(memory.state_dict())))
    for (_, one), (_, other) in zip(
        feed(memory, stream[at:]), feed(again, stream[at:]), strict=True
    ):
        for name in FIELDS:
            assert torch.equal(getattr(one, name), getattr(other, name))
        ours: Any = {name: value.tolist() for name, value in one.extras.items()}
        assert ours == {name: value.tolist() for name, value in other.extras.items()}
