"""MinAtar and Atari come as published, and an episode goes on bit for bit from where it was."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from itertools import count
from typing import Any

import gymnasium
import numpy as np
import pytest

import envs
from agents.core.files import join_state, split_state
from envs import arcade
from envs.pooled import EnvPool
from envs.vector import RestoreWarning, VectorEnv

# Gymnasium calls the six actions of v0 out of date.
pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")

GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
PONG: dict[str, Any] = {"repeat_action_probability": 0.25}
"""Its own default, given so that it is played in a loop whether EnvPool is there or not."""


def make(id: str, num_envs: int = 2) -> VectorEnv:
    return envs.make(id, num_envs, **(PONG if id.startswith("ALE") else {}))


def play(tasks: VectorEnv, steps: int, seed: int) -> list[Any]:
    """What comes of random actions."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(steps):
        transition, obs = tasks.step(rng.integers(tasks.action_space.n, size=tasks.num_envs))  # type: ignore[attr-defined]
        names = ("obs", "reward", "next_obs", "terminated", "truncated", "valid")
        found.append([*(getattr(transition, name).copy() for name in names), obs.copy()])
        found[-1].append(list(tasks.episodes))
    return found


def equal(one: list[Any], other: list[Any]) -> bool:
    return all(
        np.array_equal(a, b)
        for step, step_ in zip(one, other, strict=True)
        for a, b in zip(step, step_, strict=True)
    )


@pytest.mark.parametrize(
    ("id", "first"),
    [*((f"MinAtar/{game}-v1", False) for game in GAMES), ("MinAtar/Breakout-v0", True)],
)
@pytest.mark.parametrize("seed", [3, None])
def test_minatar_goes_on_bit_for_bit(id: str, first: bool, seed: int | None) -> None:
    goes_on(id, first, seed)


@pytest.mark.parametrize(("first", "seed"), [(False, 3), (True, None)])
def test_atari_goes_on_bit_for_bit(first: bool, seed: int | None) -> None:
    goes_on("ALE/Breakout-v5", first, seed)


def goes_on(id: str, first: bool, seed: int | None) -> None:
    """In a first episode or in a later one, through JSON and arrays, beside other episodes."""
    with make(id) as tasks, make(id) as other:
        tasks.reset(seed)
        for actions in count(2):
            if any(step[-1] for step in play(tasks, 10, actions)) or first:
                break
        arrays, state = split_state(tasks.state_dict())
        state = join_state(arrays, json.loads(json.dumps(state)))
        expected = play(tasks, 60, 1)
        other.reset(77)
        play(other, 5, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RestoreWarning)
            assert other.load_state_dict(state).all()
        assert equal(play(other, 60, 1), expected)


@pytest.mark.parametrize("id", ["MinAtar/Breakout-v1", "ALE/Breakout-v5"])
def test_a_seed_gives_its_episode_whatever_came_before(id: str) -> None:
    with make(id) as tasks:
        first = tasks.reset(3)
        expected = play(tasks, 40, 0)
        tasks.step(np.array([1, 2]))
        again = tasks.reset(3)
        assert np.array_equal(first, again)
        assert equal(play(tasks, 40, 0), expected)


@pytest.mark.parametrize("game", GAMES)
def test_minatar_is_the_published_one(game: str) -> None:
    for version, all_six in (("v0", True), ("v1", False)):
        env: Any = envs.make_one(f"MinAtar/{game}-{version}")
        inner = env.unwrapped.game
        assert inner.sticky_action_prob == 0.1
        assert getattr(inner.env, "ramping", True) in (True, None)  # None: a game that has none
        assert env.observation_space.shape == (10, 10, inner.n_channels)
        assert env.observation_space.dtype == np.bool_
        minimal = inner.minimal_action_set()
        assert env.action_space == gymnasium.spaces.Discrete(6 if all_six else len(minimal))


def test_the_first_action_of_an_episode_repeats_none_of_another() -> None:
    env: Any = envs.make_one("MinAtar/Breakout-v1", sticky_action_prob=1.0)
    env.reset(seed=0)
    env.game.last_action = 3  # right
    env.reset()
    before = env.game.env.pos
    env.step(2)
    assert env.game.env.pos == before  # repeats a no-op


def test_atari_is_the_recommended_one() -> None:
    with make("ALE/Pong-v5") as tasks:
        assert tasks.observation_space == gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        assert tasks.action_space == gymnasium.spaces.Discrete(6)
        obs = tasks.reset(0)
        assert obs.dtype == np.uint8
        assert (obs == obs[:, :1]).all()  # the stack begins with the first frame four times
        env: Any = tasks._envs.envs[0].unwrapped  # type: ignore[union-attr]
        assert env.ale.getFloat("repeat_action_probability") == 0.25
        assert env.ale.getInt("max_num_frames_per_episode") == 108_000
        began = env.ale.getEpisodeFrameNumber()
        assert 1 <= began <= 30  # no-ops
        transition, _ = tasks.step(np.array([0, 0]))
        assert env.ale.getEpisodeFrameNumber() == began + 4
        assert np.array_equal(transition.next_obs[:, :-1], transition.obs[:, 1:])


def test_an_atari_reward_is_the_games_own() -> None:
    """Not its sign: an alien pays up to 30 points."""
    with envs.make("ALE/SpaceInvaders-v5", 1, **PONG) as tasks:
        tasks.reset(1)
        rewards = np.concatenate([step[1] for step in play(tasks, 250, 0)])
    assert rewards.max() > 1


@pytest.mark.parametrize(
    ("id", "options", "said"),
    [
        ("MinAtar/Brekout-v1", {}, "did you mean MinAtar/Breakout-v1"),
        ("ALE/Pnog-v5", {}, "did you mean .*ALE/Pong-v5"),
        ("ALE/Pong-v5", {"frameskip": 4}, r"ALE/Pong-v5 cannot be made with \{'frameskip': 4\}"),
        ("MinAtar/Breakout-v1", {"lives": 3}, r"cannot be made with \{'lives': 3\}"),
    ],
)
def test_what_cannot_be_made_is_one_clear_line(id: str, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        envs.make(id, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("id", "package", "extra"),
    [("MinAtar/Breakout-v1", "minatar", "minatar"), ("ALE/Pong-v5", "ale_py", "atari")],
)
def test_a_missing_package_is_named_with_its_extra(
    id: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(name: str) -> Any:
        return None if name == package else find_spec(name)

    monkeypatch.setattr(arcade, "find_spec", without)
    said = rf"^{id} needs {package}, which is not installed: pip install 'chainrule\[{extra}\]'$"
    with pytest.raises(ValueError, match=said):
        envs.make(id)


def test_an_empty_folder_is_no_package(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "envpool").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    if find_spec("envpool").origin is None:  # type: ignore[union-attr]
        assert arcade.pooled("ALE/Pong-v5", 2) is None


def test_atari_in_envpool() -> None:
    pytest.importorskip("envpool")
    with envs.make("ALE/Breakout-v5", 3) as tasks, make("ALE/Breakout-v5", 3) as loop:
        assert isinstance(tasks._envs.env, EnvPool)  # type: ignore[union-attr]
        assert tasks.observation_space == loop.observation_space
        assert tasks.action_space == loop.action_space
        began, found = tasks.reset(3), play(tasks, 200, 0)
        ended = sum(len(step[-1]) for step in found)
        assert ended == sum(int((~step[5]).sum()) for step in found) > 0
        assert np.array_equal(tasks.reset(3), began)
        assert equal(play(tasks, 200, 0), found)
        with pytest.warns(RestoreWarning, match="3 of 3"):
            tasks.load_state_dict(tasks.state_dict())
