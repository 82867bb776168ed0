"""DeepSea pays what its definition says, and only the one who dives right all the way."""

from __future__ import annotations

from itertools import product
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.deep_sea import ID, DeepSea, solved


def dive(env: DeepSea, moves: tuple[int, ...]) -> tuple[float, list[int]]:
    """The return and the cells seen where 1 is a move to the right and 0 one to the left."""
    obs, _ = env.reset()
    seen, total = [int(obs)], 0.0
    for i, move in enumerate(moves):
        right = env.right[divmod(seen[-1], env.size)]
        obs, reward, terminated, truncated, _ = env.step(right if move else 1 - right)
        assert obs in env.observation_space
        assert (terminated, truncated) == (i == len(moves) - 1, False)
        total += reward
        seen.append(int(obs))
    return total, seen


@pytest.mark.parametrize("size", [1, 2, 10, 20, 50])
def test_to_the_right_all_the_way_returns_0_99_and_to_the_left_0(size: int) -> None:
    env = DeepSea(size)
    total, seen = dive(env, (1,) * size)
    assert total == pytest.approx(0.99)
    assert seen == [*(i * (size + 1) for i in range(size)), size * size - 1]
    total, seen = dive(env, (0,) * size)
    assert total == 0.0
    assert seen == [*range(0, size * size, size), (size - 1) * size]


@pytest.mark.parametrize("size", [2, 5, 8])
def test_a_random_policy_returns_2_to_the_minus_size_less_half_of_the_cost(size: int) -> None:
    """Every path is as likely: the mean over all of them is the expectation."""
    env = DeepSea(size, mapping_seed=4)
    returns = [dive(env, moves)[0] for moves in product((0, 1), repeat=size)]
    assert np.mean(returns) == pytest.approx(2.0**-size - 0.005)
    assert sum(r > 0 for r in returns) == 1
    costs = sorted(-0.01 / size * sum(moves) for moves in product((0, 1), repeat=size))
    assert sorted(r for r in returns if r <= 0) == pytest.approx(costs[1:])


def test_the_mapping_is_the_instances_own_and_the_same_in_every_copy() -> None:
    first, again, other = DeepSea(10), DeepSea(10), DeepSea(10, mapping_seed=1)
    assert np.array_equal(first.right, again.right)
    assert not np.array_equal(first.right, other.right)
    assert 0.3 < first.right.mean() < 0.7
    mapping = first.right.copy()
    first.reset(seed=5)
    assert np.array_equal(first.right, mapping)


def test_gymnasium_knows_it_and_finds_no_fault() -> None:
    env: Any = gymnasium.make(ID, size=7)
    check_env(env.unwrapped)
    with envs.make(ID, 3, size=6) as tasks:
        assert tasks.observation_space == gymnasium.spaces.Discrete(36)
        tasks.reset(0)
        for _ in range(13):
            tasks.step(np.zeros(3, int))
        state, expected = tasks.state_dict(), tasks.obs
        assert tasks.load_state_dict(state).all()
        assert np.array_equal(tasks.obs, expected)
    with pytest.raises(ValueError, match="size is 0: use 1 or more"):
        DeepSea(0)


@pytest.mark.parametrize(
    ("found", "missed", "is_solved"),
    [(90, 10, True), (89, 11, False), (99, 0, False), (100, 0, True), (90, 11, True)],
)
def test_solved_is_the_treasure_in_nine_of_ten_of_the_last_hundred(
    found: int, missed: int, is_solved: bool
) -> None:
    """Only the order matters beyond a hundred: what came earlier is not counted."""
    assert solved([-0.01] * missed + [0.99] * found) == is_solved
    assert solved([0.99] * 50 + [-0.01] * 11 + [0.99] * 89) is False
