"""The number of threads is measured on a copy: nothing else of the run changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import envs
from agents import DQN, PPO, DQNConfig, PPOConfig, load
from agents.runner import cli, threads
from agents.runner.threads import choose_threads, early, fastest
from tests.contract.support import bits

RUN = ["--env", "CartPole-v1", "--steps", "1500", "--no-preset", "--no-progress"]


@pytest.fixture(autouse=True)
def as_it_was() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 1.0, 2: 1.1, 4: 1.5}, 1),
        ({1: 1.0, 2: 0.6, 4: 0.3}, 4),
        ({1: 1.0, 2: 0.6, 4: 0.59}, 2),  # not worth two more
        ({1: 1.0, 2: 0.97}, 1),
        ({1: 1.0, 2: 1.2, 4: 0.8}, 4),
    ],
)
def test_more_threads_have_to_be_worth_it(seconds: dict[int, float], best: int) -> None:
    assert fastest(seconds) == best


def test_what_is_hopelessly_slow_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", tried.append)
    monkeypatch.setattr(threads, "_seconds", lambda *_: {1: 1.0, 2: 30.0, 4: 0.9}[tried[-1]])

    def make() -> Any:
        tasks = envs.make("CartPole-v1", 4)
        config = PPOConfig(rollout_size=16)
        return tasks, PPO(tasks.observation_space, tasks.action_space, config)

    assert choose_threads(make, most=4) == 4
    assert tried == [1, 1, 2, 4] + [1, 4] * (threads.ROUNDS - 1) + [4]


def test_a_measurement_ends_and_sets_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SECONDS", 0.01)
    monkeypatch.setattr(threads, "HOPELESS", float("inf"))  # who knows what else runs here
    tried: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", tried.append)

    def make() -> Any:
        tasks = envs.make("CartPole-v1", 4)
        config = early(DQNConfig(learning_starts=10**9))
        return tasks, DQN(tasks.observation_space, tasks.action_space, config)

    found = choose_threads(make, most=3)
    assert tried == [1] + [1, 2, 3] * threads.ROUNDS + [found]
    assert found in (1, 2, 3)
    assert choose_threads(make, most=1) == 1


def test_a_measurement_plays_one_rollout_and_ends_when_its_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "SECONDS", 0.01)
    monkeypatch.setattr(threads, "PATIENCE", 0.0)
    tried: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", tried.append)
    tasks = envs.make("CartPole-v1", 4)
    agent = PPO(tasks.observation_space, tasks.action_space, PPOConfig(rollout_size=64, epochs=1))
    assert choose_threads(lambda: (tasks, agent), most=8) == 1
    assert agent.steps == 64
    assert agent.learner.updates > 0
    assert tried == [1, 1, 1]


def test_a_run_says_how_many_there_were_and_is_otherwise_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "SECONDS", 0.01)
    monkeypatch.setattr(threads, "fastest", min)  # two are slow where the machine is busy
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train_dqn.py"])
    assert cli.main(DQN, [*RUN, "--threads", "auto", "--out", "auto"]) == 0
    said = capsys.readouterr().err
    found = json.loads((tmp_path / "auto/config.json").read_text())["threads"]
    assert f"threads: {found}, by measurement" in said
    assert cli.main(DQN, [*RUN, "--threads", str(found), "--out", "given"]) == 0
    one, other = (load(tmp_path / name) for name in ("auto", "given"))
    assert bits(one.state_dict()) == bits(other.state_dict())
    # It is not measured again where the run goes on.
    monkeypatch.setattr("agents.runner.cli.choose_threads", None)
    assert cli.main(DQN, [*RUN, "--threads", "auto", "--out", "auto", "--resume"]) == 0


def test_what_is_no_number_of_threads_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("0", "many"):
        assert cli.main(DQN, [*RUN, "--threads", wrong]) == 2
        assert "--threads" in capsys.readouterr().err
