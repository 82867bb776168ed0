"""Hindsight against the episodes as they were: which goals, which rewards, what is stored when."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

import envs
from agents import (
    DQN,
    PPO,
    BootstrappedDQN,
    Callback,
    Checkpoint,
    DQNConfig,
    ExpectedSARSA,
    NetworkConfig,
    OptimConfig,
    PPOConfig,
    evaluate,
    train,
)
from agents.core.files import join_state, split_state
from agents.memory import Hindsight
from agents.memory.stream import FIELDS
from agents.runner.train import introduce
from envs.transition import Transition
from envs.vector import VectorEnv
from tests.contract.support import bits, small, updates

ROOM = 64


def judge(achieved: np.ndarray, desired: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reached = (achieved == desired).all(axis=-1)
    return np.where(reached, 0.0, -1.0), reached


def memory(goals: int = 4, capacity: int = ROOM, **options: Any) -> Hindsight:
    """Observations (where, achieved, desired); what is achieved is 1000 times where one is."""
    made = Hindsight(
        *(capacity, 32, 1.0, 0, np.random.default_rng(0)),
        obs_size=3,
        goals=goals,
        achieved=slice(1, 2),
        desired=slice(2, 3),
        unstored=np.asarray,
        **options,
    )
    made.judge = judge
    return made


def walk(*lengths: int, first: int = 0, last_done: bool = True) -> list[Transition]:
    """Two environments, one in front of the other by 500; episodes of so many steps each."""
    steps, at = [], first
    for number, length in enumerate(lengths):
        for step in range(length):
            where = np.array([at + step, at + step + 500])
            obs = np.stack([where, 1000 * where, np.full(2, -7)], axis=1).astype(np.float32)
            ends = step == length - 1 and (last_done or number < len(lengths) - 1)
            steps.append(
                Transition(
                    obs,
                    np.array([0, 1]),
                    np.full(2, -1.0, np.float32),
                    obs + np.array([1, 1000, 0], np.float32),
                    np.zeros(2, bool),
                    np.full(2, ends),
                    np.ones(2, bool),
                )
            )
        at += length + 10  # the next episode begins elsewhere
    return steps


@pytest.mark.parametrize("once", [False, True])
def test_goals_come_from_later_in_the_episode_and_rewards_follow_them(
    once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if once:
        monkeypatch.setattr("agents.memory.replay.ONCE_FROM", 1)
    replay = memory(4)
    for step in walk(5, 3, 9):
        replay.add(step)
    episodes = [range(5), range(15, 18), range(28, 37)]
    seen, relabelled, total = Counter[int](), 0, 0
    for _ in range(300):
        batch = replay.sample(replay._uniform())
        total += len(batch.reward)
        rows = zip(batch.obs, batch.next_obs, batch.reward, batch.terminated, strict=True)
        for obs, next_obs, reward, terminated in rows:
            at, achieved, goal = (int(x) for x in next_obs)
            assert int(obs[2]) == goal
            assert int(obs[0]) == at - 1
            assert achieved == 1000 * at
            if goal == -7:
                assert (reward, terminated) == (-1.0, False)
                continue
            relabelled += 1
            home = next(e for e in episodes if (at - 1) % 500 in e)
            left = (home.stop - (at - 1) % 500) - 1
            ahead = goal // 1000 - at
            assert 0 <= ahead <= left
            assert (reward, bool(terminated)) == ((0.0, True) if ahead == 0 else (-1.0, False))
            if left == 8:
                seen[ahead] += 1
    assert relabelled / total == pytest.approx(0.8, abs=0.02)
    expected = sum(seen.values()) / 9  # each of the steps that are left is as likely
    assert sorted(seen) == list(range(9))
    assert all(abs(count - expected) < 5 * expected**0.5 for count in seen.values())


def test_the_stored_transition_is_not_changed_by_its_batches() -> None:
    replay = memory(4)
    for step in walk(6):
        replay.add(step)
    for _ in range(20):
        replay.sample(replay._uniform())
    assert (replay.rows(0, 12)["obs"][:, 2] == -7).all()
    assert (replay.rows(0, 12)["reward"] == -1).all()


def test_an_episode_is_stored_and_counts_once_it_has_ended() -> None:
    replay, counts = memory(), []
    for step in walk(4, 3):
        replay.add(step)
        counts.append((len(replay), replay.due))
    assert counts == [(0, 0)] * 3 + [(8, 8)] * 3 + [(14, 14)]


def test_what_is_cut_or_followed_by_a_reset_has_ended_too() -> None:
    replay = memory()
    for step in walk(4, last_done=False):
        replay.add(step)
    assert len(replay) == 0
    replay.cut(np.array([True, False]))
    assert len(replay) == 4
    replay.add(replace(step, valid=np.zeros(2, bool)))
    assert len(replay) == 8
    assert replay.rows(0, 8)["left"].tolist() == [3, 2, 1, 0] * 2


@pytest.mark.parametrize("told", [True, False], ids=["cut", "add"])
@pytest.mark.parametrize("others", [1, 3])
def test_of_other_environments_no_episode_goes_on_and_none_is_lost(others: int, told: bool) -> None:
    replay = memory()
    for step in walk(4, last_done=False):
        replay.add(step)
    if told:
        replay.cut(np.ones(others, bool))
    else:
        columns = {field: getattr(step, field)[np.arange(others) % 2] for field in FIELDS}
        replay.add(Transition(**columns))
    assert replay.rows(0, 8)["left"].tolist() == [3, 2, 1, 0] * 2
    assert len(replay) == 8


def test_the_ring_may_be_full_and_its_oldest_episode_half_overwritten() -> None:
    replay = memory(9, capacity=20)
    for step in walk(*[7] * 9):
        replay.add(step)
    for _ in range(50):
        batch = replay.sample(replay._uniform())
        at, goal = batch.next_obs[:, 0], batch.next_obs[:, 2] / 1000
        assert ((batch.next_obs[:, 2] == -7) | ((goal >= at) & (goal < at + 7))).all()


def test_a_saved_memory_goes_on_bit_for_bit() -> None:
    steps = walk(5, 3, 9, 4, 6)
    replay, other = memory(), memory()
    for step in steps[:14]:  # in the midst of an episode
        replay.add(step)
    arrays, state = split_state(replay.state_dict())
    other.restore(0, replay.rows(0, replay.added))
    other.load_state_dict(join_state(arrays, json.loads(json.dumps(state))))
    for step in steps[14:]:
        replay.add(step)
        other.add(step)
    assert (len(replay), replay.due) == (len(other), other.due)
    for one, two in zip(replay.batches(), other.batches(), strict=True):
        assert (one.obs == two.obs).all()
        assert (one.reward == two.reward).all()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="n_step is 3: with hindsight, use 1"):
        memory(n_step=3)
    replay = memory()
    replay.judge = None
    for step in walk(3):
        replay.add(step)
    with pytest.raises(ValueError, match=r"set agent\.memory\.judge"):
        next(replay.batches())
    goals, poles = envs.make("chainrule/BitFlip-v0", 1), envs.make("CartPole-v1", 1)
    with pytest.raises(ValueError, match="no achieved_goal and desired_goal: leave it 0"):
        DQN(poles.observation_space, poles.action_space, DQNConfig(hindsight=4))
    for achieved in (spaces.Box(-5, 5, (1,)), spaces.Discrete(3), spaces.Discrete(3, start=1)):
        for desired in (spaces.Box(-5, 5, (3,)), spaces.Discrete(4)):
            space = spaces.Dict({"achieved_goal": achieved, "desired_goal": desired})
            with pytest.raises(
                ValueError, match=r"achieved_goal is .* goals of one space, or leave"
            ):
                DQN(space, spaces.Discrete(2), DQNConfig(hindsight=4))
    with pytest.raises(ValueError, match="hindsight is 4, but ppo has no replay: leave it 0"):
        PPO(goals.observation_space, goals.action_space, PPOConfig(hindsight=4))
    with pytest.raises(ValueError, match="clip_reward is True: use False with hindsight"):
        DQNConfig(hindsight=4, clip_reward=True)


def test_rewards_in_the_real_task_are_those_that_the_goal_would_have_paid() -> None:
    with envs.make("chainrule/BitFlip-v0", 3, bits=4) as tasks:
        config = DQNConfig(hindsight=4, learning_starts=0, batch_size=64)
        agent = DQN(tasks.observation_space, tasks.action_space, config)
        introduce(agent, tasks)
        actor = agent.actor(3)
        obs = tasks.reset(0)
        for _ in range(60):
            transition, obs = tasks.step(actor.act(obs)[0])
            agent.observe(transition)
        batch = next(agent.memory.batches())
        achieved, desired, seen = batch.next_obs.split(4, dim=1)
        assert (achieved == seen).all()
        assert (batch.obs[:, 4:8] == desired).all()
        reached = (achieved == desired).all(dim=1)
        assert (batch.terminated == reached).all()
        assert (batch.reward == -1.0 + reached.float()).all()
        assert 0.1 < reached.float().mean() < 0.9


class Wander(gymnasium.Env[Any, Any]):
    """Episodes of eight steps, each to a goal at random; the goals that came are kept."""

    action_space = spaces.Discrete(2)

    def __init__(self, goal: spaces.Space[Any]) -> None:
        self.observation_space = spaces.Dict({"achieved_goal": goal, "desired_goal": goal})
        self.goal = goal
        self.came: list[Any] = []

    def seen(self) -> Any:
        return {"achieved_goal": self.goal.sample(), "desired_goal": self.desired}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.desired, self.steps = self.goal.sample(), 0
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        seen = self.seen()
        self.came.append(np.asarray(seen["achieved_goal"]).tolist())
        return seen, 0.0, False, self.steps == 8, {}


GOALS: list[spaces.Space[Any]] = [
    spaces.Discrete(5, start=3),
    spaces.MultiDiscrete(np.array([[3, 2], [4, 2]]), start=np.array([[1, 0], [-2, 0]])),
    spaces.MultiBinary(3),
    spaces.Box(-5, 5, (2, 2)),
    spaces.Box(0, 255, (3,), np.uint8),
    spaces.Box(0.0, 1.0, (3,), dtype=np.bool_),
]


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_goals_are_judged_as_the_task_gives_them(goal: Any) -> None:
    """In their own numbers, types and shapes, however they are stored."""
    judged: list[Any] = []

    def spy(achieved: np.ndarray, desired: np.ndarray) -> Any:
        judged.extend((achieved, desired))
        return np.zeros(len(achieved)), None

    goal.seed(0)
    env = Wander(goal)
    with VectorEnv([env]) as tasks:
        config = DQNConfig(hindsight=4, learning_starts=0, batch_size=32)
        agent: Any = DQN(tasks.observation_space, tasks.action_space, config)
        agent.memory.judge = spy
        tasks.reset(0)
        for _ in range(80):
            agent.observe(tasks.step(np.zeros(1, int))[0])
        next(agent.memory.batches())
    assert len(judged) == 2
    for goals in judged:
        assert goals.dtype == goal.dtype
        assert goals in batch_space(goal, len(goals))
        assert all(own in env.came for own in goals.tolist())


def test_goals_in_hindsight_are_told_apart_when_normalised() -> None:
    """Though the task sets one goal alone: those that were achieved count among what is seen."""
    with VectorEnv([Wander(spaces.Box(-5, 5, (2,)))]) as tasks:
        config = DQNConfig(hindsight=4, learning_starts=0, batch_size=256, normalize_obs=True)
        agent: Any = DQN(tasks.observation_space, tasks.action_space, config)
        agent.memory.judge = lambda achieved, desired: (np.zeros(len(achieved)), None)
        fixed = np.array([[1.0, -4.0]], np.float32)
        tasks.reset(0)
        for _ in range(200):
            step = tasks.step(np.zeros(1, int))[0]
            for obs in (step.obs, step.next_obs):
                obs["desired_goal"] = fixed
            agent.observe(step)
        batch = next(agent.memory.batches())
        desired = agent.memory.desired
        goals, normal = batch.obs[:, desired], agent.normalized(batch.obs)[:, desired]
    assert normal.abs().max() < 5  # none is clipped, to 10
    assert len(normal.unique(dim=0)) == len(goals.unique(dim=0)) > 50


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, run: Any, transition: Any) -> None:
        if run.agent.steps >= self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("cls", [DQN, ExpectedSARSA, BootstrappedDQN])
def test_a_run_of_any_agent_with_a_replay_goes_on_bit_for_bit(cls: Any, tmp_path: Path) -> None:
    def play(name: str, *also: Callback) -> Any:
        with envs.make("chainrule/BitFlip-v0", 3, bits=5) as tasks:
            agent = small(cls, tasks, 3, hindsight=4, buffer_size=120)
            checkpoint = Checkpoint(tmp_path / name, every=50)
            train(agent, tasks, 400, [*also, checkpoint], restore=checkpoint.restore)
            return agent

    whole = play("whole")
    assert updates(whole) > 50
    for step in (137, 291):
        with pytest.raises(KeyboardInterrupt):
            play("broken", Stop(step))
    resumed = play("broken")
    assert bits(resumed.state_dict()) == bits(whole.state_dict())
    assert bits(resumed.memory.state_dict()) == bits(whole.memory.state_dict())


def test_hindsight_finds_goals_that_dqn_alone_does_not() -> None:
    """The first experiment of the paper, with 10 bits: 1 episode in 100 succeeds by chance."""

    def mean_return(hindsight: int) -> float:
        config = DQNConfig(
            hindsight=hindsight,
            gamma=0.98,
            epsilon_start=0.2,
            epsilon_steps=4_000,
            network=NetworkConfig((64,), activation="relu"),
            optim=OptimConfig(lr=2e-3),
        )
        with envs.make("chainrule/BitFlip-v0", 8, bits=10) as tasks:
            agent = DQN(tasks.observation_space, tasks.action_space, config, seed=0)
            train(agent, tasks, 5_000)
            return evaluate(agent, tasks, episodes=40, seed=1).mean

    assert mean_return(4) > -6
    assert mean_return(0) < -9
