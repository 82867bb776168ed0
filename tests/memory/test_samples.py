"""Every valid row is in one minibatch of an epoch, with what belongs to it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.memory import Rows, Sequences, samples
from envs.transition import Transition


def rollout(steps, envs, seed, recurrent=True):
    """Observations are numbered 1, 2, … through the rows; the state before row k is (k, k)."""
    rng = np.random.default_rng(seed)
    numbers = torch.arange(1.0, steps * envs + 1).reshape(steps, envs)
    done, valid = (torch.from_numpy(rng.random((steps, envs)) < p) for p in (0.2, 0.8))
    valid[0, 0] = True
    return Transition(
        obs=numbers.unsqueeze(-1),
        action=numbers,
        reward=numbers,
        next_obs=numbers.unsqueeze(-1),
        terminated=done & valid,
        truncated=torch.zeros_like(done),
        valid=valid,
        extras={"state": numbers.unsqueeze(-1).expand(-1, -1, 2)} if recurrent else {},
    )


SIZES = st.integers(1, 9), st.integers(1, 4), st.none() | st.integers(1, 10), st.integers(1, 20)


@given(*SIZES, st.integers(0, 100))
def test_each_valid_row_is_in_one_minibatch_with_its_own_history(steps, envs, length, count, seed):
    batch = rollout(steps, envs, seed)
    data = samples(batch, (batch.action, batch.reward), length)
    assert isinstance(data, Sequences)
    assert len(data) == batch.valid.sum()
    seen = []
    for history, action, reward in data.shuffled(count, np.random.default_rng(seed)):
        obs, state, start, rows = history
        assert len(rows)
        assert torch.equal(action, reward)
        assert torch.equal(obs[..., 0].flatten()[rows], action)
        longest = length or steps
        assert len(obs) <= longest
        first = obs[0, :, 0]  # 0 where the row is none
        assert ((first == 0) | (first == state[:, 0])).all()
        before = (state[:, 0] - 1).long()  # number of the first row of each sequence
        for t in range(len(obs)):
            number = before + t * envs
            inside = number < steps * envs
            own = number.clamp(max=steps * envs - 1)
            expected = torch.where(batch.valid.flatten()[own] & inside, own + 1, 0)
            assert torch.equal(obs[t, :, 0], expected.float())
            if t:
                over = batch.over.flatten()[own - envs]
                assert torch.equal(start[t] & inside, over & inside)
        seen += action.tolist()
    assert sorted(seen) == batch.action[batch.valid].tolist()


@given(*SIZES[:2], SIZES[3], st.integers(0, 100))
def test_rows_without_a_state_stand_for_themselves(steps, envs, count, seed):
    batch = rollout(steps, envs, seed, recurrent=False)
    data = samples(batch, (batch.action,))
    assert isinstance(data, Rows)
    seen = []
    for obs, action in data.shuffled(min(count, len(data)), np.random.default_rng(seed)):
        assert torch.equal(obs[:, 0], action)
        seen += action.tolist()
    assert sorted(seen) == batch.action[batch.valid].tolist()
    assert torch.equal(data.whole()[1], batch.action[batch.valid])


@pytest.mark.parametrize(("length", "lengths"), [(None, 10), (10, 10), (4, 4), (6, 5), (1, 1)])
def test_stretches_are_nearly_equal(length, lengths):
    data = samples(rollout(10, 2, 0), (), length)
    assert len(data.whole()[0].obs) == lengths
