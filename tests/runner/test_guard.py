"""What a run does when its updates are not finite: post-mortems, stopping, rolling back."""

import json
from types import SimpleNamespace
from typing import Any, cast

import gymnasium
import numpy as np
import pytest

from agents import Callback, Checkpoint, StreamQ, StreamSARSA, train
from agents.agent import AgentConfig
from agents.core.files import CheckpointError
from agents.runner import postmortem
from agents.runner.guard import KEPT, ROLLBACKS, Guard
from envs.vector import VectorEnv
from tests.runner.fakes import Tiny, weights


class Spoiled(gymnasium.Wrapper):
    """Rewards are nan from one step on, for a while."""

    def __init__(self, first, count):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.bad = range(first, first + count)
        self.at = 0

    def step(self, action):
        obs, reward, *rest = self.env.step(action)
        self.at += 1
        return obs, np.nan if self.at in self.bad else reward, *rest


def spoiled(first, count):
    tasks = VectorEnv([Spoiled(first, count)])
    return Tiny(tasks.observation_space, tasks.action_space, AgentConfig()), tasks


def run(tmp_path, first, count, steps=400, **options):
    agent, tasks = spoiled(first, count)
    checkpoint = Checkpoint(tmp_path, every=16)
    guard = Guard(tmp_path, checkpoint=checkpoint, **options)
    return guard, train(agent, tasks, steps, [guard, checkpoint])


def test_single_bad_updates_are_survived_and_the_first_are_kept(tmp_path):
    agent, tasks = spoiled(0, 0)
    guard = Guard(tmp_path, limit=2)
    update, calls = agent.update, []

    def every_other_badly(batch):
        calls.append(batch)
        return agent.spoil(batch) if len(calls) % 2 else update(batch)

    agent.spoil = lambda batch: update(
        type(batch)(
            batch.obs,
            batch.action,
            batch.reward * np.nan,
            batch.next_obs,
            batch.terminated,
            batch.truncated,
            batch.valid,
        )
    )
    agent.update = every_other_badly
    done = train(agent, tasks, 400, [guard])
    assert done.finished
    assert guard.gave_up == ""
    assert guard.written == KEPT == len(postmortem.folders(tmp_path))
    assert agent.learner.skipped == (len(calls) + 1) // 2


def test_too_many_in_a_row_stop_the_run_so_that_it_can_be_resumed(tmp_path):
    guard, done = run(tmp_path, 161, 10**6, limit=4)
    assert (done.agent.steps, done.finished) == (160 + 4 * 16, False)
    assert guard.gave_up.startswith("4 updates of tiny in a row were not finite, the last in")
    assert "loss term 'error'" in guard.gave_up
    assert f"python scripts/examine.py {tmp_path} --replay" in guard.gave_up
    assert (tmp_path / "checkpoints" / "LATEST").read_text().startswith("224 ")
    assert weights(done.agent).isfinite().all()


