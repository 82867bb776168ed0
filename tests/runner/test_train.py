"""The loop: what is called when, how a run ends, and that watching it changes nothing."""

from typing import Any

import gymnasium
import pytest
import torch

import envs
from agents import DQN
from agents.agent import AgentConfig
from agents.runner.callbacks import Evaluate
from agents.runner.checkpoint import Checkpoint
from agents.runner.evaluate import evaluate
from agents.runner.guard import Guard
from agents.runner.recorder import Recorder
from agents.runner.train import Callback, Run, SkippedWarning, train
from envs.vector import VectorEnv
from tests.runner.fakes import Scripted, Tiny, TinyReplay, weights


def start(cls=Tiny, num_envs=4, seed=3):
    tasks = envs.make("CartPole-v1", num_envs=num_envs)
    return cls(tasks.observation_space, tasks.action_space, AgentConfig(), seed), tasks


class Log(Callback):
    """Notes which hooks were called."""

    def __init__(self):
        self.calls = []

    def started(self, run):
        self.calls.append("started")

    def learned(self, run, learner, step):
        self.calls.append("learned")

    def updated(self, run, metrics):
        assert set(metrics) == {"mean_reward"}
        self.calls.append("updated")

    def stepped(self, run, transition):
        assert len(transition.reward) == run.envs.num_envs
        self.calls.append("stepped")

    def ended(self, run):
        self.calls.append("ended")

    def close(self):
        self.calls.append("close")


def test_the_hooks_are_called_in_order():
    agent, tasks = start()
    log = Log()
    run = train(agent, tasks, 32, [log])
    part = [*3 * ["stepped"], "learned", "updated", "stepped"]  # 16 transitions a rollout
    assert log.calls == ["started", *part, *part, "ended", "close"]
    assert agent.steps == 32
    assert run.finished
    assert run.stopped == ""
    assert all(learner.observer is None for learner in agent.learners.values())


def test_a_run_ends_where_its_steps_are_done():
    agent, tasks = start(num_envs=3)
    train(agent, tasks, 10)
    assert agent.steps == 12  # the first multiple of 3
    with pytest.raises(ValueError, match="the agent has seen 12"):
        train(agent, tasks, 12)
    train(agent, tasks, 13)
    assert agent.steps == 15


def test_all_callbacks_are_closed_in_their_order_whichever_fails():
    closed = []

    class Failing(Callback):
        def __init__(self, name):
            self.name = name

        def close(self):
            closed.append(self.name)
            if self.name == "b":
                raise OSError(self.name)

    agent, tasks = start()
    with pytest.raises(OSError, match="b"):
        train(agent, tasks, 16, [Failing("a"), Failing("b"), Failing("c")])
    assert closed == ["a", "b", "c"]


def test_a_second_training_meets_other_episodes_and_draws_other_actions():
    class Seen(Callback):
        def __init__(self):
            self.obs, self.actions = [], []

        def stepped(self, run, transition):
            self.obs.append(transition.obs.tolist())
            self.actions.append(transition.action.tolist())

    tasks = envs.make("CartPole-v1", num_envs=2)
    seen = []
    for _ in range(2):
        agent = DQN(tasks.observation_space, tasks.action_space)  # which acts at random at first
        for steps in (60, 120):
            seen.append(Seen())
            train(agent, tasks, steps, [seen[-1]])
    assert (seen[0].obs, seen[0].actions) == (seen[2].obs, seen[2].actions)
    assert (seen[1].obs, seen[1].actions) == (seen[3].obs, seen[3].actions)
    assert seen[0].obs[0] != seen[1].obs[0]
    assert seen[0].actions != seen[1].actions


def test_steps_must_be_positive():
    agent, tasks = start()
    with pytest.raises(ValueError, match="steps is 0"):
        train(agent, tasks, 0)


@pytest.mark.parametrize("steps", [float("nan"), 1000.5, "1000", None])
def test_steps_are_a_whole_number(steps):
    agent, tasks = start()
    with pytest.raises(TypeError, match=r"steps is .*: use a whole number"):
        train(agent, tasks, steps)


class Unpaid(gymnasium.RewardWrapper):
    """Pays None, as a reward function that forgot its `return` does."""

    def reward(self, reward):
        return None


