"""scripts/evaluate.py: from a run's folder or a file, and what it refuses."""

import shutil
import sys
from dataclasses import replace
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

import envs
from agents import PPO, Checkpoint, Recorder, Run, load, train
from agents.actor_critic.a2c import A2C
from agents.core.manifest import agent_file
from agents.runner import cli
from envs.vector import VectorEnv
from scripts import evaluate
from tests.contract.support import small
from tests.runner.fakes import Scripted

SHORT = ["--env", "CartPole-v1", "--steps", "400", "--eval-episodes", "2", "--no-progress"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a short run."""
    path = tmp_path_factory.mktemp("evaluate") / "run"
    assert cli.main(A2C, [*SHORT, "--out", str(path)]) == 0
    return path


@pytest.fixture
def run(capsys, monkeypatch):
    """run(*arguments) -> (exit code, stdout, stderr)."""

    def run(*arguments):
        code = evaluate.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def test_a_run_or_a_file_is_evaluated_the_same(run, folder):
    code, out, err = run(folder, "--episodes", "3")
    assert (code, err) == (0, "")
    assert out.startswith("evaluation: mean_return=")
    assert out.endswith(" episodes=3\n")
    assert run(agent_file(folder), "--env", "CartPole-v1", "--episodes", "3")[1] == out
    assert run(folder, "--best", "--episodes", "3", "--seed", "5")[0] == 0


def test_the_environment_can_be_made_otherwise(run, folder):
    shorter = ["--env-options", "max_episode_steps=4"]
    for path in (folder, agent_file(folder)):
        out = run(path, "--env", "CartPole-v1", "--episodes", "3", *shorter)[1]
        assert out.startswith("evaluation: mean_return=4.00 std=0.00")
    refused(run(folder, "--env-options", "gravity=1"), "gravity")
    refused(run(folder, "--env-options", "num_envs=3"), "num_envs is no option")


def test_a_video_is_recorded(run, folder, tmp_path):
    pytest.importorskip("pygame")
    pytest.importorskip("moviepy")
    code, out, err = run(folder, "--episodes", "1", "--video", tmp_path / "a.mp4")
    assert (code, err) == (0, "")
    assert out.startswith("evaluation: ")
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def refused(result, message):
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.startswith("evaluate.py: ")
    assert err.count("\n") == 1
    assert message in err


def test_bad_input_is_one_clear_line(run, folder, tmp_path):
    file = agent_file(folder)
    torch.save({}, tmp_path / "other.pt")
    refused(run(), "PATH")
    for more in ([], ["--env", "CartPole-v1"]):
        refused(run(tmp_path / "nothing", *more), "nothing does not exist: give a run's folder")
    refused(run(tmp_path), "not a run's folder")
    refused(run(tmp_path / "other.pt", "--env", "CartPole-v1"), "torch.save")
    refused(run(file), "give --env")
    refused(run(file, "--env", "CartPole-v1", "--best"), "--best")
    refused(run(folder, "--env", "CartPol-v1"), "CartPol")
    refused(run(folder, "--env", "Acrobot-v1"), "the environment")
    (tmp_path / "b.mp4").mkdir()
    video = ["--video", tmp_path / "a.mp4"]
    refused(run(folder, "--episodes", "0", *video), "--episodes is 0")
    refused(run(folder, "--max-episode-steps", "0", *video), "--max-episode-steps is 0")
    refused(run(folder, "--seed", "-1", *video), "--seed is -1")
    assert not (tmp_path / "a.mp4").exists()
    refused(run(folder, "--video", tmp_path / "a.gif"), ".mp4")
    refused(run(folder, "--video", tmp_path / "b.mp4"), ".mp4")
    refused(run(folder, "--video", tmp_path / "no" / "a.mp4"), "no folder")


@pytest.mark.parametrize("config", ["{}", "[]", '{"agent": "a2c", "env": 3, "seed": 0}', "{"])
def test_a_damaged_config_is_one_clear_line(run, folder, tmp_path, config):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(config)
    refused(run(tmp_path / "run"), "config.json")


@pytest.mark.parametrize("package", ["moviepy", "pygame"])
def test_a_missing_extra_is_named(run, folder, tmp_path, monkeypatch, package):
    pytest.importorskip("pygame")
    pytest.importorskip("moviepy")
    monkeypatch.setitem(sys.modules, package, None)
    result = run(folder, "--video", tmp_path / "a.mp4")
    refused(result, f"--video needs {package}: pip install 'chainrule[envs]'")


class Undrawn(CartPoleEnv):
    render = gymnasium.Env.render


class DrawnBlank(CartPoleEnv):
    def render(self):
        return None


class WithoutModes(CartPoleEnv):
    def __init__(self):  # which knows of no render_mode
        super().__init__()
        self.metadata = {"render_modes": []}


@pytest.mark.parametrize("made", [Undrawn, DrawnBlank, WithoutModes])
def test_a_video_of_what_draws_no_picture_is_refused(run, folder, tmp_path, monkeypatch, made):
    spec = gymnasium.spec("CartPole-v1")
    monkeypatch.setitem(gymnasium.registry, spec.id, replace(spec, entry_point=made))
    result = run(folder, "--video", tmp_path / "a.mp4")
    refused(result, "--video needs pictures, and CartPole-v1 draws none")
    assert list(tmp_path.iterdir()) == []


def test_a_module_is_imported_for_the_environment(run, folder, tmp_path):
    env = "gymnasium.envs.classic_control:CartPole-v1"
    assert run(folder, "--episodes", "1", "--env", env) == run(folder, "--episodes", "1")


def left_by_the_library(folder, tasks, agent=PPO):
    """The folder of a run that trained in `tasks`."""
    made = small(agent, tasks)
    train(made, tasks, 64, [Recorder(folder), Checkpoint(folder)])
    return folder


def test_a_run_of_the_library_is_evaluated_in_the_environment_it_was_trained_in(run, tmp_path):
    """In a lake of two rows, where without ice the first step down ends an episode."""
    lake: dict[str, Any] = {"desc": ["SFF", "GGG"], "is_slippery": False, "max_episode_steps": 7}
    folder = left_by_the_library(tmp_path / "run", envs.make("FrozenLake-v1", 2, **lake))
    agent: Any = load(folder)
    with torch.no_grad():
        agent.network.heads["policy"].bias[:] = torch.tensor([-99.0, 99.0, -99.0, -99.0])
    Checkpoint(folder).write(Run(agent, envs.make("FrozenLake-v1", 2, **lake), 128))
    code, out, err = run(folder)
    assert (code, err) == (0, "")
    assert out == "evaluation: mean_return=1.00 std=0.00 episodes=20\n"
    refused(run(folder, "--env", "FrozenLake-v1"), "the agent maps Discrete(6)")


def test_an_environment_that_only_a_program_can_make_is_asked_for(run, tmp_path):
    wrapped = gymnasium.wrappers.TransformReward(gymnasium.make("CartPole-v1"), float)
    folder = left_by_the_library(tmp_path / "wrapped", VectorEnv(wrapped))
    refused(run(folder), "CartPole-v1, was made by a program")
    refused(run(folder), "give --env")
    assert run(folder, "--env", "CartPole-v1")[0] == 0
    folder = left_by_the_library(tmp_path / "own", VectorEnv(Scripted(5)))
    refused(run(folder), "Scripted, was made by a program: it is not registered")


def test_ctrl_c_is_no_traceback(run, folder, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "evaluate", interrupted)
    assert run(folder) == (130, "", "")