def test_without_a_limit_it_goes_on_for_ever(tmp_path):
    guard, done = run(tmp_path, 33, 10**6, limit=0)
    assert done.finished
    assert guard.in_a_row == {"tiny": (400 - 32) // 16}


def test_a_rollback_puts_the_weights_back_and_halves_the_learning_rate(tmp_path):
    guard, done = run(tmp_path, 161, 48, limit=3, action="rollback")
    learner = done.agent.learner
    assert done.finished
    assert guard.rollbacks == 1
    assert learner.lr == AgentConfig().optim.lr / 2
    assert learner.skipped == 3
    assert learner.updates == 400 // 16 - 3
    assert done.agent.steps == 400
    assert learner.env_steps == 400


def test_weights_are_those_of_the_checkpoint_after_a_rollback(tmp_path):
    agent, tasks = spoiled(161, 48)
    checkpoint = Checkpoint(tmp_path, every=96)
    guard = Guard(tmp_path, 3, "rollback", checkpoint)
    seen = []

    class Watch(Guard):
        def stepped(self, run, transition):
            seen.append((run.agent.steps, weights(run.agent).clone()))

    train(agent, tasks, 208, [guard, Watch(tmp_path / "other"), checkpoint])
    at = dict(seen)
    assert at[207].equal(at[160])
    assert at[208].equal(at[96])  # not of 192, in the middle of the bad ones
    assert not at[96].equal(at[160])
    assert not checkpoint.held


@pytest.mark.parametrize("cls", [StreamQ, StreamSARSA])
def test_of_episodes_that_are_over_a_rollback_brings_nothing_back(tmp_path, cls):
    tasks = VectorEnv([Spoiled(65, 5)])
    agent = cls(tasks.observation_space, tasks.action_space, cls.Config())
    checkpoint = Checkpoint(tmp_path, every=30)
    guard = Guard(tmp_path, 3, "rollback", checkpoint)
    before: dict[int, Any] = {}
    after: list[Any] = []

    class Watch(Callback):
        def stepped(self, run, transition):
            returns, traces = run.agent.reward_scaler.returns, run.agent.traces.by_env
            if not guard.rollbacks:
                before[run.agent.steps] = returns.copy(), dict(traces)
            elif not after:
                after.extend((returns.copy(), dict(traces)))

    train(agent, tasks, 80, [guard, Watch(), checkpoint])
    assert guard.rollbacks == 1
    assert after[0] == before[64][0] != before[60][0]
    assert before[60][1]
    assert not after[1]


def test_the_way_back_stays_open_while_any_learner_fails(tmp_path):
    checkpoint = Checkpoint(tmp_path, every=16)
    guard = Guard(tmp_path, 3, "rollback", checkpoint)
    learners = {name: SimpleNamespace(name=name) for name in ("critic", "actor")}
    run = SimpleNamespace(batch=None)
    held = []
    for name, skipped in (("critic", False), ("actor", True), ("critic", False), ("actor", False)):
        step = SimpleNamespace(skipped=skipped, nonfinite="")
        guard.learned(cast(Any, run), cast(Any, learners[name]), cast(Any, step))
        held.append(checkpoint.held)
    assert held == [False, True, True, False]
    stopping = Guard(tmp_path, 3, "stop", checkpoint)
    bad = SimpleNamespace(skipped=True, nonfinite="")
    stopping.learned(cast(Any, run), cast(Any, learners["actor"]), cast(Any, bad))
    assert not checkpoint.held


@pytest.mark.parametrize("first", [17, 33])
def test_a_run_that_goes_on_failing_is_stopped_after_some_rollbacks(tmp_path, first):
    guard, done = run(tmp_path, first, 10**6, limit=2, action="rollback")
    assert not done.finished
    assert guard.rollbacks == ROLLBACKS
    assert f"after {ROLLBACKS} rollbacks" in guard.gave_up


def test_without_a_checkpoint_a_rollback_stops(tmp_path):
    agent, tasks = spoiled(1, 10**6)
    checkpoint = Checkpoint(tmp_path, every=0)
    guard = Guard(tmp_path, 2, "rollback", checkpoint)
    done = train(agent, tasks, 400, [guard, checkpoint])
    assert not done.finished
    assert "there is no checkpoint to go back to" in guard.gave_up


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"limit": -1}, "limit is -1: use 0 or more"),
        ({"action": "pray"}, "action is 'pray': use stop or rollback"),
        ({"action": "rollback"}, "a rollback needs the run's Checkpoint"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, options, what):
    with pytest.raises(ValueError, match=what):
        Guard(tmp_path, **options)


def test_its_counters_are_resumed():
    guard = Guard("x")
    guard.in_a_row, guard.written, guard.rollbacks = {"a": 2}, 1, 2
    other = Guard("x")
    other.load_state_dict(guard.state_dict())
    assert other.state_dict() == guard.state_dict()


def test_a_report_says_where_in_the_batch_it_went_wrong(tmp_path):
    run(tmp_path, 165, 2, limit=4)
    (folder,) = postmortem.folders(tmp_path)
    report = postmortem.read_report(folder)
    reward = report["batch"]["reward"]
    assert (reward["shape"], reward["not_finite"]) == ([16, 1], 2)
    assert reward["first"] == [4, 0]
    assert reward["range"] == [1.0, 1.0]
    assert report["inputs"]["1"] == reward
    assert report["nonfinite"].startswith("loss term 'error', layer ")
    assert (report["step"], report["update"], report["grad_norm"]) == (176, 10, "nan")


def test_a_postmortem_that_is_not_whole_is_refused(tmp_path):
    _, done = run(tmp_path, 165, 2, limit=4)
    (folder,) = postmortem.folders(tmp_path)
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(report | {"loss_function": "__class__"}))
    with pytest.raises(CheckpointError, match="no method of the agent"):
        postmortem.replay(folder, done.agent)
    (folder / "state.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="truncated"):
        postmortem.replay(folder, done.agent)
    (folder / "report.json").unlink()
    with pytest.raises(CheckpointError, match="holds no post-mortem"):
        postmortem.replay(folder, done.agent)
    assert postmortem.folders(tmp_path) == []
