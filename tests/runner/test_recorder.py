"""What the recorder writes, over which intervals, and how it goes on after a restart."""

import json
import math
import time
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from agents.core.files import CheckpointError, join_state, split_state
from agents.core.gradients import Statistics
from agents.core.learner import Step
from agents.runner import recorder as recorders
from agents.runner.checkpoint import Checkpoint
from agents.runner.columns import GRADIENTS, UPDATES
from agents.runner.evaluate import Evaluation
from agents.runner.recorder import Recorder
from agents.runner.results import read_run
from agents.runner.table import Table
from agents.runner.train import Callback, train
from envs.transition import Transition
from envs.vector import VectorEnv
from tests.runner.fakes import Scripted, Tiny, rows


class Records:
    """Stands for a learner's GradientStatistics: a record is its gradient norm, for two layers."""

    def summaries(self, groups):
        return [self.summary(records) for records in groups]

    def summary(self, records):
        mean = float(np.mean([record[1] for record in records]))
        columns = {"grad_norm": [mean, 2 * mean], "dormant": [0.5, math.nan]}
        samples = {"td_error_mean": mean, "value_max": 9.0}
        return Statistics(("trunk.0", "head"), columns, 0.25, math.nan, samples)


def moved(i, terminated=True):
    """Three environments after step i."""
    ended = np.array([terminated, False, False])
    obs = np.full((3, 1), i, np.float32)
    action = np.array([0, 1, i % 2])
    reward = np.array([i, -2.0 * i, 0.0], np.float32)
    return Transition(obs, action, reward, obs, ended, ~ended, np.ones(3, bool))


def make_run(*names, steps=10**9):
    """What a recorder looks at of a run."""
    learners = {name: SimpleNamespace(name=name, statistics=Records()) for name in names}
    agent: Any = Tiny(spaces.Box(-1, 1, (1,)), spaces.Discrete(2))
    agent.learners = learners
    tasks = SimpleNamespace(episodes=[])
    return SimpleNamespace(
        agent=agent,
        envs=tasks,
        steps=steps,
        restoring=False,
        finished=True,
        failed=False,
        to_json=dict,
    )


def step(update, norm=1.0, terms=None, scalars=None, **more):
    terms = {"value": 2.0 * norm} if terms is None else terms
    return Step(update, sum(terms.values()), terms, scalars or {}, norm, 0.1, **more)


@pytest.fixture
def started(tmp_path):
    """started(log_every, *learners) -> a recorder in tmp_path, and the run it records."""
    opened = []

    def start(log_every=2, *names):
        recorder, run = Recorder(tmp_path, log_every), make_run(*(names or ("a",)))
        recorder.started(run)
        opened.append(recorder)
        return recorder, run

    yield start
    for recorder in opened:
        recorder.close()


def learn(recorder, run, name, *steps):
    for one in steps:
        recorder.learned(run, run.agent.learners[name], one)


def test_a_row_is_the_mean_over_its_interval_and_no_spike_is_lost(started, tmp_path):
    recorder, run = started(4)
    run.agent.steps = 80
    bad = step(2, math.inf, {"value": math.nan}, skipped=True, nonfinite="loss term 'value'")
    learn(recorder, run, "a", step(1, 1.0), step(2, 8.0, clipped=True), bad, step(3, 3.0))
    assert rows(tmp_path / "updates.csv") == []  # the agent's metrics are still to come
    recorder.updated(run, {"kl": 0.5})
    (row,) = rows(tmp_path / "updates.csv")
    assert row == {
        "step": "80",
        "update": "3",
        "learner": "a",
        "loss": "8.0",
        "grad_norm": "4.0",
        "grad_norm_max": "8.0",
        "clipped": "1",
        "grad_clip_fraction": repr(1 / 3),
        "skipped": "1",
        "lr": "0.1",
        **dict.fromkeys(list(UPDATES)[10:-1], ""),
        "nonfinite": "loss term 'value'",
        "value": "8.0",
        "kl": "0.5",
    }


