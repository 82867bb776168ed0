"""An evaluation is fair to long episodes, bounded, reproducible, and changes nothing."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from agents.agent import AgentConfig
from agents.core.files import split_state
from agents.runner.evaluate import Evaluation, evaluate
from envs.vector import VectorEnv
from tests.runner.fakes import Scripted, Tiny


def scripted(*lengths):
    tasks = VectorEnv([Scripted(length) for length in lengths])
    return Tiny(tasks.observation_space, tasks.action_space), tasks


def test_short_episodes_are_not_counted_more_often():
    agent, tasks = scripted(1, 10)
    evaluation = evaluate(agent, tasks, 6)
    assert evaluation.returns.tolist() == [1, 10, 1, 10, 1, 10]
    assert evaluation.lengths.tolist() == [1, 10, 1, 10, 1, 10]
    assert evaluation.mean == 5.5
    assert 0 < evaluation.seconds < 5
    assert (evaluation.min, evaluation.max, evaluation.std) == (1.0, 10.0, 4.5)


@pytest.mark.parametrize("episodes", [1, 2, 3, 4, 7])
def test_exactly_the_episodes_asked_for_are_played(episodes):
    agent, tasks = scripted(2, 5, 3)
    assert evaluate(agent, tasks, episodes).lengths.tolist() == [2, 5, 3, 2, 5, 3, 2][:episodes]


def test_an_episode_that_never_ends_counts_as_it_stands():
    agent, tasks = scripted(3, 10**9)
    evaluation = evaluate(agent, tasks, 4, max_episode_steps=20)
    assert evaluation.lengths.tolist() == [3, 20, 3, 20]
    assert evaluation.returns.tolist() == [3, 20, 3, 20]


@pytest.mark.parametrize(("episodes", "bound"), [(0, 5), (5, 0)])
def test_nothing_to_play_is_an_error(episodes, bound):
    agent, tasks = scripted(3)
    with pytest.raises(ValueError, match="use 1 or more"):
        evaluate(agent, tasks, episodes, max_episode_steps=bound)


@pytest.mark.parametrize(("name", "value"), [("episodes", "2"), ("max_episode_steps", 5.0)])
def test_what_is_no_whole_number_of_episodes_or_steps_is_refused(name, value):
    agent, tasks = scripted(3)
    with pytest.raises(TypeError, match=rf"^{name} is {value!r}: use a whole number$"):
        evaluate(agent, tasks, **{name: value})
    assert evaluate(agent, tasks, np.int64(2)).episodes == 2  # type: ignore[arg-type]


def cartpole(num_envs):
    tasks = VectorEnv([gymnasium.make("CartPole-v1") for _ in range(num_envs)])
    return Tiny(tasks.observation_space, tasks.action_space, AgentConfig(), seed=1), tasks


def test_observations_within_other_bounds_are_no_others():
    class Bounded(Scripted):
        observation_space = spaces.Box(0, 5, (1,), np.float64)

    agent, tasks = Tiny(Scripted.observation_space, Scripted.action_space), VectorEnv([Bounded(5)])
    assert evaluate(agent, tasks, episodes=2).mean == 5.0


def test_an_episode_follows_from_its_seed_alone():
    agent, tasks = cartpole(1)
    one = evaluate(agent, tasks, 7, seed=5)
    agent, tasks = cartpole(3)
    evaluate(agent, tasks, 2, seed=77)  # whatever was played before
    three = evaluate(agent, tasks, 7, seed=5)
    assert one.returns.tolist() == three.returns.tolist()
    assert len(set(one.returns)) > 1
    assert evaluate(agent, tasks, 7, seed=6).returns.tolist() != one.returns.tolist()


class Valued(Tiny):
    """Expects ten times what it sees."""

    def estimate(self, obs):
        return 10.0 * obs[:, 0]


@pytest.mark.parametrize("clip", [False, True])
def test_estimates_are_beside_the_discounted_return_that_came_of_them(clip):
    tasks = VectorEnv([Scripted(3), Scripted(10**9)])
    spaces = tasks.observation_space, tasks.action_space
    agent = Valued(*spaces, AgentConfig(gamma=0.5, clip_reward=clip))
    found = evaluate(agent, tasks, 2, max_episode_steps=4)
    assert found.estimates is not None
    assert found.estimates.tolist() == [0.0, 0.0]
    ended, cut = (
        1 + 0.5 + 0.25,
        1 + 0.5 + 0.25 + 0.125 + 0.5**4 * 40.0,
    )  # what it sees after 4 steps
    assert found.discounted is not None
    assert found.discounted.tolist() == [ended, cut]
    assert found.discounted_return == (ended + cut) / 2
    assert found.value_estimate == 0.0


def test_a_time_limit_is_no_end_of_what_is_expected():
    tasks = VectorEnv([gymnasium.wrappers.TimeLimit(Scripted(10**9), 2)])
    agent = Valued(tasks.observation_space, tasks.action_space, AgentConfig(gamma=0.5))
    assert evaluate(agent, tasks, 1).discounted_return == 1 + 0.5 + 0.25 * 20.0


def test_without_a_critic_there_is_no_estimate():
    agent, tasks = scripted(3)
    assert np.isnan(evaluate(agent, tasks, 1).value_estimate)
    assert np.isnan(evaluate(agent, tasks, 1).discounted_return)


def test_the_agent_is_left_as_it_was():
    agent, tasks = cartpole(2)
    before, json_before = split_state(agent.state_dict())
    evaluate(agent, tasks, 3)
    after, json_after = split_state(agent.state_dict())
    assert json_before == json_after
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert agent.steps == 0


def test_its_line():
    evaluation = Evaluation(np.array([400.0, 500.0]), np.array([400, 500]))
    assert str(evaluation) == "evaluation: mean_return=450.00 std=50.00 episodes=2"
