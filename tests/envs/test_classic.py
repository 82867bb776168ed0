"""The batched classic-control tasks are Gymnasium's own, step for step and seed for seed."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs import classic
from envs.vector import VectorEnv

IDS = sorted(classic.TASKS)
ENDING = ("CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1")


def some(tasks: VectorEnv, rng: np.random.Generator, eager: bool) -> np.ndarray:
    """Random actions; eager ones push along the velocity, which reaches the goal."""
    space, n = tasks.action_space, tasks.num_envs
    if isinstance(space, gymnasium.spaces.Discrete):
        action = rng.integers(int(space.n), size=n)
        along = np.where(tasks.obs[:, -1] > 0, int(space.n) - 1, 0)
    else:
        assert isinstance(space, gymnasium.spaces.Box)
        action = rng.uniform(1.2 * space.low, 1.2 * space.high, (n, 1)).astype(np.float32)
        along = np.sign(tasks.obs[:, -1:]).astype(np.float32)
    return along if eager and rng.random() < 0.9 else action


@pytest.mark.parametrize("id", IDS)
def test_every_step_is_that_of_gymnasiums_single_environments(id: str) -> None:
    count = 8
    loop = VectorEnv([gymnasium.make(id, disable_env_checker=True) for _ in range(count)])
    batch = VectorEnv(classic.TASKS[id](count))
    assert batch.observation_space == loop.observation_space
    assert batch.action_space == loop.action_space
    terminated = truncated = 0
    for seed, eager in ((3, False), (None, True)):  # the second goes on with the generators
        assert np.array_equal(loop.reset(seed), batch.reset(seed))
        rng = np.random.default_rng(0)
        for _ in range(550):
            action = some(loop, rng, eager)
            one, one_obs = loop.step(action)
            other, other_obs = batch.step(action)
            assert np.array_equal(one_obs, other_obs)
            assert np.array_equal(one.next_obs, other.next_obs)
            np.testing.assert_array_max_ulp(one.reward, other.reward, 1)
            assert np.array_equal(one.terminated, other.terminated)
            assert np.array_equal(one.truncated, other.truncated)
            assert other.next_obs.dtype == other_obs.dtype == np.float32
            assert other.valid.all()
            assert [e[::2] for e in loop.episodes] == [e[::2] for e in batch.episodes]
            terminated += int(one.terminated.sum())
            truncated += int(one.truncated.sum())
    assert (terminated > 0) == (id in ENDING)
    assert truncated > 0 or id in ("CartPole-v1", "MountainCarContinuous-v0")


@pytest.mark.parametrize(("id", "limit"), [("CartPole-v1", 500), ("MountainCarContinuous-v0", 999)])
def test_long_episodes_too_are_cut_off_where_gymnasium_does(id: str, limit: int) -> None:
    loop = VectorEnv([gymnasium.make(id) for _ in range(2)])
    batch = VectorEnv(classic.TASKS[id](2))
    loop.reset(0), batch.reset(0)
    truncated = 0
    for _ in range(2 * limit + 50):
        action: Any = np.zeros((2, 1), np.float32)
        if id == "CartPole-v1":  # balanced by hand
            action = loop.obs @ [0.05, 0.1, 1.0, 0.4] > 0
        one, other = loop.step(action)[0], batch.step(action)[0]
        assert np.array_equal(one.truncated, other.truncated)
        assert np.array_equal(one.next_obs, other.next_obs)
        truncated += int(other.truncated.sum())
    assert truncated == 4


@pytest.mark.parametrize("id", IDS)
def test_gymnasiums_vector_api_is_kept(id: str) -> None:
    """As Gymnasium's own vector form of the same autoreset mode."""
    batch: Any = classic.TASKS[id](3)
    own: Any = SyncVectorEnv([lambda: gymnasium.make(id)] * 3, autoreset_mode="SameStep")
    assert batch.metadata["autoreset_mode"] is own.metadata["autoreset_mode"]
    assert batch.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert batch.observation_space == own.observation_space
    assert batch.action_space == own.action_space
    assert np.array_equal(batch.reset(seed=[5, 1, 9])[0], own.reset(seed=[5, 1, 9])[0])
    for seed in (np.int64(3), [np.int32(3), 4, 5]):
        assert np.array_equal(batch.reset(seed=seed)[0], own.reset(seed=3)[0])
    own.action_space.seed(0)
    for _ in range(210):
        action = own.action_space.sample()
        if isinstance(own.action_space, gymnasium.spaces.Box):
            action *= np.float32(1.5)  # beyond the bounds too
        found, expected = batch.step(action), own.step(action)
        assert found[0] in batch.observation_space
        for a, b in zip(found[:4], expected[:4], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7)
            assert a.dtype == b.dtype
        assert found[4].keys() == expected[4].keys()
        if "final_obs" in found[4]:
            assert found[4]["final_info"] == expected[4]["final_info"]
            assert np.array_equal(found[4]["_final_info"], expected[4]["_final_info"])
            assert np.array_equal(found[4]["_final_obs"], expected[4]["_final_obs"])
            for i in found[4]["_final_obs"].nonzero()[0]:
                assert np.array_equal(found[4]["final_obs"][i], expected[4]["final_obs"][i])
    with pytest.raises(ValueError, match="there are 2 seeds: give 3"):
        batch.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="reset has none"):
        batch.reset(options={"low": 0.0})
    with pytest.raises(ValueError, match="num_envs is 0"):
        classic.TASKS[id](0)


@pytest.mark.parametrize("id", [id for id in IDS if id != "CartPole-v1"])
def test_make_steps_them_as_arrays_from_where_that_is_faster(id: str) -> None:
    least = classic.TASKS[id].worth_from
    few, many = (envs.make(id, num_envs=least - k) for k in (1, 0))
    assert not hasattr(few._envs, "env")
    assert type(many._envs.env) is classic.TASKS[id]  # type: ignore[union-attr]
    assert np.array_equal(few.reset(7), many.reset(7)[: least - 1])  # the seeds mean the same


def test_thousands_at_once() -> None:
    with envs.make("Acrobot-v1", num_envs=3000) as tasks:
        first = tasks.reset(0)
        assert len(np.unique(first, axis=0)) == 3000
        assert tasks.step(np.zeros(3000, int))[0].next_obs.shape == (3000, 6)