def test_an_interval_of_skipped_steps_has_no_means(started, tmp_path):
    recorder, run = started(1)
    learn(recorder, run, "a", step(0, math.nan, skipped=True, nonfinite="layer 'head'"))
    learn(recorder, run, "a", step(1))
    recorder.updated(run, {})
    first, second = rows(tmp_path / "updates.csv")
    assert (first["loss"], first["value"], first["grad_norm_max"]) == ("", "", "")
    assert first["skipped"] == "1"
    assert second["value"] == "2.0"


def test_metrics_are_means_over_the_updates_since_the_row_before(started, tmp_path):
    recorder, run = started(2)
    for i in range(4):
        learn(recorder, run, "a", step(i + 1))
        recorder.updated(run, {"q": float(i)})
    assert [row["q"] for row in rows(tmp_path / "updates.csv")] == ["0.5", "2.5"]


def test_gradients_have_a_row_for_each_layer(started, tmp_path):
    recorder, run = started(2)
    record = (np.zeros(3), 3.0, 1)
    learn(recorder, run, "a", step(1, record=record), step(2), step(3), step(4))
    recorder.updated(run, {})
    assert rows(tmp_path / "gradients.csv") == [
        {
            "step": "0",
            "update": "2",
            "learner": "a",
            "layer": layer,
            "grad_norm": norm,
            **dict.fromkeys(list(GRADIENTS)[5:], ""),
            "dormant": d,
        }
        for layer, norm, d in (("trunk.0", "3.0", "0.5"), ("head", "6.0", ""))
    ]
    for name, value in (("cosine", "0.25"), ("td_error_mean", "3.0"), ("value_max", "9.0")):
        assert [row[name] for row in rows(tmp_path / "updates.csv")] == [value, ""]


def test_the_columns_are_those_of_all_learners(started, tmp_path):
    recorder, run = started(2, "actor", "critic")
    learn(recorder, run, "critic", step(1, terms={"td": 1.0}), step(2, terms={"td": 1.0}))
    recorder.updated(run, {})
    assert (tmp_path / "updates.csv").read_text() == ""  # the actor's are not known yet
    for i in range(2):
        learn(recorder, run, "actor", step(i, terms={"policy": 3.0}, scalars={"entropy": 0.5}))
    recorder.updated(run, {})
    critic, actor = rows(tmp_path / "updates.csv")
    assert (critic["td"], critic["policy"], critic["entropy"]) == ("1.0", "", "")
    assert (actor["td"], actor["policy"], actor["entropy"]) == ("", "3.0", "0.5")


def test_a_learner_that_never_learns_holds_nothing_back_for_good(started, tmp_path, monkeypatch):
    monkeypatch.setattr(recorders, "WAIT_FOR", 3)
    recorder, run = started(1, "used", "unused")
    for i in range(3):
        learn(recorder, run, "used", step(i))
        recorder.updated(run, {})
    assert len(rows(tmp_path / "updates.csv")) == 3


def test_a_name_that_turns_up_later_is_an_error(started):
    recorder, run = started(1)
    learn(recorder, run, "a", step(1))
    recorder.updated(run, {"kl": 1.0})
    learn(recorder, run, "a", step(2))
    with pytest.raises(ValueError, match=r"'surprise' is not among the columns of updates\.csv"):
        recorder.updated(run, {"surprise": 1.0})


def test_two_columns_of_one_name_are_an_error(started):
    recorder, run = started(1)
    learn(recorder, run, "a", step(1))
    with pytest.raises(ValueError, match="called 'value'"):
        recorder.updated(run, {"value": 1.0})


def test_rows_stay_bounded(started, tmp_path, monkeypatch):
    monkeypatch.setattr(recorders, "DOUBLE_AFTER", 10)
    recorder, run = started(2)
    for i in range(20 + 40 + 80):
        learn(recorder, run, "a", step(i))
        recorder.updated(run, {})
    updates = [int(row["update"]) for row in rows(tmp_path / "updates.csv")]
    assert np.diff(updates).tolist() == 9 * [2] + 10 * [4] + 10 * [8]


