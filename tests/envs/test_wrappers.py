"""The wrappers do what they say, and a spec makes them again."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import wrappers
from envs.wrappers import DelayReward, FlickerObservation, HideVelocity, ShapeReward

TASKS = {
    "Acrobot": "Acrobot-v1",
    "BipedalWalker": "BipedalWalker-v3",
    "CartPole": "CartPole-v1",
    "LunarLander": "LunarLander-v3",
    "MountainCar": "MountainCar-v0",
    "MountainCarContinuous": "MountainCarContinuous-v0",
    "Pendulum": "Pendulum-v1",
}


def angle(obs: Any) -> float:
    return -abs(float(obs[2]))


def play(env: gymnasium.Env[Any, Any], steps: int = 60) -> dict[str, list[Any]]:
    """The first steps of an environment, episode after episode, from fixed seeds."""
    env.action_space.seed(0)
    seen: dict[str, list[Any]] = {"obs": [env.reset(seed=0)[0]], "reward": [], "done": []}
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert obs in env.observation_space
        seen["obs"].append(obs)
        seen["reward"].append(reward)
        seen["done"].append((terminated, truncated))
        if terminated or truncated:
            seen["obs"].append(env.reset()[0])
    return seen


WRAPPED: dict[str, Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]] = {
    "HideVelocity": HideVelocity,
    "FlickerObservation": FlickerObservation,
    "DelayReward": lambda env: DelayReward(env, 7),
    "ShapeReward": lambda env: ShapeReward(env, angle, 0.99),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_is_not_in_gymnasium(name: str) -> None:
    assert not hasattr(gymnasium.wrappers, name)


@pytest.mark.parametrize("name", WRAPPED)
def test_its_spec_makes_it_again_and_it_behaves_the_same(name: str) -> None:
    env = WRAPPED[name](gymnasium.make("CartPole-v1"))
    assert env.spec is not None
    again = gymnasium.make(env.spec)
    assert type(again) is type(env)
    first, second = play(env), play(again)
    np.testing.assert_array_equal(first["obs"], second["obs"])
    assert first["reward"] == second["reward"]
    assert any(terminated for terminated, _ in first["done"])


@pytest.mark.parametrize("name", TASKS)
def test_hide_velocity_leaves_the_positions(name: str) -> None:
    plain = play(gymnasium.make(TASKS[name]), 5)
    hidden = play(HideVelocity(gymnasium.make(TASKS[name])), 5)
    positions = np.delete(plain["obs"], wrappers.VELOCITIES[name], axis=1)
    np.testing.assert_array_equal(hidden["obs"], positions)
    assert set(TASKS) == set(wrappers.VELOCITIES)


@pytest.mark.parametrize("name", ["Acrobot", "CartPole", "MountainCar", "Pendulum"])
def test_the_known_velocities_are_velocities(name: str) -> None:
    """The bare state is positions then velocities, or for CartPole in turn."""
    env = gymnasium.make(TASKS[name])
    env.reset(seed=0)
    obs, *_ = env.step(env.action_space.sample())
    state = np.asarray(env.unwrapped.state)  # type: ignore[attr-defined]
    rates = state[1::2] if name == "CartPole" else state[len(state) // 2 :]
    np.testing.assert_allclose(obs[list(wrappers.VELOCITIES[name])], rates, rtol=1e-6)


def test_hide_velocity_by_index() -> None:
    env = HideVelocity(gymnasium.make("CartPole-v1"), [0, 1, 3])
    assert env.observation_space.shape == (1,)
    assert env.reset(seed=0)[0].shape == (1,)


def test_hide_velocity_says_what_it_needs() -> None:
    cart = gymnasium.make("CartPole-v1")
    with pytest.raises(ValueError, match="needs Box observations, not Discrete"):
        HideVelocity(gymnasium.make("FrozenLake-v1"))
    with pytest.raises(ValueError, match="which entries of this CartPole observation of shape"):
        HideVelocity(gymnasium.wrappers.FrameStackObservation(cart, 2))
    for velocities in ([4], [-1], [0, 1, 2, 3], []):
        with pytest.raises(ValueError, match="some, not all, of the indices"):
            HideVelocity(cart, velocities)


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_flicker_blanks_as_often_as_asked(probability: float) -> None:
    env = FlickerObservation(gymnasium.make("MountainCar-v0"), probability)
    blank = [not obs.any() for obs in play(env, 2000)["obs"]]
    assert np.mean(blank) == pytest.approx(probability, abs=0.04)  # 4 standard errors


def test_flicker_plays_an_episode_again_from_the_environments_generator() -> None:
    env = FlickerObservation(gymnasium.make("CartPole-v1"))
    env.reset(seed=3)
    generator = env.np_random.bit_generator
    state = generator.state
    first = [env.reset()[0], *(env.step(step % 2)[0] for step in range(8))]
    generator.state = state
    np.testing.assert_array_equal(
        first, [env.reset()[0], *(env.step(step % 2)[0] for step in range(8))]
    )


def test_flicker_makes_room_for_zero_and_says_what_it_needs() -> None:
    env = gymnasium.make("CartPole-v1")
    ones = gymnasium.wrappers.TransformObservation(env, np.ones_like, spaces.Box(1, 2, (4,)))
    space = FlickerObservation(ones).observation_space
    assert np.zeros(4, np.float32) in space
    for probability in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
            FlickerObservation(env, probability)
    with pytest.raises(ValueError, match="needs Box observations, not Discrete"):
        FlickerObservation(gymnasium.make("FrozenLake-v1"))


@pytest.mark.parametrize("steps", [None, 1, 4])
def test_delay_reward_pays_all_of_it_later(steps: int | None) -> None:
    plain = play(gymnasium.make("Pendulum-v1", max_episode_steps=10), 30)
    late = play(DelayReward(gymnasium.make("Pendulum-v1", max_episode_steps=10), steps), 30)
    owed, since = 0.0, 0
    for reward, paid, (_, truncated) in zip(
        plain["reward"], late["reward"], plain["done"], strict=True
    ):
        owed, since = owed + reward, since + 1
        if truncated or since == steps:
            assert paid == owed
            owed, since = 0.0, 0
        else:
            assert paid == 0


def test_delay_reward_forgets_an_episode_that_was_broken_off() -> None:
    env = DelayReward(gymnasium.make("CartPole-v1"), 3)
    env.reset(seed=0)
    env.step(0)
    env.reset(seed=0)
    assert [env.step(step % 2)[1] for step in range(6)] == [0, 0, 3, 0, 0, 3]


def test_delay_reward_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, or None"):
        DelayReward(gymnasium.make("CartPole-v1"), 0)


@pytest.mark.parametrize("limit", [5, 200])
def test_shaping_changes_a_return_by_potentials_of_its_ends_alone(limit: int) -> None:
    """Discounted and summed it adds γ^T Φ(s_T) - Φ(s_0), where Φ(s_T) = 0 at a termination."""
    gamma = 0.9
    env = ShapeReward(gymnasium.make("CartPole-v1", max_episode_steps=limit), angle, gamma)
    obs, _ = env.reset(seed=1)
    first, added, steps, done = angle(obs), 0.0, 0, False
    while not done:
        obs, reward, terminated, truncated, _ = env.step(0)
        added += gamma**steps * (float(reward) - 1)
        steps, done = steps + 1, terminated or truncated
    assert truncated == (limit == 5)
    last = 0.0 if terminated else angle(obs)
    assert added == pytest.approx(gamma**steps * last - first)


def test_shaping_says_what_it_needs() -> None:
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"gamma must lie in \[0, 1\], got 1.5"):
        ShapeReward(env, angle, 1.5)
    with pytest.raises(ValueError, match="must be a function of an observation, got 3"):
        ShapeReward(env, 3, 0.9)  # type: ignore[arg-type]
