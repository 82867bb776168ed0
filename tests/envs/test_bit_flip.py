"""BitFlip does what its description says, with goals in the form of Gymnasium-Robotics."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import NormalizeReward, OrderEnforcing, TransformReward

import envs
from envs.bit_flip import ID, BitFlip


@pytest.mark.filterwarnings("ignore:.*")  # Gymnasium's checker has opinions too
def test_it_is_an_environment_of_gymnasiums() -> None:
    check_env(gymnasium.make(ID).unwrapped, skip_render_check=True)
    assert gymnasium.make(ID).unwrapped.observation_space["desired_goal"].shape == (15,)  # type: ignore[index]
    with pytest.raises(ValueError, match="bits is 0"):
        BitFlip(0)


def test_the_best_return_is_one_less_than_the_bits_to_flip() -> None:
    env = BitFlip(6)
    for seed in range(40):
        obs, _ = env.reset(seed=seed)
        wrong = np.flatnonzero(obs["achieved_goal"] != obs["desired_goal"])
        assert len(wrong) >= 1
        steps = [env.step(bit) for bit in wrong]
        assert sum(step[1] for step in steps) == 1 - len(wrong)
        assert [step[2] for step in steps] == [False] * (len(wrong) - 1) + [True]
        assert (steps[-1][0]["observation"] == obs["desired_goal"]).all()


def test_an_episode_without_success_is_cut_off_after_as_many_steps_as_bits() -> None:
    env = BitFlip(4)
    obs, _ = env.reset(seed=1)
    right = int(np.flatnonzero(obs["achieved_goal"] == obs["desired_goal"])[0])
    ends = [env.step(right)[1:4] for _ in range(4)]
    if len({*obs["achieved_goal"] ^ obs["desired_goal"]}) > 1:
        assert ends == [(-1.0, False, False)] * 3 + [(-1.0, False, True)]


def test_goals_are_judged_in_batches_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(2, size=(2, 50, 3))
    with envs.make(ID, num_envs=2, bits=3) as tasks:
        reward, ended = tasks.judge(one, other)
    for a, b, r, end in zip(one, other, reward, ended, strict=True):
        assert (r, end) == ((0, True) if (a == b).all() else (-1, False))


class Corridor(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Judges by goals of one row alone, and with `bool`, as PointMaze does."""

    def compute_terminated(self, achieved: Any, desired: Any, info: Any) -> bool:
        return bool(np.linalg.norm(achieved - desired) < 0.5)


class Branching(Corridor):
    """Asks `if` of a reward, which many at once have no answer to."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> float:
        return 0.0 if np.linalg.norm(achieved - desired, axis=-1) < 0.5 else -1.0


class Measuring(Corridor):
    """Takes distances that are numbers alone."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> float:
        return 0.0 if math.dist(achieved, desired) < 0.5 else -1.0


class Converting(Corridor):
    """Makes one number of what it is given."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> float:
        return -float(np.abs(achieved - desired).max(axis=-1))


class Adding(Corridor):
    """Adds up over the first axis, which is the goal's for one alone."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> float:
        return -sum(achieved != desired)


class Looking(Corridor):
    """Looks up what a place pays."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> float:
        table = np.array([[0.0, -1.0], [-1.0, -2.0]])
        return table[abs(achieved[0] - desired[0]), abs(achieved[1] - desired[1])]


class Wrong(Corridor):
    """Cannot judge at all."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> float:
        raise TypeError("no such goals")


@pytest.mark.parametrize("task", [Corridor, Branching, Measuring, Converting, Adding, Looking])
def test_a_task_that_judges_one_goal_at_a_time_is_asked_one_by_one(task: Any) -> None:
    with envs.VectorEnv([task(gymnasium.make(ID, bits=2))]) as tasks:
        judged = tasks.judge(np.array([[0, 1], [1, 1]]), np.array([[0, 1], [0, 1]]))
        apart = tasks.judge(np.eye(2, dtype=int), np.zeros((2, 2), int))
        three = tasks.judge(*np.zeros((2, 3, 2), int))
    assert judged[0].tolist() == [0.0, -1.0]
    assert judged[1].tolist() == [True, False]
    assert apart[0].tolist() == [-1.0, -1.0]
    assert three[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: TransformReward(env, lambda reward: 10 * float(reward)),
        lambda env: OrderEnforcing(NormalizeReward(env)),
    ],
)
def test_a_wrapper_that_changes_rewards_is_refused_where_goals_are_judged(wrap: Any) -> None:
    with (
        envs.VectorEnv(wrap(gymnasium.make(ID, bits=2))) as tasks,
        pytest.raises(ValueError, match=r"^\w+Reward changes the rewards, which compute_reward do"),
    ):
        _ = tasks.judge


def test_what_is_wrong_with_a_single_goal_too_is_raised() -> None:
    with (
        envs.VectorEnv([Wrong(gymnasium.make(ID, bits=2))]) as tasks,
        pytest.raises(TypeError, match="no such goals"),
    ):
        tasks.judge(*np.zeros((2, 3, 2), int))


def test_a_task_without_goals_has_no_judge() -> None:
    with (
        envs.make("CartPole-v1", num_envs=1) as tasks,
        pytest.raises(ValueError, match="do not say how they reward goals"),
    ):
        _ = tasks.judge