def test_rare_updates_have_a_row_for_each_part_of_the_run(started, tmp_path):
    recorder, run = started(64, "rare")
    run.steps = 20_000  # in 200 parts of 100 steps
    for i, run.agent.steps in enumerate((40, 99, 100, 150, 199, 240, 999), 1):
        learn(recorder, run, "rare", step(i, record=(np.zeros(3), 3.0, i)))
        recorder.updated(run, {"kl": float(i)})
    recorder.ended(run)
    updates = rows(tmp_path / "updates.csv")
    assert [int(row["step"]) for row in updates] == [100, 240, 999]
    assert [int(row["update"]) for row in updates] == [3, 6, 7]
    assert [float(row["kl"]) for row in updates] == [2.0, 5.0, 7.0]
    assert len(rows(tmp_path / "gradients.csv")) == 3 * 2


def test_a_finished_run_writes_its_last_interval(started, tmp_path):
    recorder, run = started(5)
    learn(recorder, run, "a", step(1))
    run.finished = False
    recorder.ended(run)
    assert rows(tmp_path / "updates.csv") == []  # it goes on when it is resumed
    run.finished = True
    recorder.ended(run)
    assert len(rows(tmp_path / "updates.csv")) == 1


def test_a_run_that_failed_shows_the_interval_in_which_it_did(started, tmp_path):
    recorder, run = started(5)
    learn(recorder, run, "a", step(1))
    run.finished, run.failed = False, True
    recorder.ended(run)
    assert len(rows(tmp_path / "updates.csv")) == 1


def test_episodes_and_evaluations(started, tmp_path):
    recorder, run = started()
    for run.agent.steps, run.envs.episodes in (
        (10, [(0, 1.5, 3), (2, 0.1, 4)]),
        (11, []),
        (12, []),
    ):
        recorder.stepped(run, moved(1))
    values = np.array([0.5, 1.5]), np.array([2.0, 3.0])
    recorder.evaluated(run, Evaluation(np.array([1.0, 4.0]), np.array([2, 3]), 0.1, *values))
    assert rows(tmp_path / "episodes.csv") == [
        {"step": "10", "episode": "1", "return": "1.5", "length": "3", "truncated": "0"},
        {"step": "10", "episode": "2", "return": "0.1", "length": "4", "truncated": "1"},
    ]
    assert rows(tmp_path / "evaluations.csv") == [
        {
            "step": "12",
            "episodes": "2",
            "mean_return": "2.5",
            "std_return": "1.5",
            "min_return": "1.0",
            "max_return": "4.0",
            "mean_length": "2.5",
            "discounted_return": "1.0",
            "value_estimate": "2.5",
        }
    ]


@pytest.mark.parametrize("at", range(1, 9))
def test_it_goes_on_from_its_state_as_if_never_stopped(tmp_path, at):
    def play(recorder, run, numbers):
        recorder.started(run)
        for i in numbers:
            run.envs.episodes = [(0, i / 3, i)]
            recorder.stepped(run, moved(i))
            learn(recorder, run, "a", step(i, i / 7, scalars={"kl": i / 3}))
            learn(recorder, run, "a", step(i, i / 9, scalars={"kl": i / 3}))
            if i % 3 == 0:
                recorder.updated(run, {"q": i / 7})

    whole, run = Recorder(tmp_path / "whole", 3), make_run("a")
    play(whole, run, range(1, 10))
    first = Recorder(tmp_path / "parts", 3)
    play(first, run, range(1, at))
    state = join_state(*split_state(first.state_dict()))
    for i in range(at, 10):  # what a killed run wrote after its checkpoint
        learn(first, run, "a", step(i, 99.0))
    first.updated(run, {"q": 99.0})
    first.close()
    second = Recorder(tmp_path / "parts", 3)
    second.load_state_dict(state)
    run.restoring = True
    play(second, run, range(at, 10))
    for recorder in (whole, second):
        recorder.ended(run)
        recorder.close()
    for name in ("updates", "episodes", "gradients", "evaluations"):
        assert rows(tmp_path / "whole" / f"{name}.csv") == rows(tmp_path / "parts" / f"{name}.csv")


def test_numbers_are_written_in_full(tmp_path):
    table = Table(tmp_path / "a.csv")
    table.open()
    table.write([{"x": 0.1 + 0.2, "n": 3, "t": 'a "b", c', "none": math.nan, "i": -math.inf}])
    table.close()
    assert (tmp_path / "a.csv").read_text() == (
        'x,n,t,none,i\n0.30000000000000004,3,"a ""b"", c",,-inf\n'
    )


