"""EnvPool gives Gymnasium's transitions; the form is chosen only where it is asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

import envs
from envs import pooled
from envs.pooled import EnvPool
from envs.vector import VectorEnv


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "find_spec", lambda name: None)
    said = r"^backend 'envpool' needs envpool, .*: pip install 'chainrule\[envpool\]'$"
    with pytest.raises(ValueError, match=said):
        envs.make("Pendulum-v1", backend="envpool")


def test_a_task_that_it_does_not_have_and_options_are_refused() -> None:
    pytest.importorskip("envpool")
    with pytest.raises(ValueError, match="EnvPool has no task chainrule/DelayedReward-v0"):
        envs.make("chainrule/DelayedReward-v0", backend="envpool")
    with pytest.raises(ValueError, match=r"'envpool' has no use for \{'g': 9.8\}"):
        envs.make("Pendulum-v1", backend="envpool", g=9.8)
    cart = envs.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"EnvPool's Pendulum-v1 has a space .*use another"):
        EnvPool("Pendulum-v1", 2, (cart.observation_space, cart.action_space))


def test_it_is_not_chosen_unasked() -> None:
    for id in ("Pendulum-v1", "CartPole-v1"):
        assert not isinstance(getattr(envs.make(id, 8)._envs, "env", None), EnvPool)


def put(id: str, single: Any, obs: np.ndarray) -> None:
    """Bring Gymnasium's environment to where an observation was seen."""
    obs = obs.astype(np.float64)
    if id == "Pendulum-v1":
        single.state = np.array([np.arctan2(obs[1], obs[0]), obs[2]])
    elif id == "Acrobot-v1":
        angles = [np.arctan2(obs[1], obs[0]), np.arctan2(obs[3], obs[2])]
        single.state = np.array([*angles, obs[4], obs[5]])
    elif id == "CartPole-v1":
        single.state, single.steps_beyond_terminated = obs, None
    elif id.startswith("MountainCar"):
        single.state = obs
    else:  # MuJoCo does not show where along its way it is
        hidden = single.model.nq + single.model.nv - len(obs)
        position = np.concatenate([np.zeros(hidden), obs[: single.model.nq - hidden]])
        single.set_state(position, obs[single.model.nq - hidden :])


TASKS = {
    "CartPole-v1": 500,
    "Pendulum-v1": 200,
    "MountainCar-v0": 200,
    "MountainCarContinuous-v0": 999,
    "Acrobot-v1": 500,
    "HalfCheetah-v5": 1000,
    "Swimmer-v5": 1000,
    "Hopper-v5": 1000,
}


@pytest.mark.parametrize("id", TASKS)
def test_every_step_is_gymnasiums_from_the_same_state(id: str) -> None:
    """Each step compared from EnvPool's own observation, on through the ends of episodes.

    Tasks with more contacts depend on the version of MuJoCo, of which EnvPool has its own.
    """
    pytest.importorskip("envpool")
    if id.endswith("-v5"):
        pytest.importorskip("mujoco")
    rng, count = np.random.default_rng(0), 3
    single: Any = gymnasium.make(id).unwrapped
    single.reset(seed=0)
    with envs.make(id, count, backend="envpool") as tasks:
        assert isinstance(tasks._envs.env, EnvPool)  # type: ignore[union-attr]
        assert tasks.observation_space == single.observation_space
        assert tasks.action_space == single.action_space
        tasks.reset(3)
        ended, length, rewards = np.zeros(count, bool), np.zeros(count, int), 0
        for _ in range(TASKS[id] + 30):
            action = np.stack([tasks.action_space.sample() for _ in range(count)])
            if rng.random() < 0.5:
                action[:] = action[0]
            step, _ = tasks.step(action)
            assert (step.valid == ~ended).all()  # the step after an end is the reset's
            for i in np.flatnonzero(step.valid):
                if id == "Hopper-v5" and (np.abs(step.obs[i]) == 10).any():
                    continue  # a speed is shown up to 10 only
                put(id, single, step.obs[i])
                next_obs, reward, terminated, _, _ = single.step(action[i])
                np.testing.assert_allclose(step.next_obs[i], next_obs, rtol=1e-4, atol=2e-5)
                np.testing.assert_allclose(step.reward[i], float(reward), rtol=1e-4, atol=2e-5)
                assert step.terminated[i] == terminated
                rewards += 1
            length = np.where(step.valid, length + 1, 0)
            assert np.array_equal(step.truncated, (length == TASKS[id]) & ~step.terminated)
            assert [e.length for e in tasks.episodes] == length[step.done].tolist()
            ended = step.done
        assert rewards


def test_the_same_seed_gives_the_same_steps_and_another_does_not() -> None:
    pytest.importorskip("envpool")

    def first(seed: int) -> list[Any]:
        with envs.make("Pendulum-v1", 2, backend="envpool") as tasks:
            began, action = tasks.reset(seed).tolist(), np.ones((2, 1), np.float32)
            # over the reset that follows an end
            return [began, *(tasks.step(action)[1].tolist() for _ in range(210))]

    assert first(5) == first(5) != first(6)


def test_a_pool_is_made_with_the_seeds_that_a_reset_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the place of EnvPool, which need not be installed, one that only keeps its seeds."""
    made: list[list[int]] = []
    single = gymnasium.make("CartPole-v1")
    spaces = {
        "gymnasium_observation_space": single.observation_space,
        "gymnasium_action_space": single.action_space,
    }

    def make(task: str, seed: list[int], **options: Any) -> Any:
        made.append(seed)
        return SimpleNamespace(reset=lambda: (None, {}), close=lambda: None)

    fake = SimpleNamespace(make_spec=lambda task: SimpleNamespace(**spaces), make=make)
    monkeypatch.setattr(pooled, "import_module", lambda name: fake)
    tasks = EnvPool("CartPole-v1", 2)
    asked: list[Any] = [None, None, np.int64(5), 2**31 + 3, [7, None], [np.int32(9), 4]]
    for seed in asked:
        tasks.reset(seed=seed)
    drawn, *given = made
    assert drawn[0] != drawn[1]
    assert given == [[5, 6], [3, 4], [7, given[2][1]], [9, 4]]
    with pytest.raises(ValueError, match="there are 3 seeds: give 2, or one"):
        tasks.reset(seed=[1, 2, 3])


@pytest.mark.parametrize("backend", ["loop", "vector"])
def test_a_form_that_is_asked_for_is_used(backend: Any) -> None:
    one: VectorEnv = envs.make("CartPole-v1", 9, backend=backend)
    assert one.reset(4).tolist() == envs.make("CartPole-v1", 9, backend="loop").reset(4).tolist()
    assert hasattr(one._envs, "env") == (backend == "vector")


def test_a_form_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="FrozenLake-v1 has no such form: use auto or loop"):
        envs.make("FrozenLake-v1", backend="vector")
    with pytest.raises(ValueError, match="backend is 'fast': use auto, loop, vector, envpool"):
        envs.make("CartPole-v1", backend="fast")  # type: ignore[arg-type]
