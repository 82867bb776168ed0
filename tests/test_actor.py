"""What environments carry through an episode: begun anew at its end, kept over a checkpoint."""

from typing import Any

import numpy as np
import pytest

import envs
from agents import DQN, PPO, BootstrappedDQN, Callback, Run, train
from agents.runner.checkpoint import Checkpoint
from tests.contract.support import bits, small
from tests.runner.fakes import Tiny

OBS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
LONG: dict[str, Any] = {"exploration": "ez_greedy", "epsilon_end": 1.0, "duration_exponent": 1.01}


@pytest.fixture
def tasks():
    with envs.make("CartPole-v1", num_envs=4) as tasks:
        yield tasks


class Counting(Tiny):
    """Carries the number of the episode, counted over all environments, and acts by it."""

    def build(self):
        super().build()
        self.begun = 0

    def begin(self, count, explore, rng):
        self.begun += count
        return {"episode": np.arange(self.begun - count, self.begun)}

    def carry_on(self, obs, carried, explore, rng):
        return carried["episode"] % 2


def test_what_is_carried_begins_anew_where_an_episode_ended_and_only_there(tasks):
    actor = small(Counting, tasks).actor(4)
    for done, episode in (
        ([False, False, False, False], [0, 1, 2, 3]),
        ([False, True, False, True], [0, 4, 2, 5]),
        ([True, False, False, True], [6, 4, 2, 7]),
    ):
        actor.reset(np.array(done))
        assert actor.carried["episode"].tolist() == episode
        assert actor.act(OBS[:4])[0].tolist() == [number % 2 for number in episode]


def test_each_actor_and_each_call_of_act_carries_its_own(tasks):
    agent = small(Counting, tasks)
    one, two = agent.actor(2), agent.actor(3)
    assert agent.act(OBS[:5]).tolist() == [1, 0, 1, 0, 1]  # episodes 5 to 9
    one.reset(np.array([True, True]))
    assert one.carried["episode"].tolist() == [10, 11]
    assert two.carried["episode"].tolist() == [2, 3, 4]


@pytest.mark.parametrize("cls", [DQN, PPO])
def test_agents_that_need_nothing_carry_nothing(cls, tasks):
    actor = small(cls, tasks).actor(4)
    actor.act(OBS[:4])
    before = actor.rng.bit_generator.state
    actor.reset(np.ones(4, bool))
    assert actor.carried == {}
    assert actor.rng.bit_generator.state == before


def test_no_random_action_lasts_beyond_its_episode(tasks):
    """By far the most last for thousands of steps; a new one is drawn after an episode's end."""
    agent = small(DQN, tasks, **LONG)
    actor = agent.actor(50)
    first, _ = actor.act(OBS)
    lasting = actor.carried["left"] > 3
    assert lasting.sum() > 40
    for _ in range(3):
        again, _ = actor.act(OBS)
    np.testing.assert_array_equal(again[lasting], first[lasting])
    done = np.arange(50) % 2 == 0
    actor.reset(done)
    assert not actor.carried["left"][done].any()
    anew, _ = actor.act(OBS)
    kept = lasting & ~done
    np.testing.assert_array_equal(anew[kept], first[kept])
    assert set((anew != first)[done].tolist()) == {True, False}


@pytest.mark.parametrize("exploration", ["epsilon_greedy", "boltzmann", "ez_greedy"])
def test_an_evaluation_explores_in_no_way(tasks, exploration):
    agent = small(DQN, tasks, exploration=exploration)
    actor = agent.actor(50, explore=False)
    before = actor.rng.bit_generator.state
    for _ in range(3):
        np.testing.assert_array_equal(actor.act(OBS)[0], agent.act(OBS))
    assert actor.rng.bit_generator.state == before


def test_boltzmann_is_asked_with_the_temperature(tasks):
    cold = small(DQN, tasks, exploration="boltzmann", temperature=1e-9)
    np.testing.assert_array_equal(cold.actor(50).act(OBS)[0], cold.act(OBS))
    hot = small(DQN, tasks, exploration="boltzmann", temperature=1e9)
    assert 10 < np.count_nonzero(hot.actor(50).act(OBS)[0] != hot.act(OBS)) < 40


class Stop(Callback):
    """Interrupts the run in a step, so that it can be resumed."""

    def __init__(self, step):
        self.step = step

    def stepped(self, run, transition):
        if run.agent.steps >= self.step:
            run.stop("enough", interrupted=True)


CARRYING = [
    (DQN, {"exploration": "ez_greedy", "epsilon_end": 0.5}),
    (BootstrappedDQN, {"mask_probability": 0.5}),
]


@pytest.mark.parametrize(("cls", "settings"), CARRYING, ids=[c.name for c, _ in CARRYING])
def test_a_run_that_was_interrupted_goes_on_with_what_was_carried(cls, settings, tmp_path):
    def play(folder, *also):
        with envs.make("CartPole-v1", num_envs=3) as tasks:
            agent = small(cls, tasks, 7, **settings)
            checkpoint = Checkpoint(folder)
            run = train(agent, tasks, 400, [*also, checkpoint], restore=checkpoint.restore)
            return bits(run.state_dict() | {"callbacks": {}})

    whole = play(tmp_path / "whole")
    for step in (151, 277):
        play(tmp_path / "broken", Stop(step))
    assert play(tmp_path / "broken") == whole


def test_where_an_environment_cannot_be_put_back_its_episode_is_a_new_one(tasks, monkeypatch):
    run = Run(small(Counting, tasks), tasks, 100)
    tasks.reset(0)
    restored = np.array([True, False, True, True])
    monkeypatch.setattr(tasks, "load_state_dict", lambda state: restored)
    run.load_state_dict(run.state_dict())
    assert run.actor.carried["episode"].tolist() == [0, 4, 2, 3]