def test_a_file_shorter_than_at_the_checkpoint_is_an_error(tmp_path):
    table = Table(tmp_path / "a.csv", ("x",))
    table.load_state_dict({"offset": 5, "columns": ["x"]})
    with pytest.raises(CheckpointError, match="shorter"):
        table.open()
    table.close()


def test_a_step_costs_microseconds(started):
    recorder, run = started(10**6)
    learner, one = run.agent.learners["a"], step(1, scalars={"a": 1.0, "b": 2.0, "c": 3.0})
    best = math.inf
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(1000):
            recorder.learned(run, learner, one)
        best = min(best, time.perf_counter() - began)
    assert best / 1000 < 20e-6  # 2 on a quiet machine


def record(folder, steps, env=None, seed=3, checkpoint=None, restore=None):
    tasks = VectorEnv([env or Scripted(5)])
    agent = Tiny(tasks.observation_space, tasks.action_space, seed=seed)
    callbacks = [Recorder(folder), *([checkpoint] if checkpoint else [])]
    train(agent, tasks, steps, callbacks, restore=restore)


def test_a_run_that_no_script_began_is_described(tmp_path):
    record(tmp_path / "x", 32)
    run = read_run(tmp_path / "x")
    assert (run.agent, run.env, run.seed) == ("tiny", "Scripted", 3)
    assert (run.config["steps"], run.config["num_envs"]) == (32, 1)
    assert run.config["config"]["optim"]["lr"] > 0
    assert "torch" in run.config["versions"]
    record(tmp_path / "y", 64, gymnasium.make("CartPole-v1"))
    run = read_run(tmp_path / "y")
    assert (run.env, run.config["steps"]) == ("CartPole-v1", 64)


def test_another_runs_rows_are_not_written_over(tmp_path):
    record(tmp_path, 32)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"holds another run, whose episodes\.csv would be lost"):
        record(tmp_path, 64)
    assert files == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_another_runs_rows_are_not_taken_for_those_of_one_that_is_to_go_on(tmp_path):
    record(tmp_path, 32)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"seed is 4, but the run in .* began with 3"):
        record(tmp_path, 64, seed=4, checkpoint=checkpoint, restore=checkpoint.restore)
    assert files == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_folder_that_another_run_writes_to_is_left_alone(tmp_path):
    class Beside(Callback):
        """Begins another run in the same folder, as another process may."""

        def started(self, run):
            with pytest.raises(ValueError, match=r"episodes\.csv is in use by another run"):
                record(tmp_path, 64, seed=4)

    record(tmp_path, 32, checkpoint=Beside())
    assert len(rows(tmp_path / "episodes.csv")) == 32 // 5
    assert read_run(tmp_path).seed == 3


def test_what_is_refused_for_its_checkpoints_keeps_its_config(tmp_path):
    record(tmp_path, 1, checkpoint=Checkpoint(tmp_path))  # no row yet
    config = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds another run, whose config\.json would be lost"):
        record(tmp_path, 64, seed=4, checkpoint=Checkpoint(tmp_path))
    assert (tmp_path / "config.json").read_bytes() == config


def test_the_files_of_a_run_that_recorded_nothing_are_no_other_run(tmp_path):
    record(tmp_path, 1)
    assert rows(tmp_path / "episodes.csv") == []
    record(tmp_path, 32)
    assert len(rows(tmp_path / "episodes.csv")) == 6


def test_the_same_recorder_goes_on_when_the_agent_is_trained_further(tmp_path):
    tasks = VectorEnv([Scripted(5)])
    agent, recorder = Tiny(tasks.observation_space, tasks.action_space), Recorder(tmp_path)
    for steps in (10, 20):
        train(agent, tasks, steps, [recorder])
    assert [row["step"] for row in rows(tmp_path / "episodes.csv")] == ["5", "10", "15", "20"]


@pytest.mark.parametrize(
    "text", ["{", "[]", json.dumps({"agent": "ppo", "env": "x", "seed": 1, "command": "python"})]
)
def test_a_config_that_somebody_else_wrote_is_kept(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    record(tmp_path, 16)
    assert (tmp_path / "config.json").read_text() == text