def test_without_a_callback_that_watches_the_training_itself_tells_of_skipped_updates(tmp_path):
    tasks = VectorEnv([Unpaid(gymnasium.make("CartPole-v1"))])
    agent = Tiny(tasks.observation_space, tasks.action_space, AgentConfig())
    with pytest.warns(
        SkippedWarning, match=r"^4 updates of tiny were skipped, as not finite, and none made; "
    ):
        train(agent, tasks, 64)
    train(agent, tasks, 128, [Recorder(tmp_path)])  # which counts them in updates.csv
    assert agent.learners["tiny"].skipped == 8
    agent, tasks = start()
    train(agent, tasks, 64)  # and of good ones it says nothing
    assert agent.learners["tiny"].updates == 4


def test_intervals_that_would_show_at_the_end_are_refused_at_the_beginning(tmp_path):
    tasks = VectorEnv([Scripted(5)])
    with pytest.raises(ValueError, match="every is -1: use a number of steps, or 0 for never"):
        Evaluate(tasks, every=-1)
    with pytest.raises(
        ValueError, match="episodes is 0 and max_episode_steps 10000: use 1 or more"
    ):
        Evaluate(tasks, episodes=0)
    with pytest.raises(ValueError, match="every is -1: use a number of steps, or 0 for never"):
        Checkpoint(tmp_path, every=-1)


@pytest.mark.parametrize("kind", [Recorder, Checkpoint, Guard])
def test_a_folder_that_cannot_be_is_found_before_the_training(kind, tmp_path):
    (tmp_path / "file").touch()
    agent, tasks = start()
    with pytest.raises(OSError, match="file"):
        train(agent, tasks, 64, [kind(tmp_path / "file")])
    assert agent.steps == 0


def test_the_final_evaluation_is_known_of_a_run_that_is_called_again(tmp_path):
    found = []
    for _ in range(2):
        agent, tasks = start()
        evaluate, checkpoint = Evaluate(envs.make("CartPole-v1"), 8, 2), Checkpoint(tmp_path)
        run = train(agent, tasks, 32, [evaluate, checkpoint], restore=checkpoint.restore)
        assert run.finished
        assert evaluate.final is not None
        found.append(evaluate.final.returns.tolist())
    assert found[0] == found[1]


def test_what_is_no_vector_env_or_no_callback_is_refused():
    agent, tasks = start()
    single: Any = gymnasium.make("CartPole-v1")
    for use in (lambda: train(agent, single, 32), lambda: evaluate(agent, single)):
        with pytest.raises(TypeError, match=r"wrap them, VectorEnv\(env\)"):
            use()
    a_class: Any = Log
    with pytest.raises(TypeError, match="Log'> is not an instance of a Callback"):
        train(agent, tasks, 32, [a_class])
    name: Any = "CartPole-v1"
    with pytest.raises(TypeError, match=r"the environments are a str: .* use envs\.make\(id\)"):
        Evaluate(name, every=10)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"callbacks": Log()}, r"^callbacks is <.*Log object at .*>: give a list of them"),
        ({"callbacks": None}, "^callbacks is None: give a list of them, or leave it out$"),
        ({"restore": "ck"}, "^restore is 'ck': give a function, such as a Checkpoint's restore$"),
    ],
)
def test_what_is_no_list_of_callbacks_or_no_function_is_refused(given, said):
    agent, tasks = start()
    with pytest.raises(TypeError, match=said):
        train(agent, tasks, 32, **given)


def test_an_agent_for_other_spaces_is_refused():
    agent, _ = start()
    other = VectorEnv([Scripted(5)])
    for use in (
        lambda: train(agent, other, 32),
        lambda: train(agent, start()[1], 32, [Evaluate(other)]),  # not when it is due
        lambda: evaluate(agent, other),
    ):
        with pytest.raises(ValueError, match=r"the agent maps Box.* to Discrete\(2\), the env"):
            use()
    assert agent.steps == 0


def test_evaluations_do_not_step_the_environments_of_the_training():
    agent, tasks = start()
    with pytest.raises(ValueError, match="Evaluate was given the environments of the training"):
        train(agent, tasks, 32, [Evaluate(tasks, 8)])


