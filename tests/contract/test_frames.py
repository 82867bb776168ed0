"""An agent that keeps each frame once learns as it does from whole stacks."""

from dataclasses import fields

import gymnasium
import pytest
from gymnasium.wrappers import FrameStackObservation

from agents import AGENTS, train
from envs.vector import VectorEnv
from tests.contract.support import small, weights

STACKING = [cls for cls in AGENTS.values() if "frames" in {f.name for f in fields(cls.Config)}]


def stacked():
    return VectorEnv([FrameStackObservation(gymnasium.make("CartPole-v1"), 3) for _ in range(2)])


def learned(cls, frames):
    with stacked() as tasks:
        agent = small(cls, tasks, frames=frames, buffer_size=2000)
        train(agent, tasks, 300)
    return agent


def test_the_agents_that_value_actions_from_a_replay_have_the_setting():
    names = {"dqn", "c51", "qrdqn", "iqn", "rainbow", "expected_sarsa", "bootstrapped_dqn"}
    assert {cls.name for cls in STACKING} == names


@pytest.mark.parametrize("cls", STACKING, ids=lambda cls: cls.name)
def test_frames_kept_once_are_learned_from_bit_for_bit_as_whole_stacks(cls):
    once, whole = learned(cls, 3), learned(cls, 1)
    assert once.learner.updates > 50
    assert weights(once).equal(weights(whole))
    held, plain = (agent.memory.rows(0, 100)["obs"].nbytes for agent in (once, whole))
    assert 3 * held == plain


@pytest.mark.parametrize("cls", STACKING, ids=lambda cls: cls.name)
def test_a_replay_without_room_for_a_stack_of_each_environment_is_refused(cls):
    with stacked() as tasks:
        agent = small(cls, tasks, frames=3, buffer_size=8, batch_size=8, learning_starts=0)
        tasks = VectorEnv(
            [FrameStackObservation(gymnasium.make("CartPole-v1"), 3) for _ in range(3)]
        )
        with pytest.raises(ValueError, match=r"^buffer_size is 8: use 9 or more, for stacks of 3"):
            train(agent, tasks, 100)