class StopAt(Callback):
    def __init__(self, at, interrupted):
        self.at, self.interrupted = at, interrupted

    def stepped(self, run, transition):
        if run.agent.steps >= self.at:
            run.stop("enough", self.interrupted)
            run.stop("too late")


@pytest.mark.parametrize(
    ("at", "interrupted", "finished"),
    [(8, False, True), (8, True, False), (32, True, True)],
)
def test_a_callback_can_stop_a_run(at, interrupted, finished):
    agent, tasks = start()
    run = train(agent, tasks, 32, [StopAt(at, interrupted)])
    assert agent.steps == at
    assert run.stopped == "enough"
    assert run.finished is finished


def test_passed_holds_once_for_each_multiple():
    agent, tasks = start(num_envs=3)
    passed = []

    class Note(Callback):
        def stepped(self, run, transition):
            assert not run.passed(0)
            if run.passed(10):
                passed.append(agent.steps)

    train(agent, tasks, 40, [Note()])
    assert passed == [12, 21, 30, 42]


def test_an_error_closes_the_callbacks():
    agent, tasks = start()
    log = Log()

    class Break(Callback):
        def stepped(self, run, transition):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        train(agent, tasks, 32, [log, Break()])
    assert log.calls == ["started", "stepped", "close"]
    assert all(learner.observer is None for learner in agent.learners.values())


def test_callbacks_of_one_class_keep_their_own_state():
    class Count(Callback):
        def __init__(self, by):
            self.by, self.count = by, 0

        def stepped(self, run, transition):
            self.count += self.by

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    agent, tasks = start()
    run = train(agent, tasks, 32, [Count(1), Count(10)])
    state = run.state_dict()
    agent, tasks = start()
    tasks.reset(0)
    other = Run(agent, tasks, 32, [Count(1), Count(10)])
    other.load_state_dict(state)
    assert [callback.state_dict() for callback in other.callbacks] == [{"count": 8}, {"count": 80}]
    assert agent.steps == 32


def test_a_callback_may_appear_or_vanish_between_start_and_resume():
    agent, tasks = start()
    state = train(agent, tasks, 16, [Log()]).state_dict()
    agent, tasks = start()
    tasks.reset(0)
    Run(agent, tasks, 32).load_state_dict(state)
    assert agent.steps == 16


@pytest.mark.parametrize("cls", [Tiny, TinyReplay])
def test_watching_changes_no_weight(cls, tmp_path):
    def trained(*callbacks):
        agent, tasks = start(cls)
        train(agent, tasks, 200, callbacks)
        return weights(agent)

    alone = trained()
    recorder = Recorder(tmp_path, 1)
    evaluate = Evaluate(envs.make("CartPole-v1", num_envs=2), 20, 2)
    assert torch.equal(alone, trained(recorder, evaluate, Log()))


def test_the_run_ends_at_the_target_return():
    tasks = VectorEnv([Scripted(5)])
    agent = Tiny(tasks.observation_space, tasks.action_space)
    for target, steps in ((5.0, 20), (5.1, 40)):
        agent = Tiny(tasks.observation_space, tasks.action_space)
        evaluate = Evaluate(VectorEnv([Scripted(5)]), 20, 2, target_return=target)
        run = train(agent, tasks, 40, [evaluate])
        assert agent.steps == steps
        assert run.finished
        assert evaluate.final is not None
        assert evaluate.final.mean == 5.0
    assert run.stopped == ""


def test_training_again_truncates_what_the_first_training_left_unfinished():
    """Else a trace would run from one episode into another."""
    agent, tasks = start(num_envs=4)
    train(agent, tasks, 40)  # 16 transitions a rollout: 8 wait
    waiting = agent.memory.rows
    assert len(waiting) == 2
    Run(agent, tasks, 80)
    train(agent, tasks, 44)
    assert agent.memory.rows[1].done.all()
    assert [row.done.any() for row in agent.memory.rows] == [False, True, False]
    with envs.make("CartPole-v1", num_envs=3) as fewer:
        train(agent, fewer, 50)
    assert all(len(row.reward) == 3 for row in agent.memory.rows)
